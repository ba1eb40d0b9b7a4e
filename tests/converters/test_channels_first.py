"""The layout of the Neural Engine computes what the graph with tokens first computes, and stays one when lowered."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_packages
import torch
import torch.nn.functional as F
from conftest import make_tiny_tofe
from tiny_exports import COUNTS, OTHER, OTHER_COUNTS, SIZE, images
from torch import Tensor, nn

from tofe_edge.converters.channels_first import ChannelNorm, ChannelsFirstRankSelection, channels_first
from tofe_edge.converters.coreml import CoreMlOptions, lower
from tofe_edge.converters.coreml_graph import NativeRankSelection, native_graph, native_topk
from tofe_edge.converters.coreml_package import About
from tofe_edge.converters.int8 import StaticRange
from tofe_edge.converters.quantize import gather_statistics, layers_of, plan_int8, quantize
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.io.files import write_content
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.runtimes.coreml_names import IMAGE, LOGITS, token_order
from tofe_edge.runtimes.mil import load_program, open_package

PATCHES = 16
DEIT, DISTILLED, LVVIT = "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "lvvit_s"
SHAPE = (1, 3, SIZE, SIZE)
ALL_STAY_AT_FIRST = TokenCounts((16, 16, 4))

MOST_OPERATORS = {"tokens first": {"topk": 140, "rank": 168}, "channels first": {"topk": 159, "rank": 180}}
"""Of the tiny DeiT in half precision; of tokens first by topk in single."""


def tokens_first(
    name: str = DEIT, counts: TokenCounts | None = COUNTS, select: str = "topk", pixels: bool = False
) -> StaticToFe:
    model = make_tiny_tofe(name)
    graph, preprocessing = build_static_graph(model, counts), model.backbone.preprocessing
    selection = NativeRankSelection(PATCHES) if select == "rank" else native_topk
    return native_graph(graph, selection, preprocessing if pixels else None)


@cache
def quantized(kind: str) -> StaticToFe:
    """The tiny DeiT with ``weights`` in int8, ``static`` int8 as Core ML takes it, or palettes of 4 bits, ``pal4``."""
    graph = tokens_first()
    statistics = gather_statistics(graph, images(4, seed=1)) if kind == "static" else None
    plan = plan_int8(graph, "static" if kind == "static" else "weights", quantizes_outputs=False)
    return quantize(graph, replace(plan, palette_bits=4 if kind == "pal4" else None), statistics)


@torch.no_grad()
def run(graph: nn.Module, image: Tensor, forced: tuple[Tensor, ...] = ()) -> tuple[Tensor, ...]:
    return tuple(graph(image, forced))


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Equal selections, logits within 1e-5 of the largest."""
    assert len(found) == len(expected)
    for order, wanted in zip(found[1:], expected[1:]):
        assert order.dtype == wanted.dtype and torch.equal(order, wanted)
    assert found[0].shape == expected[0].shape
    assert float((found[0] - expected[0]).abs().max()) <= 1e-5 * float(expected[0].abs().max())


class TestEquality:
    @pytest.mark.parametrize("select", ["topk", "rank"])
    @pytest.mark.parametrize("counts", [COUNTS, ALL_STAY_AT_FIRST], ids=str)
    @pytest.mark.parametrize("name", [DEIT, DISTILLED, LVVIT])
    def test_logits_and_selections(self, name: str, counts: TokenCounts, select: str) -> None:
        expected = tokens_first(name, counts, select)
        found = channels_first(expected)
        for image in images(4, seed=3):
            assert_same(run(found, image), run(expected, image))

    @pytest.mark.parametrize("name", [DEIT, DISTILLED, LVVIT])
    def test_dense_graphs_take_any_batch(self, name: str) -> None:
        expected = tokens_first(name, None)
        batch = torch.cat(images(3, seed=3))
        assert_same(run(channels_first(expected), batch), run(expected, batch))

    @pytest.mark.parametrize("name", [DEIT, LVVIT])
    def test_pixels(self, name: str) -> None:
        expected = tokens_first(name, pixels=True)
        pixels = (127 + 50 * images(1, seed=4)[0]).round().clamp(0, 255)
        assert_same(run(channels_first(expected), pixels), run(expected, pixels))

    def test_forced_selections(self) -> None:
        expected = tokens_first()
        first, second = images(2, seed=5)
        forced = run(expected, second)[1:]
        found = run(channels_first(expected), first, forced)
        assert_same(found, run(expected, first, forced))
        assert not torch.equal(found[0], run(expected, first)[0])

    def test_other_counts_share_every_weight(self) -> None:
        expected, graph = tokens_first(), channels_first(tokens_first())
        twin = graph.with_counts(OTHER_COUNTS)
        (image,) = images(1, seed=6)
        assert_same(run(twin, image), run(expected.with_counts(OTHER_COUNTS), image))
        assert_same(run(graph, image), run(expected, image))
        assert (graph.kept, twin.kept) == (COUNTS.kept, OTHER_COUNTS)
        assert all(mine is its for mine, its in zip(graph.parameters(), twin.parameters()))

    def test_the_graph_given_is_not_changed(self) -> None:
        graph = tokens_first()
        modules, state = dict(graph.named_modules()), copy.deepcopy(graph.state_dict())
        channels_first(graph)
        assert dict(graph.named_modules()) == modules
        assert all(torch.equal(value, state[name]) for name, value in graph.state_dict().items())

    def test_a_graph_that_is_not_native_is_refused(self) -> None:
        with pytest.raises(AssertionError, match="native_graph"):
            channels_first(build_static_graph(make_tiny_tofe(), COUNTS))


