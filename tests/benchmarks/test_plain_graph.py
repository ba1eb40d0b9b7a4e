"""The graph that peers get computes what ToFe computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.plain_graph import PlainToFe
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe

TinyToFe = Callable[..., ToFe]
FAMILIES = ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "lvvit_s", "lvvit_m"]
COUNTS = [(9, 5, 3), (3, 9, 1), (16, 5, 3), (9, 16, 3), (9, 5, 16), (16, 16, 16), (1, 1, 1)]


def images_for(model: ToFe, count: int) -> Tensor:
    size = model.backbone.spec.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_it_agrees_with_the_batch_adaptive_form(tiny_tofe: TinyToFe, name: str, counts: tuple[int, ...]) -> None:
    model = tiny_tofe(name)
    images = images_for(model, 4)
    graph = PlainToFe(model, TokenCounts(counts))
    with torch.no_grad():
        wanted = model.forward_batch(images, TokenCounts(counts)).logits
        for image, logits in zip(images, wanted):
            torch.testing.assert_close(graph(image[None])[0], logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_without_counts_it_is_the_dense_backbone(tiny_tofe: TinyToFe, name: str) -> None:
    model = tiny_tofe(name)
    images = images_for(model, 3)
    graph = PlainToFe(model, None)
    with torch.no_grad():
        wanted = model.forward_dense(images)
        for image, logits in zip(images, wanted):
            torch.testing.assert_close(graph(image[None])[0], logits, atol=1e-5, rtol=1e-5)


def test_selectors_and_approximators_reach_the_logits(tiny_tofe: TinyToFe) -> None:
    """Else the agreement above would be one of constants."""
    model = tiny_tofe()
    graph, image = PlainToFe(model, TokenCounts((9, 5, 3))), images_for(model, 1)
    with torch.no_grad():
        before = graph(image)
        for part in (model.approximators[0].fc2, model.approximators[1].fc2, model.selectors[2].fc3):
            assert isinstance(part, nn.Linear)
            part.weight.mul_(-3)
            after = graph(image)
            assert float((after - before).abs().max()) > 1e-4
            before = after


def test_the_graph_has_no_scatter(tiny_tofe: TinyToFe) -> None:
    model = tiny_tofe()
    program = torch.export.export(PlainToFe(model, TokenCounts((9, 5, 3))), (images_for(model, 1),))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("scatter" in operator for operator in operators)
    for kept_whole in ("layer_norm", "scaled_dot_product_attention", "topk", "index_select"):
        assert any(kept_whole in operator for operator in operators)


def test_counts_that_do_not_fit_are_refused(tiny_tofe: TinyToFe) -> None:
    with pytest.raises(InputError, match="has only 16 patch tokens"):
        PlainToFe(tiny_tofe(), TokenCounts((17, 5, 3)))
