"""The MAC arithmetic against the published figures and against a count over the real modules."""

from dataclasses import replace
from functools import cache
from typing import Literal

import pytest
import torch
from conftest import tiny_tofe
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tofe_edge.model.backbones import Backbone, BackboneAdapter, TokenCounts, create_backbone
from tofe_edge.model.macs import (
    approximator_macs,
    block_macs,
    dense_macs,
    gmacs,
    head_macs,
    product_macs,
    selector_macs,
    stem_macs,
    tofe_macs,
)

TINY_DEIT, SMALL_DEIT, BASE_DEIT = (f"deit_{size}_patch16_224" for size in ("tiny", "small", "base"))
FIVE = [TINY_DEIT, SMALL_DEIT, BASE_DEIT, "lvvit_s", "lvvit_m"]
PAPER_COUNTS = (96, 49, 27)
"""Keep ratios (0.49, 0.25, 0.14) of 196 patch tokens."""


@cache
def full_size(name: str) -> BackboneAdapter:
    """A published backbone without memory for its weights."""
    with torch.device("meta"):
        return create_backbone(name)


def spec_of(name: str) -> Backbone:
    return full_size(name).spec


@pytest.mark.parametrize(("name", "figure"), zip(FIVE, ["1.254", "4.599", "17.564", "6.551", "12.678"]))
def test_dense_gmacs_are_the_published_ones(name: str, figure: str) -> None:
    assert f"{gmacs(dense_macs(spec_of(name))):.3f}" == figure


def deit_small_blocks(prefix: int) -> float:
    """Eq. 4 over the 12 blocks of DeiT-S with the paper's counts: 3 dense blocks, then 3 a stage."""
    in_stage = (196, *PAPER_COUNTS)
    return gmacs(sum(3 * block_macs(tokens + prefix, 384, 1536) for tokens in in_stage))


def test_deit_small_blocks_alone_without_and_with_cls() -> None:
    assert f"{deit_small_blocks(0):.3f}" == "2.070"
    assert f"{deit_small_blocks(1):.3f}" == "2.093"


def test_deit_small_whole_net_with_approximators_on_all_or_on_frozen_tokens() -> None:
    spec = spec_of(SMALL_DEIT)
    assert f"{gmacs(tofe_macs(spec, PAPER_COUNTS, approximated='all')):.3f}" == "2.264"
    assert f"{gmacs(tofe_macs(spec, PAPER_COUNTS)):.3f}" == "2.242"


def test_the_whole_net_is_the_sum_of_its_parts() -> None:
    parts = deit_small_blocks(1) + gmacs(
        stem_macs(spec_of(SMALL_DEIT))
        + head_macs(spec_of(SMALL_DEIT), 0)
        + 3 * selector_macs(196, 384)
        + approximator_macs(100, 384)
        + approximator_macs(147, 384)
    )
    assert gmacs(tofe_macs(spec_of(SMALL_DEIT), PAPER_COUNTS)) == pytest.approx(parts, rel=1e-12)


def test_deit_small_selectors_and_approximators() -> None:
    assert f"{gmacs(3 * selector_macs(196, 384)):.4f}" == "0.0543"
    assert f"{gmacs(2 * approximator_macs(196, 384)):.4f}" == "0.0578"


COUNTED = [
    (TINY_DEIT, {}),
    ("deit_tiny_distilled_patch16_224", {}),
    ("deit3_small_patch16_224", {"depth": 7}),
    ("vit_small_patch14_reg4_dinov2", {"image_size": 56}),
    ("lvvit_s", {}),
]


def counted_macs(run: FlopCounterMode) -> int:
    assert run.get_total_flops() % 2 == 0
    return run.get_total_flops() // 2


@pytest.mark.parametrize(("name", "overrides"), COUNTED)
def test_dense_macs_equal_a_count_over_the_module(name: str, overrides: dict[str, int]) -> None:
    model = tiny_tofe(name, **overrides)
    spec = model.backbone.spec
    images = torch.zeros(1, 3, spec.image_size, spec.image_size)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.forward_dense(images)
    assert counted_macs(counter) == dense_macs(spec)


def test_macs_do_not_depend_on_the_name() -> None:
    spec = tiny_tofe("deit_tiny_distilled_patch16_224").backbone.spec
    assert spec.classifiers == 2
    assert (
        dense_macs(replace(spec, name="student")) == dense_macs(spec) == dense_macs(replace(spec, classifiers=1)) + 480
    )


