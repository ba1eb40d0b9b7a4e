"""Rounding to int8: what each weight may lose, and what looking at the inputs is worth."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_exports import seeded
from torch import Tensor, nn

from tofe_edge.converters.quantize import Int8Plan, Int8Weights, PaletteWeights, Statistics, int8_layer
from tofe_edge.converters.rounding import LIMIT, round_to_nearest, round_with_gram, to_palette

SEEDS = st.integers(0, 2**16)


def weights(outputs: int, inputs: int, seed: int) -> Tensor:
    return torch.randn(outputs, inputs, generator=seeded(seed))


def correlated(features: int, samples: int, seed: int, rank: int = 4) -> Tensor:
    """Inputs ``(features, samples)`` that are mostly a mixture of few sources, as a net's activations are."""
    generator = seeded(seed + 1)
    sources = torch.randn(rank, samples, generator=generator, dtype=torch.float64)
    mixture = torch.randn(features, rank, generator=generator, dtype=torch.float64)
    return mixture @ sources + 0.1 * torch.randn(features, samples, generator=generator, dtype=torch.float64)


def values(rounded: tuple[Tensor, Tensor]) -> Tensor:
    codes, scale = rounded
    return codes.double() * scale.double().view(-1, *[1] * (codes.dim() - 1))


def output_error(weight: Tensor, rounded: tuple[Tensor, Tensor], inputs: Tensor) -> float:
    return float(torch.linalg.norm((weight.double() - values(rounded)) @ inputs))


@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 9), st.integers(1, 33)),
        st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    ),
    seed=SEEDS,
    magnitude=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_nearest_is_off_by_half_a_step_at_most(shape: tuple[int, ...], seed: int, magnitude: float) -> None:
    weight = magnitude * torch.randn(shape, generator=seeded(seed))
    codes, scale = round_to_nearest(weight)
    assert codes.dtype == torch.int8 and codes.shape == weight.shape
    assert scale.dtype == torch.float32 and scale.shape == shape[:1]
    assert int(codes.abs().max()) <= LIMIT
    half = scale.double().view(-1, *[1] * (len(shape) - 1)) / 2
    assert bool(((values((codes, scale)) - weight.double()).abs() <= half * (1 + 1e-4)).all())


@given(seed=SEEDS)
def test_nearest_gives_the_largest_weight_the_largest_code(seed: int) -> None:
    codes, _ = round_to_nearest(weights(4, 7, seed))
    assert codes.abs().amax(1).tolist() == [LIMIT] * 4


@pytest.mark.parametrize("with_gram", [False, True])
def test_rows_of_zeros_stay_zero(with_gram: bool) -> None:
    weight = weights(3, 5, 0)
    weight[1] = 0
    inputs = correlated(5, 20, 0)
    codes, scale = round_with_gram(weight, inputs @ inputs.T) if with_gram else round_to_nearest(weight)
    assert codes[1].tolist() == [0] * 5
    assert float(scale[1]) >= torch.finfo(torch.float32).tiny
    assert bool(torch.isfinite(scale).all())


def test_what_a_block_leaves_over_reaches_the_columns_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs = weights(5, 150, 0), correlated(150, 400, 0)
    in_blocks = round_with_gram(weight, inputs @ inputs.T)
    monkeypatch.setattr("tofe_edge.converters.rounding._BLOCK", 150)
    column_by_column = round_with_gram(weight, inputs @ inputs.T)
    # The products add up in another order: a weight in the middle of two steps may go either way.
    assert (in_blocks[0] != column_by_column[0]).float().mean() < 0.01


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("samples", [200, 8], ids=["many samples", "few samples"])
def test_a_gram_matrix_brings_the_output_closer(seed: int, samples: int) -> None:
    weight, inputs = weights(24, 32, seed), correlated(32, samples, seed)
    nearest = output_error(weight, round_to_nearest(weight), inputs)
    # Measured: a third of it and less.
    assert output_error(weight, round_with_gram(weight, inputs @ inputs.T), inputs) < 0.6 * nearest


@given(inputs=st.integers(1, 24), samples=st.integers(1, 40), seed=SEEDS)
def test_codes_with_a_gram_matrix_are_int8_and_finite(inputs: int, samples: int, seed: int) -> None:
    weight, sample = weights(5, inputs, seed), correlated(inputs, samples, seed)
    codes, scale = round_with_gram(weight, sample @ sample.T)
    assert codes.dtype == torch.int8 and codes.shape == weight.shape
    assert scale.dtype == torch.float32 and scale.shape == (5,)
    assert int(codes.abs().max()) <= LIMIT
    assert bool(torch.isfinite(scale).all()) and float(scale.min()) > 0


@given(seed=SEEDS, loudness=st.sampled_from([1e-4, 1.0, 1e6]))
def test_independent_inputs_leave_nothing_to_make_up_for(seed: int, loudness: float) -> None:
    """Then each weight goes to the nearest step of a scale that is no worse than the one of the largest weight."""
    weight = weights(6, 20, seed)
    codes, scale = round_with_gram(weight, loudness * torch.eye(20))
    wanted = (weight.double() / scale.double()[:, None]).round().clamp(-LIMIT, LIMIT)
    assert int((codes.double() - wanted).abs().max()) <= 1
    assert int((codes.double() != wanted).sum()) <= 1, "the scale is rounded to float32: a weight halfway may turn"
    error = (values((codes, scale)) - weight.double()).square().sum(1)
    nearest = (values(round_to_nearest(weight)) - weight.double()).square().sum(1)
    assert bool((error <= nearest * (1 + 1e-6)).all())


