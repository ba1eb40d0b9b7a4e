"""The Core ML graph in the layout of the Neural Engine: tokens as ``(B, C, 1, S)``, Linears as 1x1 convolutions.

Apple's advice for transformers there (https://machinelearning.apple.com/research/neural-engine-transformers): channels
first with tokens along the last, contiguous axis, convolutions in place of products with weights, and attention head by
head, so that each piece fits the Neural Engine's own memory and its cores work on several. Weights, int8 codes,
palettes, ranges and module paths are those of the graph with tokens first; only shapes differ.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.converters.coreml_graph import NativeAttention, NativeAuxHead, NativeRankSelection, native_topk
from tofe_edge.converters.int8 import DynamicInput, Int8Weights
from tofe_edge.converters.layers import ClassHead, ConvolutionStem, RmsNorm, StaticAttention, StaticBlock
from tofe_edge.converters.palettes import PaletteWeights
from tofe_edge.converters.static_graph import StaticToFe

_PRODUCT = "bchw,bwhu->bchu"
"""The one product of two such tensors that Core ML has an operator for; other letters make transpositions and matmul."""


def first_columns(x: Tensor, count: int | None) -> Tensor:
    """``x[..., :count]``; all of x without an operator where that is all of it (coremltools refuses the alias)."""
    return x if count is None or count == x.shape[-1] else x[..., :count]


class ChannelNorm(nn.Module):
    """LayerNorm without affine part over the channels of ``(B, C, 1, S)``.

    Spelled the way coremltools recognises and makes one ``layer_norm`` of. A square by ``**`` or the variance by
    ``var`` stay seven operators, of which the square overflows in float16 from 256 on.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred * torch.rsqrt((centred * centred).mean(1, keepdim=True) + self.eps)


class ChannelsFirstAttention(nn.Module):
    """Multi-head attention on ``(B, C, 1, S)``, one head after the other; the scale is in q's rows of ``qkv``."""

    def __init__(self, attention: NativeAttention) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = attention.qkv, attention.proj, attention.heads

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """Attend from the first ``queries`` tokens (all where ``None``) to all tokens: ``(B, C, 1, queries)``."""
        heads, dim = self.heads, x.shape[1]
        width = dim // heads
        # One split for everything: keys stay together, to be transposed once.
        pieces = self.qkv(x).split([width] * heads + [dim] + [width] * heads, dim=1)
        keys = pieces[heads].transpose(1, 3).split(width, dim=3)
        mixed = []
        for query, key, value in zip(pieces[:heads], keys, pieces[heads + 1 :]):
            # Keys along the channel axis: (B, S, 1, queries).
            attended = torch.softmax(torch.einsum(_PRODUCT, key, first_columns(query, queries)), 1)
            mixed.append(torch.einsum(_PRODUCT, value, attended))
        out: Tensor = self.proj(torch.cat(mixed, dim=1))
        return out


class ChannelsFirstBlock(nn.Module):
    """:class:`tofe_edge.converters.layers.StaticBlock` on ``(B, C, 1, S)``."""

    def __init__(self, block: StaticBlock) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = block.norm1, block.attn, block.norm2
        self.fc1, self.act, self.fc2 = block.fc1, block.act, block.fc2
        self.queries = block.queries

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attn(self.norm1(x), self.queries)
        x = first_columns(x, self.queries) + attended
        out: Tensor = x + self.fc2(self.act(self.fc1(self.norm2(x))))
        return out


class ChannelsFirstStem(nn.Module):
    """:class:`tofe_edge.converters.layers.ConvolutionStem` to ``(B, C, 1, S)``."""

    def __init__(self, stem: ConvolutionStem) -> None:
        super().__init__()
        self.convolutions = stem.convolutions
        self.prefix: Tensor
        self.position: Tensor
        self.register_buffer("prefix", _as_columns(stem.prefix))
        self.register_buffer("position", _as_columns(stem.position))

    def forward(self, image: Tensor) -> Tensor:
        *hidden, last = self.convolutions
        for convolution in hidden:
            image = F.relu(convolution(image))
        patches = last(image)
        batch, dim = patches.shape[:2]
        patches = patches.reshape(batch, dim, 1, -1) + self.position
        prefix = self.prefix if batch == 1 else self.prefix.expand(batch, -1, -1, -1)
        return torch.cat((prefix, patches), dim=3)


class ChannelsFirstClassHead(nn.Module):
    """:class:`tofe_edge.converters.layers.ClassHead` on ``(B, C, 1, S)``."""

    def __init__(self, head: ClassHead) -> None:
        super().__init__()
        self.norm: nn.Module = head.norm
        self.heads = head.heads

    def forward(self, tokens: Tensor) -> Tensor:
        normalised = self.norm(first_columns(tokens, len(self.heads)))
        logits: Tensor = self.heads[0](first_columns(normalised, 1))
        for index, head in enumerate(list(self.heads)[1:], start=1):
            logits = logits + head(normalised[..., index : index + 1])
        return logits.reshape(len(tokens), -1)


class ChannelsFirstAuxHead(nn.Module):
    """:class:`tofe_edge.converters.coreml_graph.NativeAuxHead` on ``(B, C, 1, S)``."""

    def __init__(self, head: NativeAuxHead) -> None:
        super().__init__()
        self.norm, self.head, self.aux_head = head.norm, head.head, head.aux_head

    def forward(self, tokens: Tensor) -> Tensor:
        normalised = self.norm(tokens)
        best = self.aux_head(normalised[..., 1:]).amax(3, keepdim=True)
        logits: Tensor = self.head(normalised[..., :1]) + best
        return logits.reshape(len(tokens), -1)


