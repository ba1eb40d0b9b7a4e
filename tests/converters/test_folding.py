"""Each folding equals the computation it replaces, on random layers."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_exports import seeded
from torch import Tensor, nn

from tofe_edge.converters.folding import (
    centre_convolution,
    centre_output,
    centre_rows,
    convolution_as_linear,
    difference_of_outputs,
    fold_batch_norm,
    fold_norm,
    make_linear,
    scale_output,
    weight_and_bias,
)

WIDTHS = st.integers(1, 33)
SEEDS = st.integers(0, 2**16)
BATCH = 4
"""Rows that each layer is tried on."""

random_layers = settings(max_examples=40, deadline=None)


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """Every parameter and running mean drawn from N(0, 1), every running variance from U(0.1, 2)."""
    generator = seeded(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_var is not None
                part.running_var.copy_(0.1 + 1.9 * torch.rand(part.running_var.shape, generator=generator))
    return module.eval()


def linear(inputs: int, outputs: int, seed: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    randomised(layer, seed)
    return layer


def rows(width: int, seed: int) -> Tensor:
    return torch.randn(BATCH, width, dtype=torch.float64, generator=seeded(seed + 1))


def run_in_float64(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's float32 numbers, computed with in float64; the layer itself stays as it is."""
    state = {key: value.double() if value.is_floating_point() else value for key, value in layer.state_dict().items()}
    out: Tensor = torch.func.functional_call(layer, state, (x,))
    return out


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """To 1e-6 of the largest value (of 1 where all are smaller): folded weights are rounded to float32 once."""
    assert float((found - wanted).abs().max()) <= 1e-6 * max(1.0, float(wanted.abs().max()))


@random_layers
@given(inputs=st.integers(2, 33), outputs=WIDTHS, seed=SEEDS, bias=st.booleans())
def test_fold_norm_equals_the_norm_and_its_layer(inputs: int, outputs: int, seed: int, bias: bool) -> None:
    norm = nn.LayerNorm(inputs)
    randomised(norm, seed + 2)
    layer, x = linear(inputs, outputs, seed, bias), rows(inputs, seed)
    plain = torch.nn.functional.layer_norm(x, (inputs,), eps=norm.eps)
    assert_close(run_in_float64(fold_norm(norm, layer), plain), run_in_float64(layer, run_in_float64(norm, x)))


def test_fold_norm_of_a_norm_without_affine_part_is_the_layer_itself() -> None:
    layer = linear(5, 3, 0)
    folded = fold_norm(nn.LayerNorm(5, elementwise_affine=False), layer)
    assert torch.equal(folded.weight, layer.weight) and torch.equal(folded.bias, layer.bias)


@random_layers
@given(inputs=WIDTHS, outputs=WIDTHS, seed=SEEDS, bias=st.booleans(), factor=st.none() | st.floats(-4, 4))
def test_scale_output_by_one_or_many(inputs: int, outputs: int, seed: int, bias: bool, factor: float | None) -> None:
    layer, x = linear(inputs, outputs, seed, bias), rows(inputs, seed)
    gamma = torch.randn(outputs, generator=seeded(seed + 3)) if factor is None else factor
    wanted = (gamma.double() if isinstance(gamma, Tensor) else gamma) * run_in_float64(layer, x)
    assert_close(run_in_float64(scale_output(layer, gamma), x), wanted)


def less_its_mean(x: Tensor, axis: int) -> Tensor:
    return x - x.mean(axis, keepdim=True)


@random_layers
@given(inputs=WIDTHS, outputs=WIDTHS, seed=SEEDS, bias=st.booleans())
def test_centre_output_is_the_output_less_its_mean(inputs: int, outputs: int, seed: int, bias: bool) -> None:
    layer, x = linear(inputs, outputs, seed, bias), rows(inputs, seed)
    found = run_in_float64(centre_output(layer), x)
    assert_close(found, less_its_mean(run_in_float64(layer, x), 1))
    assert float(found.mean(1).abs().max()) < 1e-5


@random_layers
@given(inputs=st.integers(2, 33), outputs=WIDTHS, seed=SEEDS)
def test_centring_after_scaling_each_output(inputs: int, outputs: int, seed: int) -> None:
    """As a block's last Linear is folded: LayerScale's factors first, then the mean of what they leave."""
    layer, x = linear(inputs, outputs, seed), rows(inputs, seed)
    gamma = torch.randn(outputs, generator=seeded(seed + 3))
    wanted = less_its_mean(gamma.double() * run_in_float64(layer, x), 1)
    assert_close(run_in_float64(centre_output(scale_output(layer, gamma)), x), wanted)


CONVOLUTIONS = st.builds(
    lambda inputs, outputs, kernel, **how: nn.Conv2d(inputs, outputs, kernel, **how),
    *(st.integers(1, most) for most in (4, 6, 4)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    bias=st.booleans(),
)


def images_for(conv: nn.Conv2d, seed: int) -> Tensor:
    return torch.randn(2, conv.in_channels, 9, 8, dtype=torch.float64, generator=seeded(seed + 1))


@random_layers
@given(CONVOLUTIONS, SEEDS)
def test_centre_convolution_is_the_output_less_the_mean_of_its_channels(conv: nn.Conv2d, seed: int) -> None:
    randomised(conv, seed)
    images = images_for(conv, seed)
    found = run_in_float64(centre_convolution(conv), images)
    assert_close(found, less_its_mean(run_in_float64(conv, images), 1))


@random_layers
@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 5), WIDTHS), seed=SEEDS, far=st.sampled_from([0.0, 1e3]))
def test_centre_rows_takes_each_row_s_mean(shape: tuple[int, int, int], seed: int, far: float) -> None:
    tokens = torch.randn(shape, generator=seeded(seed)) + far
    found = centre_rows(tokens)
    assert found.dtype == torch.float32 and found.is_contiguous()
    assert_close(found.double(), less_its_mean(tokens.double(), -1))