def test_one_sample_is_enough() -> None:
    weight, inputs = weights(6, 16, 0), correlated(16, 1, 0)
    rounded = round_with_gram(weight, inputs @ inputs.T)
    assert output_error(weight, rounded, inputs) < output_error(weight, round_to_nearest(weight), inputs)


def test_columns_whose_input_is_always_zero_are_rounded_too() -> None:
    weight, inputs = weights(6, 16, 0), correlated(16, 100, 0)
    inputs[[3, 9]] = 0
    rounded = round_with_gram(weight, inputs @ inputs.T)
    assert output_error(weight, rounded, inputs) < output_error(weight, round_to_nearest(weight), inputs)
    nobody_knows = (values(rounded) - weight.double())[:, [3, 9]].abs()
    # Clipping may take a fifth of the largest weight.
    assert bool((nobody_knows <= 0.25 * weight.abs().amax(1)[:, None]).all())


def test_inputs_that_are_all_zero_are_fine() -> None:
    weight = weights(3, 5, 0)
    rounded = round_with_gram(weight, torch.zeros(5, 5))
    assert float((values(rounded) - weight.double()).abs().max()) < 0.05


@pytest.mark.parametrize("silent", [[], [3, 8]], ids=["all columns used", "two silent columns"])
@pytest.mark.parametrize("loudness", [1e-6, 1e6])
def test_how_loud_the_inputs_are_changes_no_code(loudness: float, silent: list[int]) -> None:
    """Only their proportions say anything: half the volume, or half the images, is the same layer."""
    weight, inputs = weights(8, 12, 0), torch.randn(12, 50, generator=seeded(1), dtype=torch.float64)
    weight[:, silent] *= 3
    inputs[silent] = 0
    gram = inputs @ inputs.T
    wanted, found = round_with_gram(weight, gram), round_with_gram(weight, loudness * gram)
    assert torch.equal(found[1], wanted[1]) and torch.equal(found[0], wanted[0])


def test_rounding_is_deterministic_and_leaves_its_arguments_alone() -> None:
    weight, inputs = weights(6, 16, 0), correlated(16, 50, 0)
    gram = inputs @ inputs.T
    gram[5] = gram[:, 5] = 0
    before = weight.clone(), gram.clone()
    for rounding in (lambda: round_to_nearest(weight), lambda: round_with_gram(weight, gram)):
        first, second = rounding(), rounding()
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert torch.equal(weight, before[0]) and torch.equal(gram, before[1])


@given(st.integers(1, 6), st.integers(0, 1000))
def test_a_palette_has_at_most_as_many_values_and_half_precision_holds_them(bits: int, seed: int) -> None:
    weight = weights(24, 32, seed)
    found = to_palette(weight, bits)
    assert len(found.unique()) <= 2**bits
    assert torch.equal(found, found.half().float())
    assert found.shape == weight.shape


@given(st.integers(1, 5), st.integers(0, 1000))
def test_each_weight_goes_to_the_nearest_value(bits: int, seed: int) -> None:
    weight = weights(24, 32, seed)
    found = to_palette(weight, bits)
    palette = found.unique()
    nearest = (weight.flatten()[:, None] - palette).abs().amin(1)
    assert torch.allclose((weight - found).abs().flatten(), nearest, atol=1e-6)


def test_weights_that_are_a_palette_already_stay() -> None:
    weight, constant = torch.tensor([[-1.0, 0.5], [0.5, 2.0], [2.0, -1.0]]), torch.full((4, 5), 0.25)
    assert torch.equal(to_palette(weight, 2), weight) and torch.equal(to_palette(constant, 4), constant)


def test_one_more_bit_halves_the_error_at_least() -> None:
    weight = weights(64, 64, 3)
    errors = [float((weight - to_palette(weight, bits)).square().mean().sqrt()) for bits in range(2, 7)]
    assert all(after < 0.65 * before for before, after in pairwise(errors))


def test_knowing_the_inputs_makes_the_outputs_better() -> None:
    layer = nn.Linear(32, 24)
    generator = torch.Generator().manual_seed(0)
    layer.weight = nn.Parameter(weights(24, 32, 5))
    mixing = torch.randn(32, 32, generator=generator)
    x = torch.randn(4096, 32, generator=generator) @ mixing
    gram = x.double().T @ x.double()
    errors = [
        float((x @ (layer.weight.detach() - to_palette(layer.weight, 3, given)).T).square().mean())
        for given in (None, gram)
    ]
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_plan_with_palette_bits_makes_palette_layers(kind: str) -> None:
    layer = nn.Linear(12, 8) if kind == "linear" else nn.Conv2d(3, 8, 4, stride=4)
    x = torch.randn(2, 5, 12) if kind == "linear" else torch.randn(2, 3, 16, 16)
    plan = Int8Plan("weights", frozenset({"layer"}), palette_bits=6)
    replaced = int8_layer("layer", layer, plan, Statistics({}, {}, {}))
    (weights_,) = [module for module in replaced.modules() if isinstance(module, (PaletteWeights, Int8Weights))]
    assert isinstance(weights_, PaletteWeights)
    with torch.no_grad():
        assert torch.allclose(replaced(x), layer(x), atol=0.05)
        assert not torch.equal(replaced(x), layer(x))
