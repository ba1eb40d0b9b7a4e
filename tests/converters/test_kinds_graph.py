"""The static graph of every kind of net and every output equals the reference, on every target, one delegate per stage."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from executorch.runtime import Runtime
from kinds import KINDS, images_for, kind, outputs_of
from torch import Tensor

from tofe_edge.converters.coreml_graph import NativeRankSelection, native_graph, native_topk
from tofe_edge.converters.executorch import lower
from tofe_edge.converters.quantize import plan_int8, quantize
from tofe_edge.converters.selection import select_by_rank, select_by_topk
from tofe_edge.converters.smoothing import loudest_normalised, smooth_residual
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.errors import InputError
from tofe_edge.evaluation.prediction import compose_selections
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe

COUNTS = TokenCounts((10, 7, 3))
EVERY_KIND = pytest.mark.parametrize("name", KINDS)
EVERY_REDUCTION = pytest.mark.parametrize("reduction", ["paper", "merging"])


def agrees(graph: StaticToFe, model: ToFe, images: Tensor, output: Any, counts: TokenCounts = COUNTS) -> None:
    """The graph is the reference; in float64, for rounding shows where a frozen token is like two kept ones."""
    graph, model, images = copy.deepcopy(graph).double(), copy.deepcopy(model).double(), images.double()
    with torch.no_grad():
        found, *selections = graph(images)
    expected = model.forward_batch(images, counts, output)
    torch.testing.assert_close(found, expected.output, rtol=1e-4, atol=1e-4)
    for number in range(len(images)):
        rows = [selection.reshape(len(images), -1)[number].numpy() for selection in selections]
        for kept, wanted in zip(compose_selections(rows, counts.kept), expected.kept, strict=True):
            np.testing.assert_array_equal(np.sort(kept), np.sort(wanted[number].numpy()))


@pytest.mark.parametrize("thaws_last", [False, True], ids=["", "thaws last"])
@EVERY_REDUCTION
@EVERY_KIND
def test_the_graph_is_the_reference(name: str, reduction: str, thaws_last: bool) -> None:
    model = kind(name, reduction=reduction, thaws_last=thaws_last)
    for output in outputs_of(model):
        graph = build_static_graph(model, COUNTS, select_by_topk, output)
        agrees(graph, model, images_for(model, 1), output)
        agrees(graph, model, images_for(model, 3), output)
        ranked = build_static_graph(model, COUNTS, select_by_rank, output)
        agrees(ranked, model, images_for(model, 2), output)
        dense, images = build_static_graph(model, None, output=output), images_for(model, 2)
        torch.testing.assert_close(dense(images)[0], model.forward_dense(images, output), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kept", [(16, 9, 16), (1, 16, 2), (15, 1, 1), (16, 16, 16)], ids=str)
@EVERY_REDUCTION
@pytest.mark.parametrize("name", ["deit", "lvvit", "mean, norm behind it"])
def test_other_counts_share_the_weights(name: str, reduction: str, kept: Sequence[int]) -> None:
    model = kind(name, reduction=reduction)
    for output in outputs_of(model):
        twin = build_static_graph(model, COUNTS, output=output).with_counts(kept)
        agrees(twin, model, images_for(model, 2), output, TokenCounts(tuple(kept)))


@EVERY_KIND
def test_an_embedding_can_have_length_one(name: str) -> None:
    model = kind(name)
    images = images_for(model, 2)
    found = build_static_graph(model, COUNTS, output="embedding", normalize=True)(images)[0]
    wanted = F.normalize(model.forward_batch(images, COUNTS, "embedding").output, dim=-1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="features are not divided by a length"):
        build_static_graph(model, COUNTS, output="features", normalize=True)


@EVERY_REDUCTION
@EVERY_KIND
def test_smoothing_changes_no_output(name: str, reduction: str) -> None:
    model = kind(name, reduction=reduction)
    images = images_for(model, 2)
    for output in outputs_of(model):
        graph = build_static_graph(model, COUNTS, output=output)
        agrees(smooth_residual(graph, loudest_normalised(graph, [images])), model, images, output)


@EVERY_REDUCTION
@EVERY_KIND
def test_the_graph_for_core_ml_agrees(name: str, reduction: str) -> None:
    model = kind(name, reduction=reduction)
    images = images_for(model, 1)
    for output in outputs_of(model):
        graph = build_static_graph(model, COUNTS, output=output)
        for select in (native_topk, NativeRankSelection(16)):
            agrees(native_graph(graph, select), model, images, output)
    unit = build_static_graph(model, COUNTS, output="embedding", normalize=True)
    torch.testing.assert_close(native_graph(unit, native_topk)(images)[0], unit(images)[0], rtol=1e-4, atol=1e-5)


EXPORTS = [
    ("clip, quick gelu", "merging", "embedding", False),
    ("attention pool, head, tanh gelu", "paper", "logits", True),
    ("swiglu", "paper", "features", False),
    ("query norms", "paper", "embedding", True),
    ("mean, norm behind it", "merging", "features", True),
    ("norm behind cls", "merging", "logits", True),
]
"""What lowers differently of the kinds."""


@pytest.mark.parametrize(("name", "reduction", "output", "int8"), EXPORTS)
def test_one_delegate_per_stage_and_only_selections_outside(name: str, reduction: str, output: Any, int8: bool) -> None:
    model = kind(name, reduction=reduction)
    graph = build_static_graph(model, COUNTS, output=output, normalize=output == "embedding")
    if int8:
        graph = quantize(graph, plan_int8(graph, "dynamic"))
    size = model.backbone.spec.image_size
    lowered = lower({"forward": graph}, (1, 3, size, size))
    method = lowered.methods["forward"]
    # Putting features in their places is one more selection, behind everything else.
    assert (method.delegates, method.fallback_ops["topk"]) == (4, 4 if output == "features" else 3)
    assert set(method.fallback_ops) <= {"topk", "index_select", "view_copy"}
    # It loads, and computes what the graph does: closely in fp32, in int8 about as much.
    images = images_for(model, 1)
    found = Runtime.get().load_program(lowered.content).load_method("forward").execute([images])[0]
    expected = graph(images)[0]
    if int8:
        assert F.cosine_similarity(found, expected, dim=-1).min() > 0.9
    else:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