def test_ranks_take_the_first_among_equals() -> None:
    select = ChannelsFirstRankSelection(NativeRankSelection(6))
    scores, tokens = torch.tensor([1.0, 3.0, 1.0, 3.0, 0.0, 1.0]), torch.randn(1, 4, 1, 6)
    order, chosen = select(scores.view(1, 1, 1, 6), tokens, 4)
    assert order.tolist() == [[1, 3, 0, 2]]
    assert torch.equal(chosen, tokens[..., [1, 3, 0, 2]])


@pytest.mark.parametrize("loudness", [1.0, 300.0])
def test_norm_is_layer_norm_over_channels(loudness: float) -> None:
    x = loudness * torch.randn(2, 48, 1, 5, generator=torch.Generator().manual_seed(0))
    expected = F.layer_norm(x.transpose(1, 3), (48,), eps=1e-6).transpose(1, 3)
    torch.testing.assert_close(ChannelNorm(1e-6)(x), expected, rtol=1e-5, atol=1e-5)


class TestQuantized:
    @pytest.mark.parametrize("kind", ["weights", "pal4"])
    def test_logits_and_selections(self, kind: str) -> None:
        expected = quantized(kind)
        for image in images(3, seed=8):
            assert_same(run(channels_first(expected), image), run(expected, image))

    @pytest.mark.parametrize("kind", ["weights", "static", "pal4"])
    def test_codes_scales_palettes_and_ranges_are_kept(self, kind: str) -> None:
        expected = quantized(kind)
        found = channels_first(expected)
        layers = {name: layer for name, layer in expected.named_modules() if isinstance(layer, nn.Sequential)}
        assert len(layers) == len(plan_int8(tokens_first(), "weights").layers)
        for name, layer in layers.items():
            twin = found.get_submodule(name)
            assert isinstance(twin, nn.Sequential) and [*map(type, twin)] == [*map(type, layer)]
            for mine, its in zip(twin, layer):
                if isinstance(mine, StaticRange) and isinstance(its, StaticRange):
                    assert (mine.scale, mine.zero) == (its.scale, its.zero)
                for key, buffer in its.named_buffers():
                    kept = mine.get_buffer(key)
                    assert kept.dtype == buffer.dtype and torch.equal(kept.reshape(buffer.shape), buffer)

    def test_layers_between_fixed_ranges_agree_one_by_one(self) -> None:
        """Not end to end: the last bit of a sum turns over steps of 1/255, and those whole tokens."""
        expected = copy.deepcopy(quantized("static"))
        found, seen = channels_first(expected), dict[str, tuple[Tensor, Tensor]]()
        for name, layer in expected.named_modules():
            if isinstance(layer, nn.Sequential):
                layer.register_forward_hook(lambda _, given, output, name=name: seen.update({name: (given[0], output)}))
        run(expected, images(1, seed=9)[0])
        assert len(seen) == len(plan_int8(tokens_first(), "static").layers)
        for name, (given, output) in seen.items():
            layer = found.get_submodule(name)
            if given.dim() == 4:
                computed = layer(given)
            else:
                computed = layer(given.view(1, 1, -1, given.shape[-1]).transpose(1, 3)).transpose(1, 3).view_as(output)
            torch.testing.assert_close(computed, output, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["fp32", "weights", "static", "pal4"])
def test_modules_keep_their_paths(kind: str) -> None:
    expected = tokens_first(select="rank") if kind == "fp32" else quantized(kind)
    found = channels_first(expected)
    assert dict(found.named_modules()).keys() == dict(expected.named_modules()).keys()
    assert layers_of(found).keys() == layers_of(expected).keys()
    assert all(isinstance(layer, nn.Conv2d) for layer in layers_of(found).values())


GRAPHS: dict[str, dict[str, Any]] = {
    "topk": {},
    "rank": {"select": "rank"},
    "float32 selectors": {"select": "rank"},
    "lvvit": {"name": LVVIT},
    "pixels": {"name": DISTILLED, "pixels": True},
    "dense": {"counts": None},
}
KINDS = [
    pytest.param(kind, marks=[] if kind in ("topk", "rank") else pytest.mark.slow)
    for kind in (*GRAPHS, "weights", "static", "pal4")
]


