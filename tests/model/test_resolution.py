"""A trained net at another input size: what is interpolated, what stays and what it costs."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_COUNTS, TinyToFe
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.backbones.weights import resample_positions
from tofe_edge.model.checkpoint import default_classes, describe, load_model, save
from tofe_edge.model.macs import block_macs, dense_macs, stem_macs, tofe_macs
from tofe_edge.model.resolution import at_image_size, patch_size
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
def net(request: pytest.FixtureRequest, tiny_tofe: TinyToFe) -> ToFe:
    overrides = {"image_size": 56} if "patch14" in request.param else {}
    return tiny_tofe(request.param, **overrides).requires_grad_(False)


@pytest.fixture
def deit(tiny_tofe: TinyToFe) -> ToFe:
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


def write_positions(model: ToFe, grid: Tensor) -> None:
    embedding = model.state_dict()[positions_key(model)]
    embedding[0, -grid.shape[0] * grid.shape[1] :] = grid.flatten(0, 1)


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


@pytest.mark.parametrize("side", [9, 12, 14, 16])
def test_a_linear_ramp_of_positions_stays_a_ramp(net: ToFe, side: int) -> None:
    # Read at the centres of the new patches; within two old patches of the border the filter is cut off.
    net = resized(net, 8)
    slopes = torch.randn(2, net.backbone.spec.dim, generator=torch.Generator().manual_seed(0))
    old = torch.arange(8.0)
    write_positions(net, old[:, None, None] * slopes[0] + old[None, :, None] * slopes[1] + 0.5)
    _, grid = positions(resized(net, side))
    centres = (torch.arange(side) + 0.5) * 8 / side - 0.5
    wanted = centres[:, None, None] * slopes[0] + centres[None, :, None] * slopes[1] + 0.5
    inner = (centres >= 1) & (centres <= 6)
    assert int(inner.sum()) >= 5
    torch.testing.assert_close(grid[inner][:, inner], wanted[inner][:, inner], rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", [2, 4])
def test_shrinking_keeps_a_ramp_and_drops_what_the_smaller_grid_cannot_hold(deit: ToFe, side: int) -> None:
    # Without antialiasing the ramp would pass, the noise would come out as a pattern.
    large = resized(deit, 16)
    old = torch.arange(16.0)
    noise = (-1.0) ** torch.arange(16)  # the highest frequency, which must vanish
    write_positions(large, (old[:, None, None] + 5 * noise[None, :, None]).expand(-1, -1, 48))
    _, grid = positions(resized(large, side))
    assert float((grid - grid.mean(dim=1, keepdim=True)).abs().max()) < 0.5
    rows = grid.mean(dim=(1, 2))
    assert float((rows + rows.flip(0)).sub(15).abs().max()) < 1e-3
    assert bool((rows.diff() > 0).all())


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


def test_doubling_the_side_quadruples_the_stem_and_more_than_quadruples_the_blocks(net: ToFe) -> None:
    small, large = net.backbone.spec, resized(net, 8).backbone.spec
    assert stem_macs(large) == 4 * stem_macs(small)
    tokens = [spec.patch_tokens + spec.prefix_tokens for spec in (small, large)]
    assert tokens[1] - tokens[0] == 48
    cheap, dear = (block_macs(count, small.dim, small.mlp_hidden) for count in tokens)
    # All that is linear in tokens grows as they do, attention as their square.
    attention = 2 * small.dim * (tokens[1] ** 2 - tokens[0] * tokens[1])
    assert dear == cheap * tokens[1] // tokens[0] + attention
    grown = dense_macs(large) - dense_macs(small)
    aux = 48 * small.dim * small.classes if small.aux_head else 0
    assert grown == 3 * stem_macs(small) + small.depth * (dear - cheap) + aux
