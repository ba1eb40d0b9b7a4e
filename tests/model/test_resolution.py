"""A trained net at another input size: what is interpolated, what stays and what it costs."""

import re
from dataclasses import replace
from functools import cache
from math import isqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_COUNTS, tiny_tofe
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tofe_edge.errors import InputError
from tofe_edge.io.labels import default_classes
from tofe_edge.model.backbones import Backbone, BackboneAdapter, TokenCounts, create_backbone
from tofe_edge.model.backbones.weights import resample_positions
from tofe_edge.model.checkpoint import describe, load_model, save
from tofe_edge.model.macs import dense_macs, tofe_macs
from tofe_edge.model.resolution import at_image_size, check_image_size, patch_size, scale_counts
from tofe_edge.model.tofe import ToFe

DEIT = "deit_tiny_patch16_224"
PREFIX_POSITIONS = {
    DEIT: 1,
    "deit_tiny_distilled_patch16_224": 2,
    "deit3_small_patch16_224": 0,
    "vit_small_patch14_reg4_dinov2": 0,
    "lvvit_s": 1,
    "lvvit_m": 1,
}
"""Families, and how many of their prefix tokens have a position embedding."""

SIDES = [2, 3, 5, 6, 8]
"""Patches a side of the other size; the tiny nets have 4."""


@pytest.fixture(params=PREFIX_POSITIONS)
def net(request: pytest.FixtureRequest) -> ToFe:
    overrides = {"image_size": 56} if "patch14" in request.param else {}
    return tiny_tofe(request.param, **overrides).requires_grad_(False)


@pytest.fixture
def deit() -> ToFe:
    return tiny_tofe(DEIT).requires_grad_(False)


def pixels_of(model: ToFe, side: int) -> int:
    return side * patch_size(model.backbone.spec)


def images_for(model: ToFe) -> Tensor:
    size = model.backbone.spec.image_size
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def positions_key(model: ToFe) -> str:
    (key,) = [key for key in model.state_dict() if key.endswith("pos_embed")]
    return key


def positions(model: ToFe) -> tuple[Tensor, Tensor]:
    """The position embedding of the prefix ``(n, D)`` and of the patches ``(side, side, D)``."""
    embedding = model.state_dict()[positions_key(model)][0]
    tokens = model.backbone.spec.patch_tokens
    side = isqrt(tokens)
    return embedding[:-tokens], embedding[-tokens:].unflatten(0, (side, side))


def resized(model: ToFe, side: int) -> ToFe:
    return at_image_size(model, None, model.backbone.preprocessing, pixels_of(model, side)).model


def test_the_same_size_gives_equal_logits_and_the_very_counts(net: ToFe) -> None:
    preprocessing = net.backbone.preprocessing
    found = at_image_size(net, TINY_COUNTS, preprocessing, net.backbone.spec.image_size)
    images = images_for(net)
    assert found.counts == TINY_COUNTS and found.preprocessing == preprocessing
    assert found.model.backbone.spec == net.backbone.spec
    assert torch.equal(found.model.forward_dense(images), net.forward_dense(images))
    ours, theirs = found.model.forward_batch(images, TINY_COUNTS), net.forward_batch(images, TINY_COUNTS)
    assert torch.equal(ours.logits, theirs.logits)
    assert all(torch.equal(one, other) for one, other in zip(ours.kept, theirs.kept))


@pytest.mark.parametrize("side", SIDES)
def test_another_size_changes_the_patch_positions_and_no_other_weight(net: ToFe, side: int) -> None:
    other = resized(net, side)
    before, after = net.state_dict(), other.state_dict()
    changed = positions_key(net)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if key != changed)
    prefix, grid = positions(other)
    assert len(prefix) == PREFIX_POSITIONS[net.backbone.spec.name]
    assert torch.equal(prefix, positions(net)[0])
    assert grid.shape[:2] == (side, side) and bool(grid.isfinite().all())


