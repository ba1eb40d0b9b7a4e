"""Transformer layers in the operators that mobile delegates take whole.

XNNPACK's partitioner takes no ``native_layer_norm`` and none of what ``scaled_dot_product_attention``
decomposes into (``eq``, ``any``, ``where``): each such node splits the graph. So attention is bmm, softmax, bmm,
and LayerNorm is a root mean square: everything that writes to the residual stream is centred in its weights,
affine parts and scales are folded into weights too (:mod:`tofe_edge.converters.folding`). Every operator costs XNNPACK one
to two microseconds besides its work, so there are as few as possible.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.converters.folding import (
    centre_convolution,
    centre_groups,
    centre_output,
    centre_rows,
    convolution_as_linear,
    fold_norm,
    make_linear,
    scale_output,
    weight_and_bias,
)
from tofe_edge.model.backbones.spec import activation_of


class RmsNorm(nn.Module):
    """LayerNorm without affine part of tokens whose channels have mean zero, by a product with a constant 1/D row.

    XNNPACK's own mean (a pooling) was tried in place of the product: 51 µs against 10 µs for 197 tokens of 192.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.mean_row: Tensor
        self.eps: Tensor
        self.register_buffer("mean_row", torch.full((1, dim), 1.0 / dim))
        self.register_buffer("eps", torch.full((1,), eps))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(F.linear(x * x, self.mean_row, self.eps))


class LocalNorm(RmsNorm):
    """The same of tokens outside of the residual stream: its channels are scaled by nobody."""


def rms_norm(norm: nn.LayerNorm) -> RmsNorm:
    """What is left of a LayerNorm: its centring belongs into what writes the tokens, its affine part into the next Linear."""
    return RmsNorm(norm.normalized_shape[0], norm.eps)


def last_tokens(x: Tensor, skipped: int) -> Tensor:
    """``x[:, skipped:]``; all of x without an operator if none is skipped."""
    return x[:, skipped:] if skipped else x


def behind_prefix(prefix: Tensor, tokens: Tensor) -> Tensor:
    """Tokens ``(B, N, D)`` behind prefix tokens ``(B, P, D)``; without an operator if there are none of these."""
    return torch.cat((prefix, tokens), dim=1) if prefix.shape[1] else tokens


def first_tokens(x: Tensor, count: int | None) -> Tensor:
    """``x[:, :count]``; all of x without an operator if that is all of it (an alias would stay undelegated)."""
    return x if count is None or count == x.shape[1] else x[:, :count]