@pytest.mark.parametrize("counts", [(9, 5, 3), (1, 1, 1), (16, 16, 16), (3, 11, 7)])
@pytest.mark.parametrize(("name", "overrides"), COUNTED)
def test_tofe_macs_equal_a_module_count(name: str, overrides: dict[str, int], counts: tuple[int, int, int]) -> None:
    model = tiny_tofe(name, **overrides)
    spec = model.backbone.spec
    images = torch.zeros(1, 3, spec.image_size, spec.image_size)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.forward_batch(images, TokenCounts(counts))
    assert counted_macs(counter) == tofe_macs(spec, counts)


Approximated = Literal["frozen", "all"]
APPROXIMATED: st.SearchStrategy[Approximated] = st.sampled_from(["frozen", "all"])
COUNTS = st.tuples(*[st.integers(0, 196)] * 3)
NAMES = st.sampled_from(FIVE)


@settings(max_examples=100, deadline=None)
@given(NAMES, COUNTS, st.integers(0, 2), st.integers(1, 196), APPROXIMATED)
def test_more_costs_more(name: str, counts: tuple[int, ...], stage: int, more: int, approximated: Approximated) -> None:
    larger = list(counts)
    larger[stage] += more
    cheap, dear = (tofe_macs(spec_of(name), kept, approximated) for kept in (counts, larger))
    assert cheap < dear


@settings(max_examples=100, deadline=None)
@given(NAMES, COUNTS)
def test_macs_lie_between_the_floor_and_all_tokens(name: str, counts: tuple[int, ...]) -> None:
    spec = spec_of(name)
    selectors = 3 * selector_macs(196, spec.dim)
    assert tofe_macs(spec, [0] * 3) <= tofe_macs(spec, counts) <= dense_macs(spec) + selectors
    assert tofe_macs(spec, [196] * 3) == dense_macs(spec) + selectors


@settings(max_examples=50, deadline=None)
@given(NAMES, COUNTS, APPROXIMATED)
def test_ints_floats_and_tensors_agree(name: str, counts: tuple[int, ...], approximated: Approximated) -> None:
    spec = spec_of(name)
    whole = tofe_macs(spec, counts, approximated)
    assert isinstance(whole, int)
    assert tofe_macs(spec, [float(count) for count in counts], approximated) == whole
    columns = torch.tensor([counts, (0, 0, 0)], dtype=torch.float64).unbind(1)
    found = tofe_macs(spec, columns, approximated)
    assert found.tolist() == [whole, tofe_macs(spec, [0, 0, 0], approximated)]


def test_the_gradient_of_the_cost_is_the_cost_of_one_more_token() -> None:
    spec = spec_of(SMALL_DEIT)
    kept = torch.tensor(PAPER_COUNTS, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(tofe_macs(spec, kept.unbind()), kept)
    for stage in range(3):
        around = [tofe_macs(spec, [n + d * (s == stage) for s, n in enumerate(PAPER_COUNTS)]) for d in (-1, 1)]
        assert float(gradient[stage]) == pytest.approx((around[1] - around[0]) / 2, rel=1e-12)


def test_merging_is_counted_product_by_product() -> None:
    """10 of 16 tokens of 48 channels kept, then 7, then 3: by hand, with features of 32 channels."""
    spec = tiny_tofe(reduction="merging").backbone.spec
    paper = replace(spec, reduction="paper")
    kept, dim = (10, 7, 3), 48
    comparing = 3 * (dim * (dim // 2) + 16 * dim * 32 + 16 * 16 * 32)
    merging = sum(count * (16 - count) * (32 + dim) for count in kept)
    thawing = sum(count * dim * dim + count * (16 - count) * dim for count in kept[:-1])
    approximators = sum((16 - count) * 2 * dim * (dim // 2) for count in kept[:-1])
    assert tofe_macs(spec, kept) == tofe_macs(paper, kept) - approximators + comparing + merging + thawing
    attention = sum(2 * (count + 1) ** 2 * dim for count in (16, *kept))
    shares = sum(count * (16 - count) * dim for count in kept[:-1])
    assert product_macs(spec, kept) == attention + 3 * 16 * 16 * 32 + merging + shares