@random_layers
@given(
    channels=st.tuples(st.integers(1, 4), WIDTHS),
    kernel=st.integers(1, 5),
    patches=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bias=st.booleans(),
    seed=SEEDS,
)
def test_a_convolution_without_overlap_is_a_linear_on_patches(
    channels: tuple[int, int], kernel: int, patches: tuple[int, int], bias: bool, seed: int
) -> None:
    conv = nn.Conv2d(*channels, kernel, stride=kernel, bias=bias)
    randomised(conv, seed)
    height, width = (kernel * number for number in patches)
    image = torch.randn(2, channels[0], height, width, dtype=torch.float64, generator=seeded(seed + 1))
    flat = nn.functional.unfold(image, kernel, stride=kernel).transpose(1, 2)
    wanted = run_in_float64(conv, image).flatten(2).transpose(1, 2)
    assert_close(run_in_float64(convolution_as_linear(conv), flat), wanted)


@pytest.mark.parametrize("overlap", [{"stride": 1}, {"stride": 2, "padding": 1}])
def test_a_convolution_with_overlap_is_no_linear(overlap: dict[str, int]) -> None:
    with pytest.raises(AssertionError, match="overlap"):
        convolution_as_linear(nn.Conv2d(3, 4, 2, **overlap))  # type: ignore[arg-type]


@random_layers
@given(inputs=WIDTHS, outputs=st.integers(2, 9), seed=SEEDS, data=st.data())
def test_difference_of_outputs(inputs: int, outputs: int, seed: int, data: st.DataObject) -> None:
    first, second = data.draw(st.permutations(range(outputs)))[:2]
    layer, x = linear(inputs, outputs, seed), rows(inputs, seed)
    both = run_in_float64(layer, x)
    found = run_in_float64(difference_of_outputs(layer, first, second), x)
    assert_close(found, (both[:, first] - both[:, second])[:, None])
    assert found.shape == (BATCH, 1)


@random_layers
@given(CONVOLUTIONS, SEEDS)
def test_fold_batch_norm_equals_the_convolution_and_its_norm(conv: nn.Conv2d, seed: int) -> None:
    norm = nn.BatchNorm2d(conv.out_channels)
    randomised(nn.Sequential(conv, norm), seed)
    images = images_for(conv, seed)
    wanted = run_in_float64(norm, run_in_float64(conv, images))
    found = run_in_float64(fold_batch_norm(conv, norm), images)
    assert found.shape == wanted.shape
    assert_close(found, wanted)


def test_a_missing_bias_counts_as_zero() -> None:
    weight, bias = weight_and_bias(linear(3, 2, 0, bias=False))
    assert weight.dtype == bias.dtype == torch.float64
    assert torch.equal(bias, torch.zeros(2, dtype=torch.float64))


def test_make_linear_keeps_the_numbers() -> None:
    weight, bias = torch.randn(3, 2, generator=seeded(0)), torch.randn(3, generator=seeded(1))
    layer = make_linear(weight.double(), bias.double())
    assert torch.equal(layer.weight, weight) and torch.equal(layer.bias, bias)
    assert not layer.weight.requires_grad


FOLDINGS: dict[str, Callable[[nn.Linear, nn.LayerNorm, nn.Conv2d, nn.BatchNorm2d, Tensor], Tensor | nn.Module]] = {
    "norm": lambda layer, norm, conv, batch_norm, factors: fold_norm(norm, layer),
    "scale": lambda layer, norm, conv, batch_norm, factors: scale_output(layer, 2.0),
    "scale each": lambda layer, norm, conv, batch_norm, factors: scale_output(layer, factors),
    "centre": lambda layer, norm, conv, batch_norm, factors: centre_output(layer),
    "centre convolution": lambda layer, norm, conv, batch_norm, factors: centre_convolution(conv),
    "centre rows": lambda layer, norm, conv, batch_norm, factors: centre_rows(factors),
    "linear": lambda layer, norm, conv, batch_norm, factors: convolution_as_linear(conv),
    "difference": lambda layer, norm, conv, batch_norm, factors: difference_of_outputs(layer, 0, 1),
    "batch norm": lambda layer, norm, conv, batch_norm, factors: fold_batch_norm(conv, batch_norm),
}


@pytest.mark.parametrize("fold", FOLDINGS)
def test_foldings_leave_their_arguments_alone(fold: str) -> None:
    layer, norm = linear(4, 4, 0), nn.LayerNorm(4)
    conv, batch_norm = nn.Conv2d(2, 3, 2, stride=2), nn.BatchNorm2d(3)
    modules = nn.ModuleList([layer, norm, conv, batch_norm])
    randomised(modules, 1)
    factors = torch.randn(4, generator=seeded(2))
    factors_before = factors.clone()
    before = {key: value.clone() for key, value in modules.state_dict().items()}
    folded = FOLDINGS[fold](layer, norm, conv, batch_norm, factors)
    for tensor in (folded,) if isinstance(folded, Tensor) else folded.parameters():
        tensor.data.fill_(7)
    assert all(torch.equal(value, before[key]) for key, value in modules.state_dict().items())
    assert torch.equal(factors, factors_before)