@pytest.mark.parametrize("side", SIDES)
def test_the_net_at_another_size_runs_in_all_three_forms(net: ToFe, side: int) -> None:
    counts, preprocessing = TokenCounts((8, 5, 1)), replace(net.backbone.preprocessing, crop_pct=0.75)
    found = at_image_size(net, counts, preprocessing, pixels_of(net, side))
    spec = found.model.backbone.spec
    assert (spec.image_size, spec.patch_tokens) == (pixels_of(net, side), side**2)
    assert found.preprocessing == replace(preprocessing, image_size=spec.image_size)
    assert found.model.backbone.preprocessing.image_size == spec.image_size
    assert not any(module.training for module in found.model.modules())
    images = images_for(found.model)
    assert found.counts is not None
    batch = found.model.forward_batch(images, found.counts)
    assert tuple(index.shape[1] for index in batch.kept) == found.counts.kept
    masks = [torch.zeros(2, side**2).scatter(1, index, 1.0) for index in batch.kept]
    torch.testing.assert_close(found.model.forward_masked(images, masks=masks).logits, batch.logits)
    assert found.model.forward_instance(images[:1]).logits.shape == (1, 10)
    assert found.model.forward_dense(images).shape == (2, 10)


@pytest.mark.parametrize("side", SIDES)
def test_positions_equal_those_that_pillow_interpolates(net: ToFe, side: int) -> None:
    before, after = positions(net)[1], positions(resized(net, side))[1]
    for channel in (0, 17, 47):
        picture = Image.fromarray(before[..., channel].numpy().copy())
        wanted = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(after[..., channel].numpy(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize(("old", "new"), [(14, 24), (14, 28), (37, 16), (5, 2), (4, 4)])
def test_our_interpolation_equals_that_of_timm(prefix: int, old: int, new: int) -> None:
    from timm.layers import resample_abs_pos_embed

    embedding = torch.randn(1, prefix + old**2, 7, generator=torch.Generator().manual_seed(0))
    wanted = resample_abs_pos_embed(embedding, [new, new], num_prefix_tokens=prefix)
    torch.testing.assert_close(resample_positions(embedding, old, new), wanted)


@pytest.mark.parametrize("side", [3, 4, 6])
def test_the_original_is_untouched_and_shares_nothing(net: ToFe, side: int) -> None:
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    spec = net.backbone.spec
    other = resized(net, side)
    for value in other.state_dict().values():
        value.fill_(3)
    assert net.backbone.spec is spec and all(module.training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("side", [2, 6])
def test_a_net_at_another_size_is_saved_and_built_again(net: ToFe, side: int, tmp_path: Path) -> None:
    found = at_image_size(net, TINY_COUNTS, net.backbone.preprocessing, pixels_of(net, side))
    spec = found.model.backbone.spec
    assert spec.overrides == {**net.backbone.spec.overrides, "image_size": spec.image_size}
    header = describe("resized", spec, found.preprocessing, default_classes(10), found.counts)
    again = load_model(save(tmp_path / "resized.safetensors", found.model, header, half=False))
    images = images_for(found.model)
    assert torch.equal(again.forward_dense(images), found.model.forward_dense(images))


@pytest.mark.parametrize("side", SIDES)
def test_macs_at_another_size_equal_a_count_over_the_module(net: ToFe, side: int) -> None:
    found = at_image_size(net, TINY_COUNTS, net.backbone.preprocessing, pixels_of(net, side))
    spec, counts = found.model.backbone.spec, found.counts
    assert counts is not None
    images = images_for(found.model)[:1]
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as dense:
            found.model.forward_dense(images)
        with FlopCounterMode(display=False) as tofe:
            found.model.forward_batch(images, counts)
    assert dense.get_total_flops() == 2 * dense_macs(spec)
    assert tofe.get_total_flops() == 2 * tofe_macs(spec, counts.kept)


@cache
def full_size() -> list[Backbone]:
    """Published nets with patches of 16 and of 14 pixels."""
    with torch.device("meta"):
        return [
            create_backbone(name, {"classes": 10}).spec for name in (DEIT, "vit_small_patch14_reg4_dinov2", "lvvit_s")
        ]


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


NEAR = {300: "288 or 304", 16: "32", 0: "32", -16: "32", 15: "32", 1040: "1024", 2048: "1024", 47: "32 or 48"}


@pytest.mark.parametrize(("size", "near"), NEAR.items())
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


def test_a_side_is_no_multiple_of_14_where_it_is_one_of_16() -> None:
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

    class Fixed(BackboneAdapter):
        spec, preprocessing = wrapped.spec, wrapped.preprocessing
        embed = block = attention_received = masked_block = features = pooled = logits = load_dense = None  # type: ignore[assignment]

    deit.backbone = Fixed()
    with pytest.raises(InputError, match="image size 128: Fixed has one size alone"):
        at_image_size(deit, None, wrapped.preprocessing, 128)
