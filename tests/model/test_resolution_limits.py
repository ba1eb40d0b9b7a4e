"""Which input sizes a net is taken to, and how many tokens it keeps there."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from conftest import TINY_COUNTS, TinyToFe
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.model.backbones import Backbone, Host, TokenCounts, create_host
from tofe_edge.model.resolution import at_image_size, check_image_size, patch_size, scale_counts
from tofe_edge.model.tofe import ToFe

DEIT = "deit_tiny_patch16_224"


@pytest.fixture
def deit(tiny_tofe: TinyToFe) -> ToFe:
    return tiny_tofe(DEIT).requires_grad_(False)


@cache
def full_size() -> list[Backbone]:
    """Published nets with patches of 16 and of 14 pixels."""
    with torch.device("meta"):
        return [create_host(name, {"classes": 10}).spec for name in (DEIT, "vit_small_patch14_reg4_dinov2", "lvvit_s")]


def test_counts_keep_their_share_rounded_half_up() -> None:
    # From 224 to 384 px with patches of 16, by hand: 97 * 576 / 196 = 285.06, 67: 196.90, 26: 76.41.
    assert scale_counts(TokenCounts((97, 67, 26)), 196, 576).kept == (285, 197, 76)
    assert scale_counts(TokenCounts((1, 3, 5)), 16, 8).kept == (1, 2, 3)  # 0.5, 1.5, 2.5
    assert scale_counts(TokenCounts((16, 2, 1)), 16, 4).kept == (4, 1, 1)


COUNT_CASES = st.integers(1, 4096).flatmap(
    lambda tokens: st.tuples(
        st.just(tokens),
        st.lists(st.integers(1, tokens), min_size=2, max_size=4),
        st.lists(st.integers(1, 4096), min_size=2, max_size=2).map(sorted),
    )
)


@given(COUNT_CASES)
def test_scaled_counts_stay_in_range_and_in_order(case: tuple[int, list[int], list[int]]) -> None:
    tokens, given_counts, (fewer, more) = case
    counts = TokenCounts(tuple(sorted(given_counts)))
    low, high = scale_counts(counts, tokens, fewer).kept, scale_counts(counts, tokens, more).kept
    for scaled, limit in ((low, fewer), (high, more)):
        assert min(scaled) >= 1 and max(scaled) <= limit
        assert list(scaled) == sorted(scaled)  # monotone in the count ...
        for kept, found in zip(counts.kept, scaled):
            # Within half a token of the exact share, or the one token that every stage keeps.
            assert found == 1 or abs(2 * found * tokens - 2 * kept * limit) <= tokens
    assert all(one <= other for one, other in zip(low, high))  # ... and in the size
    assert scale_counts(counts, tokens, tokens) == counts
    assert scale_counts(TokenCounts((tokens,)), tokens, more).kept == (more,)


@pytest.mark.parametrize(
    ("size", "near"),
    [
        (300, "288 or 304"),
        (16, "32"),
        (0, "32"),
        (-16, "32"),
        (15, "32"),
        (1040, "1024"),
        (2048, "1024"),
        (47, "32 or 48"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_near_ones_that_do(deit: ToFe, size: int, near: str) -> None:
    with pytest.raises(InputError) as caught:
        at_image_size(deit, TINY_COUNTS, deit.backbone.preprocessing, size)
    assert str(caught.value) == (
        f"image size {size} does not fit {DEIT}: it must be a multiple of 16 (the side of a patch) from 32 to 1024; "
        f"try {near}"
    )


@given(st.integers(-100, 3000))
def test_a_size_is_taken_or_refused_with_a_size_that_is_taken(size: int) -> None:
    for backbone in full_size():
        patch = patch_size(backbone)
        if size % patch == 0 and 2 * patch <= size <= 1024:
            check_image_size(backbone, size)
            continue
        with pytest.raises(InputError) as caught:
            check_image_size(backbone, size)
        _, hint = str(caught.value).split("; try ")
        for proposed in re.findall(r"\d+", hint):
            check_image_size(backbone, int(proposed))


def test_the_patch_size_is_that_of_the_stem() -> None:
    assert [patch_size(spec) for spec in full_size()] == [16, 14, 16]


def test_a_side_is_no_multiple_of_14_where_it_is_one_of_16(tiny_tofe: TinyToFe) -> None:
    model = tiny_tofe("vit_small_patch14_reg4_dinov2", image_size=56)
    with pytest.raises(InputError, match=r"multiple of 14 .* from 28 to 1022; try 56 or 70"):
        at_image_size(model, None, model.backbone.preprocessing, 64)


def test_counts_that_do_not_fit_the_present_size_are_refused(deit: ToFe) -> None:
    for counts in (TokenCounts((9, 5)), TokenCounts((17, 5, 3))):
        with pytest.raises(InputError, match=f"token counts {counts}"):
            at_image_size(deit, counts, deit.backbone.preprocessing, 128)


def test_a_dense_backbone_has_no_counts_at_any_size(deit: ToFe) -> None:
    assert at_image_size(deit, None, deit.backbone.preprocessing, 128).counts is None


def test_a_kind_of_net_that_cannot_be_resized_says_so(deit: ToFe) -> None:
    wrapped = deit.backbone

    class Fixed(Host):
        spec, preprocessing = wrapped.spec, wrapped.preprocessing
        embed = block = attention_received = masked_block = logits = load_dense = None  # type: ignore[assignment]

    deit.backbone = Fixed()
    with pytest.raises(InputError, match="image size 128: Fixed has one size alone"):
        at_image_size(deit, None, wrapped.preprocessing, 128)
