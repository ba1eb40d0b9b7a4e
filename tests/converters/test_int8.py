"""Int8 layers in PyTorch: how far quantizers may be off, and how near a quantized layer stays to its float layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tofe_edge.converters.int8 import DynamicInput, Int8Weights, StaticRange
from tofe_edge.converters.quantize import Int8Mode, Int8Plan, Statistics, int8_layer
from tofe_edge.evaluation.parity import snr_db

SEEDS = st.integers(0, 2**16)
MAGNITUDES = st.sampled_from([1e-3, 1.0, 1e3])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 33)),
    seed=SEEDS,
    magnitude=MAGNITUDES,
    shift=st.sampled_from([-3.0, 0.0, 3.0]),
)
def test_dynamic_input_is_off_by_a_step_of_its_own_token(
    shape: tuple[int, int, int], seed: int, magnitude: float, shift: float
) -> None:
    x = magnitude * (torch.randn(shape, generator=seeded(seed)) + shift)
    # One loud token: it must not cost the others.
    x[0, 0] *= 100
    found = DynamicInput()(x)
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    step = (high - low) / 255
    # Half a step by rounding, up to another half at the ends of the range, where the zero point was rounded.
    assert bool(((found - x).abs() <= step * 1.001 + 1e-12).all())


def test_dynamic_input_quantizes_each_token_alone() -> None:
    tokens = torch.randn(1, 4, 8, generator=seeded(0))
    together = DynamicInput()(tokens)
    apart = torch.cat([DynamicInput()(tokens[:, [index]]) for index in range(4)], dim=1)
    assert torch.equal(together, apart)
    assert all(len(row.unique()) > 4 for row in together[0])


def test_dynamic_input_keeps_tokens_of_zeros() -> None:
    assert torch.equal(DynamicInput()(torch.zeros(1, 2, 5)), torch.zeros(1, 2, 5))


@given(low=st.floats(-1e3, 1e3), width=st.floats(1e-3, 1e3), seed=SEEDS)
def test_static_range_is_off_by_a_step_within_its_range_and_clips_outside(low: float, width: float, seed: int) -> None:
    high = low + width
    quantizer = StaticRange(low, high)
    step = quantizer.scale
    least, most = min(low, 0.0), max(high, 0.0)
    assert step == pytest.approx((most - least) / 255)
    inside = low + width * torch.rand(50, generator=seeded(seed))
    assert float((quantizer(inside) - inside).abs().max()) <= 1.001 * step
    below, above = quantizer(torch.tensor([least - 10 * width, most + 10 * width])).tolist()
    assert below == pytest.approx(least, abs=1.001 * step)
    assert above == pytest.approx(most, abs=1.001 * step)


@pytest.mark.parametrize("bounds", [(-1.0, 2.0), (3.0, 5.0), (-5.0, -3.0), (0.0, 0.0)])
def test_static_range_covers_zero_exactly(bounds: tuple[float, float]) -> None:
    quantizer = StaticRange(*bounds)
    assert -128 <= quantizer.zero <= 127
    assert quantizer(torch.zeros(3)).tolist() == [0.0] * 3


def test_int8_weights_compute_with_codes_times_scales() -> None:
    codes = torch.randint(-127, 128, (4, 6), generator=seeded(0)).to(torch.int8)
    scale, bias = torch.rand(4, generator=seeded(1)) + 0.1, torch.randn(4, generator=seeded(2))
    x = torch.randn(2, 3, 6, generator=seeded(3))
    found = Int8Weights(codes, scale, bias)(x)
    torch.testing.assert_close(found, nn.functional.linear(x, codes.float() * scale[:, None], bias))
    assert Int8Weights(codes, scale, None)(x).shape == (2, 3, 4)


def a_layer(kind: str) -> tuple[nn.Linear | nn.Conv2d, Tensor]:
    """A layer and inputs of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "linear":
            return nn.Linear(48, 32), torch.randn(1, 20, 48)
        if kind == "linear without bias":
            return nn.Linear(48, 32, bias=False), torch.randn(1, 20, 48)
        return nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.randn(1, 3, 16, 16)


def statistics_of(layer: nn.Linear | nn.Conv2d, x: Tensor, gram: bool) -> Statistics:
    with torch.no_grad():
        out = layer(x)
    rows = x.reshape(-1, x.shape[-1]).double()
    return Statistics(
        {"layer": rows.T @ rows} if gram else {},
        {"layer": (float(x.min()), float(x.max()))},
        {"layer": (float(out.min()), float(out.max()))},
    )


def plan(mode: Int8Mode) -> Int8Plan:
    return Int8Plan(mode, frozenset({"layer"}))


# Measured: 40 dB dynamic, 36 to 38 dB static.
@pytest.mark.parametrize(
    ("kind", "mode", "gram"),
    [
        ("linear", "dynamic", False),
        ("linear", "dynamic", True),
        ("linear", "static", False),
        ("linear", "static", True),
        ("linear without bias", "dynamic", True),
        ("linear without bias", "static", False),
        ("convolution", "static", False),
        ("linear", "weights", True),
        ("convolution", "weights", False),
    ],
)
def test_a_layer_in_int8_is_close_to_its_float_layer(kind: str, mode: Int8Mode, gram: bool) -> None:
    layer, x = a_layer(kind)
    quantized = int8_layer("layer", layer, plan(mode), statistics_of(layer, x, gram))
    with torch.no_grad():
        snr = snr_db(layer(x).numpy(), quantized(x).numpy())
    assert 32 < snr < 60, "closer than int8 can be: was it quantized?"
    stored = [module for module in quantized.modules() if isinstance(module, Int8Weights)]
    assert len(stored) == 1 and stored[0].weight.dtype == torch.int8
    assert (stored[0].bias is None) == (layer.bias is None)


def test_an_int8_layer_shares_nothing_with_its_float_layer() -> None:
    layer, x = a_layer("linear")
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    for buffer in int8_layer("layer", layer, plan("static"), statistics_of(layer, x, gram=True)).buffers():
        buffer.fill_(1)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_static_mode_clips_inputs_that_calibration_never_saw() -> None:
    layer, x = a_layer("linear")
    quantized = int8_layer("layer", layer, plan("static"), statistics_of(layer, x, gram=False))
    with torch.no_grad():
        assert torch.equal(quantized(100 * x.sign()), quantized(1000 * x.sign()))
