"""What happens to frozen tokens before they are looked at again (Table IV)."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from tofe_edge.model.backbones import Backbone
from tofe_edge.model.backbones.timm_vit import TimmVit
from tofe_edge.model.macs import Number, approximator_macs, block_macs
from tofe_edge.model.masking import masked_attention, take
from tofe_edge.model.tofe import TokenApproximator


class Approximator(nn.Module, ABC):
    """One stage's. Made from the backbone and the 0-based stage whose blocks the frozen tokens miss."""

    @abstractmethod
    def masked(self, patches: Tensor, frozen: Tensor) -> Tensor:
        """All patch tokens ``(B, N, D)``; right where ``frozen`` ``(B, N)`` is 1, anything elsewhere."""

    def gathered(self, patches: Tensor, frozen: Tensor) -> Tensor:
        """Only the tokens at positions ``frozen`` ``(B, K)``: ``(B, K, D)``."""
        own = take(patches, frozen)
        return self.masked(own, own.new_ones(own.shape[:2]))

    @abstractmethod
    def macs(self, frozen: Number, spec: Backbone) -> Number:
        """For ``frozen`` tokens out of all."""


class Bottleneck(Approximator):
    """ToFe's."""

    def __init__(self, backbone: TimmVit, stage: int) -> None:
        super().__init__()
        self.net = TokenApproximator(backbone.spec.dim)

    def masked(self, patches: Tensor, frozen: Tensor) -> Tensor:
        del frozen
        out: Tensor = self.net(patches)
        return out

    def macs(self, frozen: Number, spec: Backbone) -> Number:
        return approximator_macs(frozen, spec.dim)


class Identity(Approximator):
    """Tokens come back as they were."""

    def __init__(self, backbone: TimmVit, stage: int) -> None:
        super().__init__()

    def masked(self, patches: Tensor, frozen: Tensor) -> Tensor:
        del frozen
        return patches

    def macs(self, frozen: Number, spec: Backbone) -> Number:
        return 0


class DepthWise(Approximator):
    """A depth-wise 3 x 3 convolution over the grid of patches, residual."""

    def __init__(self, backbone: TimmVit, stage: int) -> None:
        super().__init__()
        dim = backbone.spec.dim
        self.side = math.isqrt(backbone.spec.patch_tokens)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        # Starts as the identity, like the bottleneck.
        nn.init.zeros_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def masked(self, patches: Tensor, frozen: Tensor) -> Tensor:
        del frozen
        grid = patches.transpose(1, 2).unflatten(2, (self.side, self.side))
        out: Tensor = patches + self.conv(grid).flatten(2).transpose(1, 2)
        return out

    def gathered(self, patches: Tensor, frozen: Tensor) -> Tensor:
        # Neighbours of frozen tokens may be kept ones: the whole grid is convolved, as they were before the stage.
        return take(self.masked(patches, patches), frozen)

    def macs(self, frozen: Number, spec: Backbone) -> Number:
        return spec.patch_tokens * 9 * spec.dim


class TransformerBlock(Approximator):
    """A transformer block among frozen tokens, at first the first of those that they miss."""

    def __init__(self, backbone: TimmVit, stage: int) -> None:
        super().__init__()
        self.block = copy.deepcopy(backbone.vit.blocks[backbone.spec.stages[stage]])

    def masked(self, patches: Tensor, frozen: Tensor) -> Tensor:
        attention: Any = self.block.attn
        batch, count, _ = patches.shape
        qkv = attention.qkv(self.block.norm1(patches)).reshape(batch, count, 3, attention.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = masked_attention(attention.q_norm(query), attention.k_norm(key), value, frozen)
        tokens = patches + self.block.ls1(attention.proj(mixed.transpose(1, 2).reshape(batch, count, -1)))
        out: Tensor = tokens + self.block.ls2(self.block.mlp(self.block.norm2(tokens)))
        return out

    def gathered(self, patches: Tensor, frozen: Tensor) -> Tensor:
        out: Tensor = self.block(take(patches, frozen))
        return out

    def macs(self, frozen: Number, spec: Backbone) -> Number:
        return block_macs(frozen, spec.dim, spec.mlp_hidden)