class StaticAttention(nn.Module):
    """Multi-head attention on ``(B, T, D)``; the scale is in q's rows of ``qkv``.

    One product for q, k and v, one transposition for all heads, then slices. Measured against three products with a
    transposition each (3 to 4 % more time) and one product per head (7 to 10 % more), in dynamic int8.
    """

    def __init__(
        self,
        qkv: nn.Module,
        proj: nn.Module,
        heads: int,
        query_norm: nn.Module | None = None,
        key_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.qkv, self.proj = qkv, proj
        self.heads = heads
        self.query_norm, self.key_norm = query_norm, key_norm

    def forward(self, x: Tensor, queries: int | None = None, log_sizes: Tensor | None = None) -> Tensor:
        """Attend from the first ``queries`` tokens (``None``: all) to all tokens: ``(B, queries, D)``.

        ``log_sizes`` ``(B, 1, T)``: logarithms of how often each token counts; ``None``: once.
        """
        batch, tokens, dim = x.shape
        query, key, value = self._heads_first(self.qkv(x), dim // self.heads)
        query = first_tokens(query, queries)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        scores = torch.bmm(query, key.permute(0, 2, 1))
        if log_sizes is not None and batch == 1:
            scores = scores + log_sizes
        elif log_sizes is not None:
            by_image = scores.view(batch, self.heads, queries or tokens, tokens) + log_sizes.view(batch, 1, 1, tokens)
            scores = by_image.view(scores.shape)
        mixed = self.mix(scores, value)
        if batch > 1:
            mixed = mixed.view(batch, self.heads, *mixed.shape[1:])
        # contiguous().view(), not reshape(): what the exporter need not decompose costs it no second trace of the program.
        mixed = mixed.permute(*range(batch > 1), -2, -3, -1).contiguous()
        out: Tensor = self.proj(mixed.view(batch, queries or tokens, dim))
        return out

    def mix(self, scores: Tensor, value: Tensor) -> Tensor:
        """Means of ``value`` ``(B * heads, T, width)``, weighted by the softmax of ``scores`` ``(B * heads, queries, T)``."""
        # aten._softmax, not softmax(), which the exporter would decompose.
        return torch.bmm(torch.ops.aten._softmax(scores, -1, False), value)

    def _heads_first(self, qkv: Tensor, width: int) -> list[Tensor]:
        """``(B, T, 3 D)`` to q, k and v ``(B * heads, T, width)``."""
        batch, tokens, _ = qkv.shape
        heads = self.heads
        if batch == 1:
            split = qkv.view(tokens, 3 * heads, width).permute(1, 0, 2)
            return [split[first : first + heads] for first in (0, heads, 2 * heads)]
        split = qkv.view(batch, tokens, 3 * heads, width).permute(0, 2, 1, 3)
        return [
            split[:, first : first + heads].contiguous().view(batch * heads, tokens, width)
            for first in (0, heads, 2 * heads)
        ]


class StaticBlock(nn.Module):
    """A pre-norm transformer block; residual scales are in ``proj`` and ``fc2``.

    ``queries``: only this many tokens, the first ones, come out (and pay for queries, projection and MLP).
    For a last block of which a class head reads nothing else.
    """

    def __init__(
        self,
        norm1: nn.Module,
        attention: StaticAttention,
        norm2: nn.Module,
        fc1: nn.Module,
        act: nn.Module,
        fc2: nn.Module,
        queries: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = norm1, attention, norm2
        self.fc1, self.act, self.fc2 = fc1, act, fc2
        self.queries = queries

    def forward(self, x: Tensor, log_sizes: Tensor | None = None) -> Tensor:
        attended = self.attn(self.norm1(x), self.queries, log_sizes)
        x = first_tokens(x, self.queries) + attended
        out: Tensor = x + self.fc2(self.act(self.fc1(self.norm2(x))))
        return out


def static_block(
    block: Any,
    attention_scale: Tensor | float = 1.0,
    mlp_scale: Tensor | float = 1.0,
    queries: int | None = None,
) -> StaticBlock:
    """Fold a block's norms and scales into its Linears.

    Args:
        block: timm's ``Block`` or LV-ViT's: ``norm1``, ``attn.{qkv, proj, num_heads}``, ``norm2``, ``mlp``.
        attention_scale, mlp_scale: factors of the residual branches (LV-ViT's 1/2, LayerScale's gamma).
        queries: as in :class:`StaticBlock`.
    """
    fc1, act = _mlp_entry(block.mlp)
    return StaticBlock(
        rms_norm(block.norm1),
        _static_attention(block, attention_scale),
        rms_norm(block.norm2),
        fold_norm(block.norm2, fc1),
        act,
        centre_output(scale_output(block.mlp.fc2, mlp_scale)),
        queries,
    )


def _static_attention(block: Any, branch_scale: Tensor | float) -> StaticAttention:
    attention = block.attn
    qkv, heads = fold_norm(block.norm1, attention.qkv), attention.num_heads
    proj = centre_output(scale_output(attention.proj, branch_scale))
    dim = qkv.out_features // 3
    scale, query_norm = (dim // heads) ** -0.5, getattr(attention, "q_norm", None)
    if not isinstance(query_norm, nn.LayerNorm):
        scales = torch.ones(qkv.out_features)
        scales[:dim] = scale
        return StaticAttention(scale_output(qkv, scales), proj, heads)
    # Queries and keys have mean zero by their rows of the weights. The keys' factor and the scale are the queries' to apply;
    # the keys' offset adds the same to all scores of a query.
    affine, of_keys = Affine(query_norm), Affine(attention.k_norm)
    for buffer in (affine.weight, affine.bias):
        buffer.mul_(of_keys.weight * scale)
    norms = [LocalNorm(dim // heads, norm.eps) for norm in (query_norm, attention.k_norm)]
    return StaticAttention(
        centre_groups(qkv, 2 * dim, dim // heads), proj, heads, nn.Sequential(norms[0], affine), norms[1]
    )


def _mlp_entry(mlp: Any) -> tuple[nn.Linear, nn.Module]:
    """The first Linear of timm's or LV-ViT's MLP, and what is between it and the second."""
    if hasattr(mlp, "fc1_g"):
        # SwiGLU's two Linears as one.
        gate, value = weight_and_bias(mlp.fc1_g), weight_and_bias(mlp.fc1_x)
        joined = make_linear(torch.cat((gate[0], value[0])), torch.cat((gate[1], value[1])))
        return joined, Gate(_activation(mlp.act), gate_last=False)
    if mlp.fc2.in_features != mlp.fc1.out_features:
        return mlp.fc1, Gate(_activation(mlp.act), mlp.gate_last)
    return mlp.fc1, _activation(mlp.act)


def _activation(act: nn.Module) -> nn.Module:
    """One of timm's activations in operators that XNNPACK takes."""
    kind = activation_of(act)
    assert kind is not None, "refused when the net was made"
    static = {"gelu_tanh": TanhGelu, "quick_gelu": QuickGelu, "silu": Silu}.get(kind)
    return act if static is None else static()


class QuickGelu(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x * 1.702)


class TanhGelu(nn.Module):
    """GELU with its approximation by a tanh, which is written as a sigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        factor = 2 * math.sqrt(2 / math.pi)
        return x * torch.sigmoid(x * (x * x * (0.044715 * factor) + factor))


class Silu(nn.Module):
    """``x sigmoid(x)``"""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Gate(nn.Module):
    """One half of the channels times the activation of the other half."""

    def __init__(self, act: nn.Module, gate_last: bool) -> None:
        super().__init__()
        self.act, self.gate_last = act, gate_last

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        first, last = x[..., :half], x[..., half:]
        out: Tensor = first * self.act(last) if self.gate_last else self.act(first) * last
        return out


def for_each_image(row: Tensor, tokens: Tensor) -> Tensor:
    """A constant ``(1, P, D)`` for every image of ``tokens`` ``(B, N, D)``, by a sum: XNNPACK takes no expand."""
    return row if len(tokens) == 1 else row + 0.0 * tokens[:, :1]


def weighted_sum(row: Tensor, tokens: Tensor) -> Tensor:
    """The sum ``(B, 1, D)`` of tokens ``(B, N, D)`` weighted by a constant ``(1, 1, N)``, as a product: XNNPACK sums no other way."""
    return torch.bmm(for_each_image(row, tokens[:, :, :1].permute(0, 2, 1)), tokens)


class _Stem(nn.Module):
    """What the stems share: how patches become the tokens that the first block takes."""

    def __init__(self, prefix: Tensor | None, position: Tensor, norm: StreamNorm | None) -> None:
        """``norm`` is that of patch tokens before the first block; the prefix has been through it."""
        super().__init__()
        self.norm = norm
        self.prefix: Tensor | None
        self.position: Tensor
        # None for no tokens: with an empty constant ExecuTorch does not load a program.
        self.register_buffer("prefix", None if prefix is None or not prefix.shape[1] else centre_rows(prefix))
        self.register_buffer("position", centre_rows(position))

    def _to_tokens(self, patches: Tensor) -> Tensor:
        tokens = patches + self.position
        if self.norm is not None:
            tokens = self.norm(tokens)
        return tokens if self.prefix is None else torch.cat((for_each_image(self.prefix, tokens), tokens), dim=1)


class LinearStem(_Stem):
    """A patch embedding without overlap, centred, as a reordering of pixels and one Linear.

    A convolution would do the same products, but XNNPACK takes dynamic int8 for Linears only, and needs the image
    in another layout for it.
    """

    def __init__(
        self, convolution: nn.Conv2d, prefix: Tensor | None, position: Tensor, norm: StreamNorm | None = None
    ) -> None:
        super().__init__(prefix, position, norm)
        self.patch = convolution.kernel_size[0]
        self.embed: nn.Module = centre_output(convolution_as_linear(convolution))

    def forward(self, image: Tensor) -> Tensor:
        batch, channels, height, width = image.shape
        rows, columns, side = height // self.patch, width // self.patch, self.patch
        patches = image.view(batch, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5).contiguous()
        return self._to_tokens(self.embed(patches.view(batch, rows * columns, channels * side * side)))


class ConvolutionStem(_Stem):
    """Convolutions with ReLU between them, then patches ``(B, N, D)`` with their position embedding behind the prefix."""

    def __init__(
        self, convolutions: list[nn.Conv2d], prefix: Tensor | None, position: Tensor, norm: StreamNorm | None = None
    ) -> None:
        super().__init__(prefix, position, norm)
        *hidden, last = convolutions
        self.convolutions = nn.ModuleList([*hidden, centre_convolution(last)])

    def forward(self, image: Tensor) -> Tensor:
        *hidden, last = self.convolutions
        for conv in hidden:
            image = F.relu(conv(image))
        patches = last(image)
        return self._to_tokens(patches.reshape(*patches.shape[:2], -1).permute(0, 2, 1))


class StreamNorm(nn.Module):
    """A whole LayerNorm of centred tokens before the first block (CLIP's), centred again."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        affine, dim = Affine(norm), norm.normalized_shape[0]
        self.norm = LocalNorm(dim, norm.eps)
        self.weight: Tensor
        self.bias: Tensor
        self.mean_row: Tensor
        self.out: Tensor
        self.register_buffer("weight", affine.weight)
        self.register_buffer("bias", centre_rows(affine.bias))
        self.register_buffer("mean_row", affine.weight.view(1, dim) / dim)
        self.register_buffer("out", torch.ones(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x * self.weight + self.bias - F.linear(x, self.mean_row) * self.out


class ClassHead(nn.Module):
    """Mean of one Linear per prefix token read, on the normalised tokens (CLS; CLS and distillation token)."""

    def __init__(self, norm: RmsNorm, heads: list[nn.Linear]) -> None:
        super().__init__()
        self.norm = norm
        self.heads = nn.ModuleList(heads)

    def forward(self, tokens: Tensor) -> Tensor:
        normalised = self.norm(first_tokens(tokens, len(self.heads)))
        logits: Tensor = self.heads[0](first_tokens(normalised, 1))
        for index, head in enumerate(list(self.heads)[1:], start=1):
            logits = logits + head(normalised[:, index : index + 1])
        return logits.reshape(len(tokens), -1)


class AuxHead(nn.Module):
    """LV-ViT's head: cls plus the (already weighted) maximum of aux over the patch tokens."""

    def __init__(self, norm: RmsNorm, head: nn.Linear, aux_head: nn.Linear) -> None:
        super().__init__()
        self.norm, self.head, self.aux_head = norm, head, aux_head

    def forward(self, tokens: Tensor) -> Tensor:
        normalised = self.norm(tokens)
        aux = self.aux_head(normalised[:, 1:])
        # reshape, not unsqueeze: XNNPACK takes no unsqueeze_copy, and the head would split into two delegates.
        best = F.max_pool2d(aux.reshape(1, *aux.shape), (aux.shape[1], 1)).reshape(len(tokens), -1)
        logits: Tensor = self.head(normalised[:, :1]).reshape(len(tokens), -1)
        return logits + best


class Tokens(nn.Module):
    """Some of the tokens: from ``start`` on, at most ``count``."""

    def __init__(self, start: int, count: int | None = None) -> None:
        super().__init__()
        self.start, self.count = start, count

    def forward(self, tokens: Tensor) -> Tensor:
        some: Tensor = first_tokens(last_tokens(tokens, self.start), self.count)
        return some


class MeanToken(nn.Module):
    """The mean ``(B, 1, D)`` of ``count`` tokens."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.mean_row: Tensor
        self.register_buffer("mean_row", torch.full((1, 1, count), 1.0 / count))

    def forward(self, tokens: Tensor) -> Tensor:
        return weighted_sum(self.mean_row, tokens)


class Affine(nn.Module):
    """A LayerNorm's factor and offset of each channel, if no Linear is behind it that could take them."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        dim = norm.normalized_shape[0]
        self.weight: Tensor
        self.bias: Tensor
        for name, start, own in (("weight", torch.ones(dim), norm.weight), ("bias", torch.zeros(dim), norm.bias)):
            self.register_buffer(name, (start if own is None else own.detach().clone()).view(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.weight + self.bias
        return out


class UnitLength(nn.Module):
    """Vectors ``(..., D)`` divided by their length."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ones: Tensor
        self.tiny: Tensor
        self.register_buffer("ones", torch.ones(1, dim))
        self.register_buffer("tiny", torch.full((1,), 1e-12))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(F.linear(x * x, self.ones, self.tiny))


class LatentPool(nn.Module):
    """Tokens read by the attention of a learned query, then an MLP: ``(B, N, D)`` to ``(B, 1, D)``; timm's ``AttentionPoolLatent``.

    The query is a constant, so its product with the weights of the keys is one row per head; and what each head mixes are
    the tokens, from which values are made afterwards: ``heads`` of them in place of N. Both are exact.
    """

    def __init__(self, pool: Any, norm: nn.LayerNorm) -> None:
        """``norm`` is that of the tokens, whose affine part is folded."""
        super().__init__()
        heads, width, dim = pool.num_heads, pool.head_dim, pool.kv.in_features
        weight, bias = weight_and_bias(fold_norm(norm, pool.kv))
        query = pool.q(pool.latent).detach().double().view(heads, 1, width) * pool.scale
        # The keys' bias adds the same to all scores of a head.
        rows = (query @ weight[:dim].view(heads, width, dim)).view(heads, dim)
        self.score: nn.Module = make_linear(rows, torch.zeros(heads))
        self.value: nn.Module = make_linear(weight[dim:], bias[dim:])
        self.proj: nn.Module = pool.proj
        self.norm = LocalNorm(dim, pool.norm.eps)
        fc1, self.act = _mlp_entry(pool.mlp)
        self.fc1: nn.Module = fold_norm(pool.norm, fc1)
        self.fc2: nn.Module = pool.mlp.fc2
        self.own: Tensor
        self.ones: Tensor
        self.mean_row: Tensor
        self.register_buffer("own", torch.eye(heads).repeat_interleave(width, dim=1)[None])
        self.register_buffer("ones", torch.ones(1, 1, heads))
        self.register_buffer("mean_row", torch.full((1, dim), 1.0 / dim))

    def forward(self, tokens: Tensor) -> Tensor:
        # 1. What each head attends to: (B, heads, D).
        shares = torch.ops.aten._softmax(self.score(tokens).permute(0, 2, 1), -1, False)
        mixed = torch.bmm(shares, tokens)
        # 2. Of the values of each head its own channels.
        values = self.value(mixed) * self.own
        x = self.proj(weighted_sum(self.ones, values))
        # 3. An MLP.
        centred = x - F.linear(x, self.mean_row)
        out: Tensor = x + self.fc2(self.act(self.fc1(self.norm(centred))))
        return out


class Flat(nn.Module):
    """``(B, 1, D)`` to ``(B, D)``."""

    def forward(self, tokens: Tensor) -> Tensor:
        # reshape, not squeeze: see AuxHead.
        return tokens.reshape(len(tokens), -1)
