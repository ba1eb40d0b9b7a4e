"""Statistics, plan and replacement of layers."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_tofe
from hypothesis import given
from hypothesis import strategies as st
from tiny_exports import images, seeded, tiny_graph, tiny_net
from torch import Tensor, nn

from tofe_edge.converters.quantize import (
    DynamicInput,
    Int8Mode,
    Int8Plan,
    Int8Weights,
    StaticRange,
    Statistics,
    gather_statistics,
    int8_layer,
    layers_of,
    plan_int8,
    quantize,
)
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.errors import InputError
from tofe_edge.evaluation.parity import snr_db
from tofe_edge.model.backbones import TokenCounts

MODES: list[Int8Mode] = ["dynamic", "static"]


def lvvit_graph() -> StaticToFe:
    return build_static_graph(tiny_net("lvvit"), TokenCounts((9, 5, 3)))


@pytest.mark.parametrize("mode", MODES)
def test_the_plan_is_every_linear_but_the_selectors(mode: Int8Mode) -> None:
    graph = tiny_graph()
    plan = plan_int8(graph, mode)
    layers = set(layers_of(graph))
    assert {name for name in layers if name.startswith("selectors.")} == layers - plan.layers
    assert len(layers - plan.layers) == 9
    assert {"stem.embed", "blocks.0.attn.qkv", "approximators.1.fc2", "head.heads.0"} <= plan.layers


def test_convolutions_are_in_the_static_plan_alone() -> None:
    graph = lvvit_graph()
    convolutions = {name for name, layer in layers_of(graph).items() if isinstance(layer, nn.Conv2d)}
    assert len(convolutions) == 4
    assert plan_int8(graph, "static").layers - plan_int8(graph, "dynamic").layers == convolutions


def test_a_plan_without_layers() -> None:
    plan = Int8Plan("dynamic", frozenset({"a", "b", "c"}))
    assert plan.without(frozenset({"b", "unknown"})) == Int8Plan("dynamic", frozenset({"a", "c"}))
    assert plan.layers == {"a", "b", "c"}


def test_static_int8_without_statistics_is_refused() -> None:
    graph = tiny_graph()
    with pytest.raises(InputError, match=r"^static int8 needs calibration images; give a folder with --calibration$"):
        quantize(graph, plan_int8(graph, "static"))


class TwoLayers(nn.Module):
    """A convolution and a Linear, without a net around them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.linear = nn.Conv2d(3, 5, 2, stride=2), nn.Linear(5, 4)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.linear(F.relu(self.conv(image)).flatten(2).transpose(1, 2))
        return out


def test_statistics_are_those_of_a_direct_computation() -> None:
    net = TwoLayers()
    seen = images(3, seed=0, size=8)
    statistics = gather_statistics(cast(StaticToFe, net), seen)
    everything = torch.cat(seen)
    with torch.no_grad():
        hidden = net.conv(everything)
        rows = F.relu(hidden).flatten(2).transpose(1, 2).reshape(-1, 5)
        out = net.linear(rows)

    def bounds(values: Tensor) -> tuple[float, float]:
        return pytest.approx((float(values.min()), float(values.max())), abs=1e-6)  # type: ignore[return-value]

    assert statistics.inputs == {"conv": bounds(everything), "linear": bounds(rows)}
    assert statistics.outputs == {"conv": bounds(hidden), "linear": bounds(out)}
    assert list(statistics.grams) == ["linear"]
    assert statistics.grams["linear"].dtype == torch.float64
    torch.testing.assert_close(statistics.grams["linear"], rows.double().T @ rows.double(), atol=1e-4, rtol=1e-5)


def test_statistics_of_the_first_layer_of_a_net_are_those_of_its_patches() -> None:
    seen = images(3, seed=0)
    statistics = gather_statistics(tiny_graph(), seen)
    rows = F.unfold(torch.cat(seen), 16, stride=16).transpose(1, 2).reshape(-1, 768).double()
    torch.testing.assert_close(statistics.grams["stem.embed"], rows.T @ rows)
    assert statistics.inputs["stem.embed"] == (float(rows.min()), float(rows.max()))
    assert set(statistics.inputs) == set(statistics.outputs) == set(statistics.grams) == set(layers_of(tiny_graph()))