@cache
def files(kind: str) -> Mapping[str, bytes]:
    """The package of the tiny net of a kind."""
    graph = tokens_first(**GRAPHS[kind]) if kind in GRAPHS else quantized(kind)
    content = lower({"forward": channels_first(graph)}, SHAPE, options(kind)).content
    assert isinstance(content, Mapping)
    return content


@cache
def program(kind: str) -> tuple[Any, ...]:
    """Its operators as Core ML stores them, constants included."""
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model.FromString(files(kind)["Data/com.apple.CoreML/model.mlmodel"])
    (function,) = model.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    return tuple(block.operations)


def options(kind: str = "topk") -> CoreMlOptions:
    return CoreMlOptions(
        deployment_target="iOS18" if kind == "pal4" else "iOS17",
        precision="fp16",
        about=About("tiny", "", "", "1", 3, PATCHES),
        labels=None,
        float32_selectors=kind == "float32 selectors",
        palettes=kind == "pal4",
    )


def counts_of(operations: Sequence[Any]) -> Counter[str]:
    """How many operators of each kind, without constants and what unpacks them."""
    return Counter(operation.type for operation in operations if not operation.type.startswith("const"))


class TestLowered:
    @pytest.mark.parametrize("kind", KINDS)
    def test_tokens_stay_along_the_last_axis(self, kind: str) -> None:
        lowered = program(kind)
        shapes = {
            output.name: tuple(size.constant.size for size in output.type.tensorType.dimensions)
            for operation in lowered
            for output in operation.outputs
        }
        assert max(map(len, shapes.values())) <= 4
        convolutions = [operation for operation in lowered if operation.type == "conv"]
        pointwise = [layer for layer in convolutions if shapes[layer.inputs["weight"].arguments[0].name][2:] == (1, 1)]
        # LV-ViT's stem has four convolutions, the others' one.
        assert len(convolutions) - len(pointwise) == (4 if kind == "lvvit" else 1)
        assert all(shapes[layer.outputs[0].name][::2] == (1, 1) for layer in pointwise)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_linear_is_a_convolution_and_every_norm_one_operator(self, kind: str) -> None:
        found, graph = counts_of(program(kind)), tokens_first(LVVIT if kind == "lvvit" else DEIT)
        norms = sum(isinstance(module, nn.LayerNorm) for module in graph.modules())
        assert found["layer_norm"] == norms - (len(graph.selectors) if kind == "dense" else 0)
        assert not found.keys() & {"linear", "matmul", "rsqrt", "reduce_mean", "square", "tile"}
        # Of keys, one a block.
        assert found["transpose"] == 4

    @pytest.mark.parametrize("select", ["topk", "rank"])
    @pytest.mark.parametrize("layout", ["tokens first", "channels first"])
    def test_operators_are_few(self, select: str, layout: str) -> None:
        if layout == "channels first":
            found = counts_of(program(select))
        else:
            found = counts_of(tiny_packages.made({"topk": "fp32,topk", "rank": "fp16"}[select]).program().operations)
        print(f"{select}, {layout}: {found.total()} operators, {dict(found.most_common())}")
        assert found.total() <= MOST_OPERATORS[layout][select]

    @pytest.mark.slow
    def test_selectors_compute_in_float32_where_asked(self) -> None:
        from coremltools.proto import MIL_pb2

        types = Counter(
            MIL_pb2.DataType.Name(operation.outputs[0].type.tensorType.dataType)
            for operation in program("float32 selectors")
            if operation.type in ("conv", "layer_norm", "greater")
        )
        # Three selectors of a norm and three layers each; comparisons give booleans.
        assert types["FLOAT32"] == 12 and types["BOOL"] == 3

    @pytest.mark.parametrize("select", ["topk", pytest.param("rank", marks=pytest.mark.slow)])
    def test_the_package_computes_what_the_graph_computes(self, select: str, tmp_path: Path) -> None:
        expected = tokens_first(select=select)
        lowered = lower({"forward": channels_first(expected)}, SHAPE, replace(options(), precision="fp32"))
        write_content(tmp_path / "tiny.mlpackage", lowered.content)
        package = load_program(open_package(tmp_path / "tiny.mlpackage"))
        for image in images(3, seed=10):
            outputs = package.run({IMAGE: image.numpy()})
            logits, *orders = run(expected, image)
            assert np.abs(np.asarray(outputs[LOGITS]) - logits.numpy()).max() <= 1e-5 * float(logits.abs().max())
            for stage, order in enumerate(orders, start=1):
                assert np.array_equal(np.asarray(outputs[token_order(stage)]), order.numpy())

    @pytest.mark.slow
    def test_two_budgets_store_weights_once(self) -> None:
        graph = channels_first(quantized("weights"))
        wanted = replace(options(), deployment_target="iOS18")
        both = lower({"forward": graph, OTHER: graph.with_counts(OTHER_COUNTS)}, SHAPE, wanted).content
        assert isinstance(both, Mapping)
        weights = "Data/com.apple.CoreML/weights/weight.bin"
        assert len(both[weights]) <= 1.01 * len(files("weights")[weights])
