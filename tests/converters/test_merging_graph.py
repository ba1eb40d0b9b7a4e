"""The static graph of a net that merges: equal to the reference, one delegate per stage, on every target."""

from collections.abc import Sequence

import pytest
import torch
from conftest import tiny_tofe
from torch import Tensor

from tofe_edge.converters.coreml_graph import NativeRankSelection, native_graph, native_topk
from tofe_edge.converters.executorch import lower
from tofe_edge.converters.quantize import layers_of, plan_int8, quantize
from tofe_edge.converters.selection import Select, select_by_rank, select_by_topk
from tofe_edge.converters.smoothing import loudest_normalised, smooth_residual
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe

COUNTS = TokenCounts((10, 7, 3))
FAMILIES = [
    ("deit_tiny_patch16_224", {}),
    ("deit_tiny_distilled_patch16_224", {}),
    ("vit_small_patch14_reg4_dinov2", {"image_size": 56}),
    ("lvvit_s", {"depth": 6}),
]


def net(name: str = "deit_tiny_patch16_224", **overrides: int) -> ToFe:
    model: ToFe = tiny_tofe(name, reduction="merging", **overrides).requires_grad_(False)
    for selector in model.selectors:
        selector.get_parameter("aversion").fill_(3.0)
    return model


def images_for(model: ToFe, batch: int) -> Tensor:
    size = model.backbone.spec.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def agrees(graph: StaticToFe, model: ToFe, images: Tensor, counts: TokenCounts = COUNTS) -> None:
    with torch.no_grad():
        logits, *selections = graph(images)
    expected = model.forward_batch(images, counts)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-4)
    first = selections[0].reshape(len(images), -1)[:, : counts.kept[0]].long()
    assert first.sort(dim=1).values.tolist() == expected.kept[0].sort(dim=1).values.tolist()


@pytest.mark.parametrize("select", [select_by_topk, select_by_rank])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("name", "overrides"), FAMILIES)
def test_the_graph_agrees_with_the_reference(name: str, overrides: dict[str, int], batch: int, select: Select) -> None:
    model = net(name, **overrides)
    agrees(build_static_graph(model, COUNTS, select), model, images_for(model, batch))


@pytest.mark.parametrize("kept", [(16, 9, 16), (1, 16, 2), (15, 1, 1)])
def test_other_counts_share_the_weights(kept: Sequence[int]) -> None:
    model, counts = net(), TokenCounts(tuple(kept))
    agrees(build_static_graph(model, COUNTS).with_counts(kept), model, images_for(model, 2), counts)


@pytest.mark.parametrize(("name", "overrides"), FAMILIES[2:])
def test_smoothing_changes_no_output(name: str, overrides: dict[str, int]) -> None:
    model = net(name, **overrides)
    graph, images = build_static_graph(model, COUNTS), images_for(model, 2)
    smoothed = smooth_residual(graph, loudest_normalised(graph, [images]))
    weights = dict(graph.named_parameters())
    changed = {key for key, value in smoothed.named_parameters() if not torch.equal(value, weights[key])}
    assert {f"selectors.0.{layer}.weight" for layer in ("fc1", "context", "features")} <= changed
    assert "approximators.0.fc.weight" in changed
    agrees(smoothed, model, images)


@pytest.mark.parametrize("select", [native_topk, NativeRankSelection(16)])
def test_the_graph_for_core_ml_agrees(select: Select) -> None:
    model = net()
    agrees(native_graph(build_static_graph(model, COUNTS), select), model, images_for(model, 1))


@pytest.mark.parametrize("int8", [False, True])
def test_one_delegate_per_stage_and_only_the_selection_outside(int8: bool) -> None:
    graph = build_static_graph(net(), COUNTS)
    if int8:
        graph = quantize(graph, plan_int8(graph, "dynamic"))
        inside = {layer.split(".")[2] for layer in layers_of(graph) if layer.startswith("selectors.")}
        assert inside == {"fc1", "fc2", "context", "score"}, "what ranks stays in fp32, what compares does not"
    method = lower({"forward": graph}, (1, 3, 64, 64)).methods["forward"]
    assert method.delegates == len(COUNTS.kept) + 1
    assert set(method.fallback_ops) <= {"topk", "index_select", "view_copy"}
