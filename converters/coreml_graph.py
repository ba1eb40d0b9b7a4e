"""The static graph in the operators that Core ML (and ONNX, see ``onnx_graph.py``) takes whole: the same weights, other modules.

Core ML has layer_norm, softmax and batched matrix products of its own, and its compiler places whole operators: the
fewer there are, the less can fall off the Neural Engine. What XNNPACK needs instead (a root mean square by products, a
stem by pixel reordering) costs operators here, and x² overflows in float16 if a stream is loud.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tofe_edge.converters.layers import (
    AuxHead,
    ConvolutionStem,
    LinearStem,
    MeanToken,
    RmsNorm,
    StaticAttention,
    TanhGelu,
    UnitLength,
    first_tokens,
)
from tofe_edge.converters.selection import Select
from tofe_edge.converters.static_graph import StaticComparingSelector, StaticToFe
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.model.merging import CLOSENESS

_PIXEL_SCALE = 1 / 256
"""A power of two: pixels 0 to 255 times this are exact in float16, as pixels / 255 are not."""


class NativeAttention(nn.Module):
    """Multi-head attention on ``(B, T, D)`` with the heads as a batch axis; the scale is in q's rows of ``qkv``."""

    def __init__(self, attention: StaticAttention) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = attention.qkv, attention.proj, attention.heads
        self.query_norm, self.key_norm = attention.query_norm, attention.key_norm

    def forward(self, x: Tensor, queries: int | None = None, log_sizes: Tensor | None = None) -> Tensor:
        """As :meth:`StaticAttention.forward`."""
        batch, tokens, dim = x.shape
        heads = self.heads
        split = self.qkv(x).view(batch, tokens, 3 * heads, dim // heads).permute(0, 2, 1, 3)
        query, key, value = split.split(heads, dim=1)
        if queries is not None and queries < tokens:
            query = query[:, :, :queries]
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        scores = torch.matmul(query, key.transpose(2, 3))
        if log_sizes is not None:
            scores = scores + log_sizes[:, None]
        mixed = torch.matmul(torch.softmax(scores, -1), value)
        out: Tensor = self.proj(mixed.permute(0, 2, 1, 3).reshape(batch, queries or tokens, dim))
        return out


class NativeAuxHead(nn.Module):
    """LV-ViT's head with the maximum over tokens as one reduction."""

    def __init__(self, head: AuxHead) -> None:
        super().__init__()
        self.norm: nn.Module = head.norm
        self.head, self.aux_head = head.head, head.aux_head

    def forward(self, tokens: Tensor) -> Tensor:
        normalised = self.norm(tokens)
        logits: Tensor = self.head(normalised[:, 0]) + self.aux_head(normalised[:, 1:]).amax(1)
        return logits


class NativeMeanToken(nn.Module):
    """The mean token ``(B, 1, D)`` as one reduction."""

    def forward(self, tokens: Tensor) -> Tensor:
        mean: Tensor = tokens.mean(1, keepdim=True)
        return mean


class NativeUnitLength(nn.Module):
    """Vectors ``(..., D)`` divided by their length, in numbers that float16 holds."""

    def forward(self, x: Tensor) -> Tensor:
        small = x * x.shape[-1] ** -0.5
        out: Tensor = small * torch.rsqrt((small * small).sum(-1, keepdim=True))
        return out


class NativeComparingSelector(StaticComparingSelector):
    """A selector that compares tokens, in numbers that float16 holds: the largest exponent is taken out of the exponentials."""

    def __init__(self, selector: StaticComparingSelector) -> None:
        nn.Module.__init__(self)
        self.norm, self.fc1, self.context, self.fc2 = selector.norm, selector.fc1, selector.context, selector.fc2
        self.score, self.features, self.weight = selector.score, selector.features, selector.weight

    def mean(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1, keepdim=True)

    def mean_square(self, features: Tensor) -> Tensor:
        return (features * features).sum(2, keepdim=True) * (1 / CLOSENESS)

    def resemblance(self, features: Tensor, scores: Tensor) -> Tensor:
        better = (scores.transpose(1, 2) > scores).to(scores.dtype)
        alike = (torch.matmul(features, features.transpose(1, 2)) + 2 * CLOSENESS) * better - 2 * CLOSENESS
        largest = torch.relu(alike.amax(2, keepdim=True))
        return torch.log(torch.exp(alike - largest).sum(2, keepdim=True) + torch.exp(-largest)) + largest


class PixelInput(nn.Module):
    """Pixels 0 to 255 to ``pixels / 256 - mean``; the division by std is in the first convolution's weights.

    Core ML's own image scaling knows one scale for all channels, and zero padding has to be zero after the mean went.
    """

    def __init__(self, mean: Tensor) -> None:
        """``mean`` of each channel, of pixels divided by 255."""
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", (mean * 255 * _PIXEL_SCALE).float().view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = image * _PIXEL_SCALE - self.mean
        return out


class NativeRankSelection(nn.Module):
    """Selection by ranks with comparisons; the first comes first among equals. For one image.

    Comparisons, sums and products run on the Neural Engine, topk and gather do not. All numbers are whole; up to 2048
    tokens float16 holds them.
    """

    def __init__(self, total: int) -> None:
        super().__init__()
        self.earlier: Tensor
        self.places: Tensor
        self.register_buffer("earlier", torch.tril(torch.ones(total, total), diagonal=-1)[None])
        self.register_buffer("places", torch.arange(total, dtype=torch.float32).view(1, total, 1))

    def forward(self, scores: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As :data:`tofe_edge.converters.selection.Select`; indices are whole numbers in float."""
        batch, total, _ = tokens.shape
        mine, other = scores.view(batch, total, 1), scores.view(batch, 1, total)
        rank = ((other > mine).to(scores.dtype) + (other == mine).to(scores.dtype) * self.earlier).sum(2)
        one_hot = (rank.view(batch, 1, total) == first_tokens(self.places, count)).to(scores.dtype)
        return torch.matmul(one_hot, self.places).view(batch, count), torch.matmul(one_hot, tokens)


def native_topk(scores: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As :data:`tofe_edge.converters.selection.Select` by topk and one gather. For one image."""
    order = torch.topk(scores, count, dim=1).indices
    return order, torch.index_select(tokens, 1, order.view(count))


def native_graph(graph: StaticToFe, select: Select, pixels: Preprocessing | None = None) -> StaticToFe:
    """The same net for Core ML, equal in output up to rounding.

    Args:
        graph: in fp32, as :func:`tofe_edge.converters.static_graph.build_static_graph` makes it; not changed.
        select: ``native_topk`` or :class:`NativeRankSelection`.
        pixels: if not ``None``, the input is pixels 0 to 255 and the graph normalises them by this.
    """
    native = copy.deepcopy(graph)
    native.select = select
    # 1. Attention, stem and head.
    for name, module in list(native.named_modules()):
        replacement = _replacement(module)
        if replacement is not None:
            native.set_submodule(name, replacement)
    # 2. Norms: what was replaced above holds them.
    for name, module in list(native.named_modules()):
        if isinstance(module, RmsNorm):
            native.set_submodule(name, _layer_norm(module))
    # 3. Normalisation of pixels, if the graph is to do it.
    if pixels is not None:
        stem = native.stem
        assert isinstance(stem, ConvolutionStem)
        _divide_inputs(stem.convolutions[0], 255 * _PIXEL_SCALE * torch.tensor(pixels.std, dtype=torch.float64))
        native.stem = nn.Sequential(PixelInput(torch.tensor(pixels.mean, dtype=torch.float64)), stem)
    return native.eval()


def _replacement(module: nn.Module) -> nn.Module | None:
    if isinstance(module, StaticAttention):
        return NativeAttention(module)
    if isinstance(module, AuxHead):
        return NativeAuxHead(module)
    if isinstance(module, StaticComparingSelector):
        return NativeComparingSelector(module)
    if isinstance(module, TanhGelu):
        return nn.GELU(approximate="tanh")
    if isinstance(module, MeanToken):
        return NativeMeanToken()
    if isinstance(module, UnitLength):
        return NativeUnitLength()
    if isinstance(module, LinearStem):
        return _convolution_stem(module)
    return None


def _layer_norm(norm: RmsNorm) -> nn.LayerNorm:
    """Centring again what is centred already changes nothing."""
    return nn.LayerNorm(norm.mean_row.shape[1], float(norm.eps), elementwise_affine=False)


def _convolution_stem(stem: LinearStem) -> ConvolutionStem:
    linear = stem.embed
    assert isinstance(linear, nn.Linear) and linear.bias is not None
    channels = linear.in_features // stem.patch**2
    convolution = nn.Conv2d(channels, linear.out_features, stem.patch, stride=stem.patch)
    weight = linear.weight.detach().view(-1, channels, stem.patch, stem.patch).clone()
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
    return ConvolutionStem([convolution], stem.prefix, stem.position, stem.norm)


def _divide_inputs(layer: nn.Module, divisor: Tensor) -> None:
    assert isinstance(layer, nn.Conv2d)
    weight = layer.weight.detach().double() / divisor.view(1, -1, 1, 1)
    layer.weight = nn.Parameter(weight.float(), requires_grad=False)
