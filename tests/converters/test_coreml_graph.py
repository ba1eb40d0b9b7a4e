"""The graph for Core ML: the same numbers as the static graph, from pixels too, and equal selections."""

import pytest
import torch
from conftest import tiny_tofe
from hypothesis import given
from hypothesis import strategies as st
from tiny_exports import COUNTS, SIZE, images
from torch import Tensor, nn

from tofe_edge.converters.coreml_graph import NativeRankSelection, native_graph, native_topk
from tofe_edge.converters.layers import RmsNorm, StaticAttention
from tofe_edge.converters.selection import Select
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.io.preprocessing import Preprocessing, denormalize

PATCHES = 16
FAMILIES = ("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "lvvit_s")


def forms() -> dict[str, Select]:
    return {"rank": NativeRankSelection(PATCHES), "topk": native_topk}


def static_graph(name: str = "deit_tiny_patch16_224", dense: bool = False) -> StaticToFe:
    return build_static_graph(tiny_tofe(name), None if dense else COUNTS)


@torch.no_grad()
def assert_equal(wanted: tuple[Tensor, ...], found: tuple[Tensor, ...], tolerance: float = 1e-4) -> None:
    assert len(wanted) == len(found)
    assert torch.allclose(wanted[0], found[0], rtol=tolerance, atol=tolerance)
    for order, other in zip(wanted[1:], found[1:]):
        assert order.view(-1).tolist() == other.view(-1).tolist()


@pytest.mark.parametrize("form", ["rank", "topk"])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_native_graph_computes_what_the_static_graph_computes(name: str, form: str) -> None:
    graph = static_graph(name)
    native = native_graph(graph, forms()[form])
    for seed in range(3):
        assert_equal(graph(images(1, seed=seed)[0]), native(images(1, seed=seed)[0]))


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_dense_graph_has_a_native_form_too(name: str) -> None:
    graph = static_graph(name, dense=True)
    assert_equal(graph(images(1, seed=0)[0]), native_graph(graph, native_topk)(images(1, seed=0)[0]))


def test_the_graph_it_was_made_of_stays_as_it_was() -> None:
    graph = static_graph()
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    native_graph(graph, native_topk, tiny_tofe().backbone.preprocessing)
    assert any(isinstance(module, RmsNorm) for module in graph.modules())
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())


def test_nothing_made_for_xnnpack_is_left() -> None:
    native = native_graph(static_graph(), native_topk)
    assert not any(isinstance(module, (RmsNorm, StaticAttention)) for module in native.modules())
    norms = [module for module in native.modules() if isinstance(module, nn.LayerNorm)]
    assert norms and not any(norm.elementwise_affine for norm in norms)


# The convolution of a plain ViT and LV-ViT's padded ones, means and spreads that differ from channel to channel.
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_pixels_give_what_their_normalised_values_give(name: str) -> None:
    spec = Preprocessing(SIZE, 0.9, "bicubic", mean=(0.1, 0.5, 0.9), std=(0.2, 0.25, 0.4))
    graph = static_graph(name)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (1, 3, SIZE, SIZE), generator=generator).float()
    mean, std = (torch.tensor(triple).view(1, 3, 1, 1) for triple in (spec.mean, spec.std))
    normalised = (pixels / 255 - mean) / std
    assert_equal(graph(normalised), native_graph(graph, native_topk, spec)(pixels), tolerance=1e-3)
    assert torch.equal(torch.from_numpy(denormalize(normalised.numpy(), spec)), pixels)


@st.composite
def scored_tokens(draw: st.DrawFn) -> tuple[list[float], int]:
    # Few different scores: ties are what a selection can get wrong.
    scores = draw(st.lists(st.integers(-3, 3), min_size=2, max_size=24))
    return [float(score) for score in scores], draw(st.integers(1, len(scores)))


@given(scored_tokens())
def test_ranks_take_the_best_and_of_equals_the_first(case: tuple[list[float], int]) -> None:
    scores, count = case
    total = len(scores)
    tokens = torch.arange(3.0 * total).view(1, total, 3)
    order, taken = NativeRankSelection(total)(torch.tensor([scores]), tokens, count)
    wanted = sorted(range(total), key=lambda index: (-scores[index], index))[:count]
    assert order.view(-1).tolist() == wanted
    assert torch.equal(taken, tokens[:, wanted])


@given(st.integers(1, 20), st.integers(0, 2**16))
def test_both_selections_agree_where_no_scores_are_equal(count: int, seed: int) -> None:
    scores = torch.randperm(20, generator=torch.Generator().manual_seed(seed)).float().view(1, 20)
    tokens = torch.randn(1, 20, 4, generator=torch.Generator().manual_seed(seed))
    by_rank, by_topk = NativeRankSelection(20)(scores, tokens, count), native_topk(scores, tokens, count)
    assert by_rank[0].tolist() == by_topk[0].tolist()
    assert torch.equal(by_rank[1], by_topk[1])


@torch.no_grad()
def test_ranks_are_exact_in_half_precision() -> None:
    total = 577
    scores = torch.randperm(total, generator=torch.Generator().manual_seed(0)).view(1, total)
    tokens = torch.randn(1, total, 8, generator=torch.Generator().manual_seed(0)).half()
    order, taken = NativeRankSelection(total).half()(scores.half(), tokens, 100)
    wanted = torch.argsort(scores, descending=True)[:, :100]
    assert torch.equal(order.long(), wanted)
    assert torch.equal(taken, tokens[:, wanted[0]])
