"""Transformer layers in the operators that mobile delegates take whole.

XNNPACK's partitioner takes no ``native_layer_norm`` and none of what ``scaled_dot_product_attention``
decomposes into (``eq``, ``any``, ``where``): each such node splits the graph. So LayerNorm is two products
with a constant row and attention is bmm, softmax, bmm. Affine parts and scales are folded into weights
beforehand (:mod:`converters.folding`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters.folding import fold_norm, scale_output, split_rows


class PlainNorm(nn.Module):
    """LayerNorm without affine part over the last dimension, as products with a constant 1/D row."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.mean_row: Tensor
        self.eps: Tensor
        self.register_buffer("mean_row", torch.full((1, dim), 1.0 / dim))
        self.register_buffer("eps", torch.full((1,), eps))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - F.linear(x, self.mean_row)
        variance = F.linear(centred * centred, self.mean_row, self.eps)
        return centred * torch.rsqrt(variance)


def plain_norm(norm: nn.LayerNorm) -> PlainNorm:
    """The normalising part of a LayerNorm; its affine part belongs into the next Linear."""
    return PlainNorm(norm.normalized_shape[0], norm.eps)


class StaticAttention(nn.Module):
    """Multi-head attention on ``(1, T, D)`` with separate q, k and v; the scale is in q's weights."""

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, proj: nn.Linear, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.proj = query, key, value, proj
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        tokens, heads = x.shape[1], self.heads
        width = self.query.out_features // heads
        # All three products first: ExecuTorch's partitioner merges node groups in one backward pass, and with
        # dynamic int8 the three share a quantized input. A reshape between them would split the delegate.
        query, key, value = self.query(x), self.key(x), self.value(x)
        query = query.view(1, tokens, heads, width).permute(0, 2, 1, 3).reshape(heads, tokens, width)
        key = key.view(1, tokens, heads, width).permute(0, 2, 3, 1).reshape(heads, width, tokens)
        value = value.view(1, tokens, heads, width).permute(0, 2, 1, 3).reshape(heads, tokens, width)
        weights = torch.softmax(torch.bmm(query, key), dim=-1)
        mixed = (
            torch.bmm(weights, value)
            .view(1, heads, tokens, width)
            .permute(0, 2, 1, 3)
            .reshape(1, tokens, heads * width)
        )
        out: Tensor = self.proj(mixed)
        return out


class StaticBlock(nn.Module):
    """A pre-norm transformer block; residual scales are in ``proj`` and ``fc2``."""

    def __init__(
        self,
        norm1: PlainNorm,
        attention: StaticAttention,
        norm2: PlainNorm,
        fc1: nn.Linear,
        act: nn.Module,
        fc2: nn.Linear,
    ) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = norm1, attention, norm2
        self.fc1, self.act, self.fc2 = fc1, act, fc2

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.fc2(self.act(self.fc1(self.norm2(x))))
        return out


def static_block(block: Any, attention_scale: Tensor | float = 1.0, mlp_scale: Tensor | float = 1.0) -> StaticBlock:
    """Fold a block's norms and scales into its Linears.

    Args:
        block: timm's ``Block`` or LV-ViT's: ``norm1``, ``attn.{qkv, proj, num_heads}``, ``norm2``,
            ``mlp.{fc1, act, fc2}``.
        attention_scale, mlp_scale: factors of the residual branches (LV-ViT's 1/2, LayerScale's gamma).
    """
    query, key, value = split_rows(fold_norm(block.norm1, block.attn.qkv), 3)
    query = scale_output(query, (query.out_features // block.attn.num_heads) ** -0.5)
    return StaticBlock(
        plain_norm(block.norm1),
        StaticAttention(query, key, value, scale_output(block.attn.proj, attention_scale), block.attn.num_heads),
        plain_norm(block.norm2),
        fold_norm(block.norm2, block.mlp.fc1),
        block.mlp.act,
        scale_output(block.mlp.fc2, mlp_scale),
    )


class PatchStem(nn.Module):
    """Convolutions with ReLU between them, then patches ``(1, N, D)`` with their position embedding behind the prefix."""

    def __init__(self, convolutions: list[nn.Conv2d], prefix: Tensor, position: Tensor) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.prefix: Tensor
        self.position: Tensor
        self.register_buffer("prefix", prefix.detach().clone())
        self.register_buffer("position", position.detach().clone())

    def forward(self, image: Tensor) -> Tensor:
        *hidden, last = self.convolutions
        for conv in hidden:
            image = F.relu(conv(image))
        patches = last(image)
        patches = patches.reshape(1, patches.shape[1], -1).permute(0, 2, 1) + self.position
        return torch.cat((self.prefix, patches), dim=1)


class ClassHead(nn.Module):
    """Mean of one Linear per prefix token read, on the normalised tokens (CLS; CLS and distillation token)."""

    def __init__(self, norm: PlainNorm, heads: list[nn.Linear]) -> None:
        super().__init__()
        self.norm = norm
        self.heads = nn.ModuleList(heads)

    def forward(self, tokens: Tensor) -> Tensor:
        normalised = self.norm(tokens[:, : len(self.heads)])
        logits: Tensor = self.heads[0](normalised[:, :1] if len(self.heads) > 1 else normalised)
        for index, head in enumerate(list(self.heads)[1:], start=1):
            logits = logits + head(normalised[:, index : index + 1])
        return logits.reshape(1, -1)


class AuxHead(nn.Module):
    """LV-ViT's head: cls plus the (already weighted) maximum of aux over the patch tokens."""

    def __init__(self, norm: PlainNorm, head: nn.Linear, aux_head: nn.Linear) -> None:
        super().__init__()
        self.norm, self.head, self.aux_head = norm, head, aux_head

    def forward(self, tokens: Tensor) -> Tensor:
        normalised = self.norm(tokens)
        aux = self.aux_head(normalised[:, 1:])
        # reshape, not unsqueeze: XNNPACK takes no unsqueeze_copy, and the head would split into two delegates.
        best = F.max_pool2d(aux.reshape(1, *aux.shape), (aux.shape[1], 1)).reshape(1, -1)
        logits: Tensor = self.head(normalised[:, :1]).reshape(1, -1)
        return logits + best