class ChannelsFirstRankSelection(nn.Module):
    """:class:`tofe_edge.converters.coreml_graph.NativeRankSelection` on scores ``(1, 1, 1, N)`` and tokens ``(1, C, 1, N)``."""

    def __init__(self, selection: NativeRankSelection) -> None:
        super().__init__()
        total = selection.places.shape[1]
        self.earlier: Tensor
        self.places: Tensor
        self.register_buffer("earlier", selection.earlier.view(1, total, 1, total))
        self.register_buffer("places", selection.places.view(1, 1, 1, total))

    def forward(self, scores: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Indices ``(1, count)``, whole numbers in float, and tokens ``(1, C, 1, count)``, best first."""
        total = tokens.shape[3]
        mine = scores.view(1, total, 1, 1)
        rank = ((scores > mine).to(scores.dtype) + (scores == mine).to(scores.dtype) * self.earlier).sum(
            3, keepdim=True
        )
        one_hot = (rank == first_columns(self.places, count)).to(scores.dtype)
        order = torch.einsum(_PRODUCT, self.places, one_hot)
        return order.view(1, count), torch.einsum(_PRODUCT, tokens, one_hot)


def channels_first_topk(scores: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """:func:`tofe_edge.converters.coreml_graph.native_topk` on scores ``(1, 1, 1, N)`` and tokens ``(1, C, 1, N)``."""
    order = torch.topk(scores.view(1, tokens.shape[3]), count, dim=1).indices
    return order, torch.index_select(tokens, 3, order.view(count))


class ChannelsFirstToFe(StaticToFe):
    """The same net with tokens as ``(B, C, 1, S)``; inputs, outputs and module paths stay. Made by :func:`channels_first`."""

    token_axis = 3

    def __init__(self, graph: StaticToFe) -> None:
        """``graph``: with its layers in the new layout already."""
        nn.Module.__init__(self)
        self.stem, self.blocks, self.head = graph.stem, graph.blocks, graph.head
        self.selectors, self.approximators = graph.selectors, graph.approximators
        self.prefix, self.kept, self.stage_blocks = graph.prefix, graph.kept, graph.stage_blocks
        self.select = channels_first_topk if graph.select is native_topk else graph.select

    def _part(self, tokens: Tensor, which: slice | Tensor) -> Tensor:
        return tokens[..., which]

    def _selected(self, stage: int, patches: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return self.select(self.selectors[stage](patches), patches, count)


def channels_first(graph: StaticToFe) -> ChannelsFirstToFe:
    """The same net in the layout of the Neural Engine, equal in output up to the order of sums.

    Args:
        graph: of :func:`tofe_edge.converters.coreml_graph.native_graph`, quantized or not; not changed.
    """
    twin = copy.deepcopy(graph)
    # Parents before their parts, which keep their paths: a replaced parent holds the old parts until their turn.
    for name, module in list(twin.named_modules()):
        replacement = _replacement(module)
        if replacement is not None:
            twin.set_submodule(name, replacement)
    return ChannelsFirstToFe(twin).eval()


def _replacement(module: nn.Module) -> nn.Module | None:
    """The module in the new layout; ``None`` where it does not know its layout, or its parts alone do."""
    assert not isinstance(module, (RmsNorm, StaticAttention, DynamicInput)), "native_graph leaves none of these"
    if isinstance(module, nn.LayerNorm):
        return ChannelNorm(module.eps)
    if isinstance(module, NativeAttention):
        return ChannelsFirstAttention(module)
    if isinstance(module, StaticBlock):
        return ChannelsFirstBlock(module)
    if isinstance(module, ConvolutionStem):
        return ChannelsFirstStem(module)
    if isinstance(module, ClassHead):
        return ChannelsFirstClassHead(module)
    if isinstance(module, NativeAuxHead):
        return ChannelsFirstAuxHead(module)
    if isinstance(module, NativeRankSelection):
        return ChannelsFirstRankSelection(module)
    return _as_convolution(module)


def _as_convolution(layer: nn.Module) -> nn.Module | None:
    """A layer with weights ``(out, in)`` as one with ``(out, in, 1, 1)``."""
    if isinstance(layer, nn.Linear):
        convolution = nn.Conv2d(layer.in_features, layer.out_features, 1, bias=layer.bias is not None)
        convolution.weight = nn.Parameter(layer.weight.detach()[:, :, None, None], requires_grad=False)
        if layer.bias is not None:
            convolution.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
        return convolution
    if isinstance(layer, (Int8Weights, PaletteWeights)) and layer.convolution is None:
        # Only its stride and padding are read.
        pointwise, weight = nn.Conv2d(1, 1, 1), layer.weight[:, :, None, None]
        if isinstance(layer, Int8Weights):
            return Int8Weights(weight, layer.scale, layer.bias, pointwise)
        return PaletteWeights(weight, layer.bias, pointwise)
    return None


def _as_columns(tokens: Tensor) -> Tensor:
    """``(1, S, C)`` as ``(1, C, 1, S)``."""
    return tokens.permute(0, 2, 1)[:, :, None].contiguous()
