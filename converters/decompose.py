"""Decomposing a backbone into static layers: one function per family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tofe_edge.converters.folding import fold_batch_norm, fold_norm, scale_output
from tofe_edge.converters.layers import (
    AuxHead,
    ClassHead,
    ConvolutionStem,
    LinearStem,
    StaticBlock,
    rms_norm,
    static_block,
)
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import Backbone, BackboneAdapter
from tofe_edge.model.backbones.lvvit import AUX_WEIGHT, RESIDUAL_SCALE, LvVit
from tofe_edge.model.backbones.timm_vit import TimmVit


@dataclass(frozen=True)
class StaticLayers:
    """A backbone as static layers, all norms and scales folded."""

    spec: Backbone
    stem: nn.Module
    blocks: list[StaticBlock]
    head: nn.Module


def to_static_layers(host: BackboneAdapter) -> StaticLayers:
    """Rewrite a backbone's layers for export.

    Raises:
        InputError: the backbone has a part for which no static form is known.
    """
    if isinstance(host, LvVit):
        return _decompose_lvvit(host)
    if isinstance(host, TimmVit):
        return _decompose_timm(host)
    raise InputError(f"{type(host).__name__}: this kind of backbone cannot be exported")


def _decompose_timm(host: TimmVit) -> StaticLayers:
    vit, spec = host.vit, host.spec
    if not isinstance(vit.norm_pre, nn.Identity):
        raise InputError(f"{spec.name}: a norm before the first block has no static form yet; use another backbone")
    if not isinstance(vit.blocks[0].attn.q_norm, nn.Identity):
        raise InputError(
            f"{spec.name}: normalised queries and keys have no static form yet; choose a backbone without them"
        )
    # The embedding of nothing is the prefix and the position embedding, whichever way timm lays them out.
    with torch.no_grad():
        constant: Tensor = vit._pos_embed(torch.zeros(1, spec.patch_tokens, spec.dim))
    stem = LinearStem(vit.patch_embed.proj, constant[:, : spec.prefix_tokens], constant[:, spec.prefix_tokens :])
    classifiers = [vit.head]
    if getattr(vit, "head_dist", None) is not None:
        # The distilled net averages its two heads.
        classifiers = [scale_output(vit.head, 0.5), scale_output(vit.head_dist, 0.5)]
    if not isinstance(vit.fc_norm, nn.Identity):
        raise InputError(f"{spec.name}: a norm after pooling has no static form yet")
    blocks = [
        static_block(
            block,
            _branch_scale(block.ls1),
            _branch_scale(block.ls2),
            # Of the last block nothing is read but the tokens that the heads classify.
            len(classifiers) if block is vit.blocks[-1] else None,
        )
        for block in vit.blocks
    ]
    head = ClassHead(rms_norm(vit.norm), [fold_norm(vit.norm, layer) for layer in classifiers])
    return StaticLayers(spec, stem, blocks, head)


def _branch_scale(scale: Any) -> Tensor | float:
    """LayerScale's factors, or 1 if a block has none."""
    return 1.0 if isinstance(scale, nn.Identity) else scale.gamma


def _decompose_lvvit(host: LvVit) -> StaticLayers:
    embed = host.patch_embed
    convolutions = [
        fold_batch_norm(embed.conv1, embed.bn1),
        fold_batch_norm(embed.conv2, embed.bn2),
        fold_batch_norm(embed.conv3, embed.bn3),
        embed.proj,
    ]
    stem = ConvolutionStem(convolutions, host.cls_token + host.pos_embed[:, :1], host.pos_embed[:, 1:])
    blocks = [static_block(block, RESIDUAL_SCALE, RESIDUAL_SCALE) for block in host.blocks]
    aux = scale_output(fold_norm(host.norm, host.aux_head), AUX_WEIGHT)
    return StaticLayers(host.spec, stem, blocks, AuxHead(rms_norm(host.norm), fold_norm(host.norm, host.head), aux))
