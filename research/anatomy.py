"""Blocks of a plain vision transformer taken apart: what methods that act inside a block need."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tofe_edge.model.backbones import Backbone
from tofe_edge.model.backbones.timm_vit import TimmVit, project
from tofe_edge.model.macs import Number, stem_macs
from tofe_edge.model.macs import block_macs as whole_block_macs


class Attended(NamedTuple):
    """After the attention half of a block."""

    tokens: Tensor
    """``(B, T, D)``, residual added."""
    keys: Tensor
    """``(B, H, T, d)``"""
    weights: Tensor | None
    """The attention map ``(B, H, T, T)`` where it was asked for."""


def attend(
    host: TimmVit, index: int, tokens: Tensor, bias: Tensor | None = None, with_weights: bool = False
) -> Attended:
    """The attention half of block ``index``.

    Args:
        bias: added to the scores of keys, ``(B, T)``.
    """
    block: Any = host.vit.blocks[index]
    attention = block.attn
    batch, count, _ = tokens.shape
    query, key, value = project(attention, block.norm1(tokens))
    weights: Tensor | None = None
    if with_weights:
        scores = (query * attention.head_dim**-0.5) @ key.transpose(-2, -1)
        weights = (scores if bias is None else scores + bias[:, None, None, :]).softmax(dim=-1)
        mixed = weights @ value
    else:
        mask = None if bias is None else bias[:, None, None, :].expand(-1, 1, count, -1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    out = attention.proj(mixed.transpose(1, 2).reshape(batch, count, -1))
    return Attended(tokens + block.drop_path1(block.ls1(out)), key, weights)


def feed_forward(host: TimmVit, index: int, tokens: Tensor) -> Tensor:
    """The MLP half of block ``index``."""
    block: Any = host.vit.blocks[index]
    out: Tensor = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
    return out


def run_stage(host: TimmVit, stage: int, tokens: Tensor, keep: Tensor | None = None, skip: int = 0) -> Tensor:
    """The blocks of stage ``stage`` (1 = from the first selection on), after its first ``skip``; masked by ``keep``."""
    edges = (0, *host.spec.stages, host.spec.depth)
    for index in range(edges[stage] + skip, edges[stage + 1]):
        tokens = host.block(index, tokens) if keep is None else host.masked_block(index, tokens, keep)
    return tokens


def class_attention(host: TimmVit, index: int, tokens: Tensor) -> Tensor:
    """How much CLS attends to each patch in block ``index``, mean over heads: ``(B, N)``. Queries of CLS alone."""
    block: Any = host.vit.blocks[index]
    attention = block.attn
    normed = block.norm1(tokens)
    batch, _, dim = normed.shape
    bias = attention.qkv.bias
    query = F.linear(normed[:, :1], attention.qkv.weight[:dim], None if bias is None else bias[:dim])
    key = F.linear(normed, attention.qkv.weight[dim : 2 * dim], None if bias is None else bias[dim : 2 * dim])
    query, key = (
        part.reshape(batch, -1, attention.num_heads, attention.head_dim).transpose(1, 2) for part in (query, key)
    )
    query, key = attention.q_norm(query), attention.k_norm(key)
    weights = ((query * attention.head_dim**-0.5) @ key.transpose(-2, -1)).softmax(dim=-1)
    patches: Tensor = weights[:, :, 0, 1:].mean(dim=1)
    return patches


def class_attention_macs(spec: Backbone) -> int:
    """Cost of :func:`class_attention` over all tokens: one query, all keys, their products."""
    tokens = spec.patch_tokens + spec.prefix_tokens
    return (1 + tokens) * spec.dim**2 + tokens * spec.dim


def attention_macs(tokens: Number, spec: Backbone) -> Number:
    """The attention half of a block."""
    return 4 * tokens * spec.dim**2 + 2 * tokens * tokens * spec.dim


def feed_forward_macs(tokens: Number, spec: Backbone) -> Number:
    """The MLP half of a block."""
    return 2 * tokens * spec.dim * spec.mlp_hidden


def block_macs(tokens: Number, spec: Backbone) -> Number:
    """A whole block."""
    return whole_block_macs(tokens, spec.dim, spec.mlp_hidden)


def shared_macs(spec: Backbone) -> int:
    """What all methods have in common: embedding, the blocks before the first selection, the head on CLS."""
    blocks = spec.stages[0] * block_macs(spec.patch_tokens + spec.prefix_tokens, spec)
    return stem_macs(spec) + int(blocks) + spec.dim * spec.classes


def ones_beside(mask: Tensor) -> Tensor:
    """A mask ``(B, N)`` of patches with CLS, always 1, in front: ``(B, 1 + N)``."""
    return torch.cat((mask.new_ones(len(mask), 1), mask), dim=1)
