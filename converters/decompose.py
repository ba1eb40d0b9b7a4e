"""Decomposing a backbone into static layers: one function per family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tofe_edge.converters.folding import fold_batch_norm, fold_norm, scale_output
from tofe_edge.converters.layers import (
    Affine,
    AuxHead,
    ClassHead,
    ConvolutionStem,
    Flat,
    LatentPool,
    LinearStem,
    MeanToken,
    StreamNorm,
    Tokens,
    UnitLength,
    rms_norm,
    static_block,
)
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import Backbone, BackboneAdapter
from tofe_edge.model.backbones.lvvit import AUX_WEIGHT, RESIDUAL_SCALE, LvVit
from tofe_edge.model.backbones.spec import Output
from tofe_edge.model.backbones.timm_vit import TimmVit


@dataclass(frozen=True)
class StaticLayers:
    """A backbone as static layers, all norms and scales folded, for one output."""

    spec: Backbone
    stem: nn.Module
    blocks: Sequence[nn.Module]
    head: nn.Module
    output: Output


def to_static_layers(host: BackboneAdapter, output: Output | None = None, normalize: bool = False) -> StaticLayers:
    """Rewrite a backbone's layers for export.

    Args:
        output: what the head gives; ``None``: the backbone's default.
        normalize: whether an embedding is divided by its length.

    Raises:
        InputError: the backbone has a part for which no static form is known, or not this output.
    """
    output = host.spec.check_output(output)
    if normalize and output != "embedding":
        raise InputError(f"{host.spec.name}: {output} are not divided by a length; that is for an embedding")
    if isinstance(host, LvVit):
        return _decompose_lvvit(host, output, normalize)
    if isinstance(host, TimmVit):
        return _decompose_timm(host, output, normalize)
    raise InputError(f"{type(host).__name__}: this kind of backbone cannot be exported")


def _decompose_timm(host: TimmVit, output: Output, normalize: bool) -> StaticLayers:
    vit, spec = host.vit, host.spec
    # The embedding of nothing is the prefix and the position embedding, whichever way timm lays them out.
    with torch.no_grad():
        constant: Tensor = vit._pos_embed(torch.zeros(1, spec.patch_tokens, spec.dim))
        prefix: Tensor = vit.norm_pre(constant[:, : spec.prefix_tokens])
    norm = StreamNorm(vit.norm_pre) if isinstance(vit.norm_pre, nn.LayerNorm) else None
    stem = LinearStem(vit.patch_embed.proj, prefix, constant[:, spec.prefix_tokens :], norm)
    blocks = [
        static_block(
            block,
            _branch_scale(block.ls1),
            _branch_scale(block.ls2),
            # Of the last block nothing is read but what the head reads.
            spec.classifiers if block is vit.blocks[-1] and not spec.reads_patches(output) else None,
        )
        for block in vit.blocks
    ]
    return StaticLayers(spec, stem, blocks, _timm_head(host, output, normalize), output)


def _timm_head(host: TimmVit, output: Output, normalize: bool) -> nn.Module:
    vit, spec = host.vit, host.spec
    after_pool = isinstance(vit.norm, nn.Identity)
    norm: nn.LayerNorm = vit.fc_norm if after_pool else vit.norm
    if output == "features":
        return _features(spec, norm)
    if spec.pool != "token":
        tokens, normed = Tokens(spec.prefix_tokens), rms_norm(norm)
        if spec.pool == "map":
            pool = [normed, LatentPool(vit.attn_pool, norm)]
            end = [vit.head, Flat()] if output == "logits" else _ending(spec, normalize)
        else:
            mean = MeanToken(spec.patch_tokens)
            pool = [mean, normed] if after_pool else [normed, mean]
            end = (
                [fold_norm(norm, vit.head), Flat()] if output == "logits" else [Affine(norm), *_ending(spec, normalize)]
            )
        return nn.Sequential(tokens, *pool, *end)
    if output == "embedding":
        return _token_embedding(spec, norm, normalize)
    classifiers = [vit.head]
    if spec.classifiers == 2:
        # The distilled net averages its two heads.
        classifiers = [scale_output(vit.head, 0.5), scale_output(vit.head_dist, 0.5)]
    return ClassHead(rms_norm(norm), [fold_norm(norm, layer) for layer in classifiers])


def _features(spec: Backbone, norm: nn.LayerNorm) -> nn.Module:
    """The patch tokens behind their norm."""
    return nn.Sequential(Tokens(spec.prefix_tokens), rms_norm(norm), Affine(norm))


def _token_embedding(spec: Backbone, norm: nn.LayerNorm, normalize: bool) -> nn.Module:
    """CLS behind its norm, or the mean of CLS and the distillation token."""
    read = spec.classifiers
    mean = [MeanToken(read)] if read > 1 else []
    return nn.Sequential(Tokens(0, read), rms_norm(norm), *mean, Affine(norm), *_ending(spec, normalize))


def _ending(spec: Backbone, normalize: bool) -> list[nn.Module]:
    return [UnitLength(spec.dim), Flat()] if normalize else [Flat()]


def _branch_scale(scale: Any) -> Tensor | float:
    """LayerScale's factors, or 1 if a block has none."""
    return 1.0 if isinstance(scale, nn.Identity) else scale.gamma


def _decompose_lvvit(host: LvVit, output: Output, normalize: bool) -> StaticLayers:
    embed, norm, spec = host.patch_embed, host.norm, host.spec
    convolutions = [
        fold_batch_norm(embed.conv1, embed.bn1),
        fold_batch_norm(embed.conv2, embed.bn2),
        fold_batch_norm(embed.conv3, embed.bn3),
        embed.proj,
    ]
    stem = ConvolutionStem(convolutions, host.cls_token + host.pos_embed[:, :1], host.pos_embed[:, 1:])
    blocks = [static_block(block, RESIDUAL_SCALE, RESIDUAL_SCALE) for block in host.blocks]
    head: nn.Module
    if output == "logits":
        aux = scale_output(fold_norm(norm, host.aux_head), AUX_WEIGHT)
        head = AuxHead(rms_norm(norm), fold_norm(norm, host.head), aux)
    elif output == "features":
        head = _features(spec, norm)
    else:
        head = _token_embedding(spec, norm, normalize)
        blocks[-1].queries = spec.classifiers
    return StaticLayers(spec, stem, blocks, head, output)
