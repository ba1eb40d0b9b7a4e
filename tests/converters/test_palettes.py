"""Weights from palettes: few values, near the weights, and better for the layer's inputs than nearest ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tofe_edge.converters.int8 import Int8Weights
from tofe_edge.converters.palettes import PaletteWeights, to_palette
from tofe_edge.converters.quantize import Int8Plan, Statistics, int8_layer


def weights(seed: int, rows: int = 24, columns: int = 32) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 6), st.integers(0, 1000))
def test_a_palette_has_at_most_as_many_values_and_half_precision_holds_them(bits: int, seed: int) -> None:
    weight = weights(seed)
    found = to_palette(weight, bits)
    assert len(found.unique()) <= 2**bits
    assert torch.equal(found, found.half().float())
    assert found.shape == weight.shape


@given(st.integers(1, 5), st.integers(0, 1000))
def test_without_inputs_each_weight_goes_to_the_nearest_value(bits: int, seed: int) -> None:
    weight = weights(seed)
    found = to_palette(weight, bits)
    palette = found.unique()
    nearest = (weight.flatten()[:, None] - palette).abs().amin(1)
    assert torch.allclose((weight - found).abs().flatten(), nearest, atol=1e-6)


def test_weights_that_are_a_palette_already_stay() -> None:
    weight = torch.tensor([[-1.0, 0.5], [0.5, 2.0], [2.0, -1.0]])
    assert torch.equal(to_palette(weight, 2), weight)


def test_a_constant_weight_stays() -> None:
    assert torch.equal(to_palette(torch.full((4, 5), 0.25), 4), torch.full((4, 5), 0.25))


def test_one_more_bit_halves_the_error_at_least() -> None:
    weight = weights(3, 64, 64)
    errors = [float((weight - to_palette(weight, bits)).square().mean().sqrt()) for bits in range(2, 7)]
    assert all(after < 0.65 * before for before, after in pairwise(errors))


def test_knowing_the_inputs_makes_the_outputs_better() -> None:
    layer = nn.Linear(32, 24)
    generator = torch.Generator().manual_seed(0)
    layer.weight = nn.Parameter(weights(5))
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