def test_a_batch_counts_as_its_images() -> None:
    graph, seen = tiny_graph(), images(4, seed=0)
    one_by_one, together = gather_statistics(graph, seen), gather_statistics(graph, [torch.cat(seen)])
    for name, gram in one_by_one.grams.items():
        torch.testing.assert_close(together.grams[name], gram, atol=1e-3, rtol=1e-4)
        assert together.inputs[name] == pytest.approx(one_by_one.inputs[name], abs=1e-4)
        assert together.outputs[name] == pytest.approx(one_by_one.outputs[name], abs=1e-4)


@pytest.mark.parametrize("size", [64, 48])
def test_nothing_watches_the_graph_afterwards_even_if_the_image_does_not_fit(size: int) -> None:
    graph = tiny_graph()
    with pytest.raises(RuntimeError) if size == 48 else nullcontext():
        gather_statistics(graph, [torch.zeros(1, 3, size, size)])
    assert not any(module._forward_hooks for module in graph.modules())


@pytest.mark.parametrize("mode", MODES)
def test_quantizing_replaces_the_plan_s_layers_in_a_copy(mode: Int8Mode) -> None:
    graph, image = tiny_graph(), images(1, seed=5)[0]
    statistics = gather_statistics(graph, images(2, seed=0))
    plan = plan_int8(graph, mode).without(frozenset({"head.heads.0"}))
    with torch.no_grad():
        before = graph(image)[0]
        quantized = quantize(graph, plan, statistics)
        assert torch.equal(graph(image)[0], before)
        after = quantized(image)[0]
    assert not torch.equal(after, before)
    assert set(layers_of(quantized)) == set(layers_of(graph)) - plan.layers
    for name in plan.layers:
        kinds = [type(module) for module in quantized.get_submodule(name).children()]
        assert kinds == ([DynamicInput, Int8Weights] if mode == "dynamic" else [StaticRange, Int8Weights, StaticRange])


def test_the_copy_shares_no_weight_with_the_graph() -> None:
    graph = tiny_graph()
    quantized = quantize(graph, plan_int8(graph, "dynamic"))
    own = {tensor.data_ptr() for tensor in (*graph.parameters(), *graph.buffers())}
    assert own.isdisjoint(tensor.data_ptr() for tensor in (*quantized.parameters(), *quantized.buffers()))


def test_statistics_decide_how_weights_are_rounded() -> None:
    graph = tiny_graph()
    plan = Int8Plan("dynamic", frozenset({"blocks.1.fc1"}))
    with_statistics = quantize(graph, plan, gather_statistics(graph, images(4, seed=0)))
    without = quantize(graph, plan)
    codes = [net.get_submodule("blocks.1.fc1.1").get_buffer("weight") for net in (with_statistics, without)]
    assert not torch.equal(*codes)


@pytest.mark.parametrize("graph", [tiny_graph, lvvit_graph], ids=["deit", "lvvit"])
@pytest.mark.parametrize("mode", MODES)
def test_a_quantized_net_follows_its_float_net(graph: Callable[[], StaticToFe], mode: Int8Mode) -> None:
    net = graph()
    quantized = quantize(net, plan_int8(net, mode), gather_statistics(net, images(8, seed=0)))
    with torch.no_grad():
        wanted, found = (torch.cat([one(image)[0] for image in images(8, seed=1)]).numpy() for one in (net, quantized))
    assert snr_db(wanted, found) > 18


def test_static_int8_leaves_out_layers_that_no_image_reaches() -> None:
    """Approximators where every token is kept: they have no range, and no place in the graph."""
    graph = build_static_graph(tiny_tofe(), TokenCounts((16, 16, 16)))
    generator = torch.Generator().manual_seed(0)
    statistics = gather_statistics(graph, [torch.randn(1, 3, 64, 64, generator=generator)])
    quantized = quantize(graph, plan_int8(graph, "static"), statistics)
    left = set(layers_of(quantized))
    assert {name for name in layers_of(graph) if name.startswith("approximators.")} <= left
    assert not any(name.startswith("blocks.") for name in left)


SEEDS = st.integers(0, 2**16)
MAGNITUDES = st.sampled_from([1e-3, 1.0, 1e3])


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 33)),
    seed=SEEDS,
    magnitude=MAGNITUDES,
    shift=st.sampled_from([-3.0, 0.0, 3.0]),
)
def test_dynamic_input_is_off_by_a_step(shape: tuple[int, int, int], seed: int, magnitude: float, shift: float) -> None:
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
        *(("linear", mode, gram) for mode in ("dynamic", "static") for gram in (False, True)),
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
