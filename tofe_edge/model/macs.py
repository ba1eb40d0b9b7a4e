"""Multiply-accumulates of a backbone with and without ToFe. Pure arithmetic.

Counts are MACs, not "FLOPs": the paper's GFLOPs are GMACs, and ``torch.utils.flop_counter`` counts two
per MAC. Every function takes token counts as whole numbers, floats or tensors (for the budget loss) and
returns the same kind. LayerNorm, softmax, GELU and residual additions are not counted, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tofe_edge.model.backbones.spec import FEATURES, Backbone, Output

Number = Any
"""A count of tokens or MACs: int, float or tensor."""


def block_macs(tokens: Number, dim: int, mlp_hidden: int) -> Number:
    """One transformer block (Eq. 4). ``tokens`` includes CLS."""
    return 4 * tokens * dim**2 + 2 * tokens * tokens * dim + 2 * tokens * dim * mlp_hidden


def stem_macs(backbone: Backbone) -> int:
    """The patch embedding."""
    return sum(
        (backbone.image_size // conv.downsampling) ** 2 * conv.kernel**2 * conv.in_channels * conv.out_channels
        for conv in backbone.stem
    )


def selector_macs(tokens: Number, dim: int) -> Number:
    """One token selector on ``tokens`` patch tokens: D -> D/2 -> D/4 -> 2."""
    half, quarter = dim // 2, dim // 4
    return tokens * (dim * half + half * quarter + quarter * 2)


def comparison_macs(tokens: Number, dim: int) -> Number:
    """What a selector that merges adds: a Linear on the mean token, features of all tokens, and their products."""
    return dim * (dim // 2) + tokens * dim * FEATURES + tokens * tokens * FEATURES


def approximator_macs(tokens: Number, dim: int) -> Number:
    """One token approximator on ``tokens`` patch tokens: D -> D/2 -> D."""
    return tokens * 2 * dim * (dim // 2)


def merging_macs(kept: Number, frozen: Number, dim: int) -> Number:
    """Merging frozen tokens into kept ones: similarities of their features, and averages."""
    return kept * frozen * (FEATURES + dim)


def thawing_macs(kept: Number, frozen: Number, dim: int, fitted: bool = True) -> Number:
    """Undoing a merge: each frozen token's share of the kept tokens' updates, and one Linear on these if one was ``fitted``;
    nothing if none is frozen."""
    return (frozen > 0) * fitted * kept * dim**2 + kept * frozen * dim


def head_macs(backbone: Backbone, patch_tokens: Number, output: Output | None = None) -> Number:
    """What makes an output of the last block's tokens: a pool by attention, and for logits the classifier on what is pooled (CLS;
    CLS and the distillation token), and LV-ViT's auxiliary head on the patch tokens."""
    output = backbone.check_output(output)
    pool = pool_macs(backbone) if backbone.pool == "map" and output != "features" else 0
    if output != "logits":
        return pool
    aux = patch_tokens * backbone.dim * backbone.classes if backbone.aux_head else 0
    return pool + backbone.classifiers * backbone.dim * backbone.classes + aux


def pool_macs(backbone: Backbone) -> int:
    """The pool of all patch tokens by the attention of one query: keys and values, query, products, projection and MLP."""
    tokens, dim = backbone.patch_tokens, backbone.dim
    return 2 * tokens * dim**2 + 2 * tokens * dim + 2 * dim**2 + 2 * dim * backbone.mlp_hidden


def dense_macs(backbone: Backbone, output: Output | None = None) -> int:
    """The backbone without ToFe. ``output``: ``None`` is the net's default."""
    tokens = backbone.patch_tokens + backbone.prefix_tokens
    blocks = backbone.depth * block_macs(tokens, backbone.dim, backbone.mlp_hidden)
    return int(stem_macs(backbone) + blocks + head_macs(backbone, backbone.patch_tokens, output))


def tofe_macs(
    backbone: Backbone,
    kept: Sequence[Number],
    approximated: Literal["frozen", "all"] = "frozen",
    output: Output | None = None,
) -> Number:
    """The whole net with ToFe.

    Args:
        kept: ``(N^1, …, N^S)`` patch tokens kept per stage.
        approximated: ``"frozen"`` counts approximators on frozen tokens only, as exported; ``"all"`` on
            every patch token, as in the training graph (Eq. 16) and the paper's tables. Merged tokens have one count.
        output: what is read of the net; ``None``: its default.
    """
    output = backbone.check_output(output)
    tokens, dim = backbone.patch_tokens, backbone.dim
    in_stage = [tokens, *kept]
    total = stem_macs(backbone) + head_macs(backbone, kept[-1], output)
    thaws = kept if backbone.reads_patches(output) else kept[:-1]
    for blocks, count in zip(backbone.stage_lengths(), in_stage):
        total = total + blocks * block_macs(count + backbone.prefix_tokens, dim, backbone.mlp_hidden)
    total = total + len(backbone.stages) * selector_macs(tokens, dim)
    if backbone.merges:
        total = total + len(backbone.stages) * comparison_macs(tokens, dim)
        total = total + sum(merging_macs(count, tokens - count, dim) for count in kept)
        fitted = [True] * (len(kept) - 1) + [backbone.thaws_last]
        return total + sum(thawing_macs(count, tokens - count, dim, fit) for count, fit in zip(thaws, fitted))
    for count in thaws if backbone.thaws_last else kept[:-1]:
        total = total + approximator_macs(tokens - count if approximated == "frozen" else tokens, dim)
    return total


def product_macs(backbone: Backbone, kept: Sequence[int], output: Output | None = None) -> int:
    """Those of :func:`tofe_macs` that multiply activations by activations: attention, comparing, merging and thawing.

    They stay in floating point if weights are int8, and take about four times as long.
    """
    tokens, dim = backbone.patch_tokens, backbone.dim
    in_stage = [count + backbone.prefix_tokens for count in (tokens, *kept)]
    total = sum(blocks * 2 * count**2 * dim for blocks, count in zip(backbone.stage_lengths(), in_stage))
    if backbone.merges:
        total += len(kept) * tokens**2 * FEATURES + sum(merging_macs(count, tokens - count, dim) for count in kept)
        thaws = kept if backbone.reads_patches(backbone.check_output(output)) else kept[:-1]
        total += sum(count * (tokens - count) * dim for count in thaws)
    return total


def gmacs(macs: Number) -> float:
    """MACs in units of 1e9."""
    return float(macs) / 1e9
