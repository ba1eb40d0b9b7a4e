"""What every compared method is: a net with a budget, an inference form whose cost is real, and losses; and the one without a method."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.errors import InputError
from tofe_edge.model.backbones import Backbone, BackboneAdapter
from tofe_edge.model.backbones.timm_vit import TimmVit, project
from tofe_edge.model.macs import Number, dense_macs, gmacs, stem_macs
from tofe_edge.model.macs import block_macs as whole_block_macs
from tofe_edge.model.tofe import Gumbel
from tofe_edge.training.losses import classification_loss, distillation_loss
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.trainer import TrainingBatch


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


_HALVINGS = 40


@dataclass(frozen=True)
class Step:
    """One step of training."""

    batch: TrainingBatch
    config: TrainingConfig
    gumbel: Gumbel | None
    """Draws masks; ``None``: tokens are gathered."""


class Method(nn.Module, ABC):
    """A method on a backbone of its own, made for a budget.

    Blocks before the first selection are those of the dense net and are not trained, unless the method says otherwise.
    """

    paper: ClassVar[str] = ""
    """The publication it is from."""

    backbone: TimmVit

    def __init__(self, host: BackboneAdapter) -> None:
        super().__init__()
        if not isinstance(host, TimmVit) or host.spec.prefix_tokens != 1:
            raise InputError(f"{host.spec.name}: peers are made for plain vision transformers whose only prefix is CLS")
        self.backbone = copy.deepcopy(host)
        first = host.spec.stages[0]
        learning = (*(f"vit.blocks.{index}." for index in range(first, host.spec.depth)), "vit.norm.", "vit.head.")
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name.startswith(learning))

    @property
    def spec(self) -> Backbone:
        """The backbone's shape."""
        return self.backbone.spec

    @property
    def selects(self) -> bool:
        """Whether there are selectors to learn, on masked tokens, before tokens are gathered."""
        return False

    @property
    def image_size(self) -> int:
        """Side of the inputs."""
        return self.spec.image_size

    @abstractmethod
    def infer(self, stem: Tensor) -> Tensor:
        """Tokens ``(B, 1 + N, D)`` at the input of block l_1 to logits; what is left out is not computed."""

    @abstractmethod
    def macs(self) -> int:
        """Multiply-accumulates of the whole net for one image, by formula."""

    @abstractmethod
    def describe(self) -> str:
        """What was chosen to meet the budget: token counts, a ratio, a size."""

    def infer_images(self, images: Tensor) -> Tensor:
        """Images to logits."""
        return self.infer(self.stem(images))

    def stem(self, images: Tensor) -> Tensor:
        """Images to tokens ``(B, 1 + N, D)`` at the input of block l_1."""
        tokens = self.backbone.embed(images)
        for index in range(self.spec.stages[0]):
            tokens = self.backbone.block(index, tokens)
        return tokens

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Weighted parts of the loss of a step."""
        return taught(self.infer_images(step.batch.images), step)

    def settle(self, images: Tensor, config: TrainingConfig, noise: float) -> None:
        """Fix what was learned on masked tokens, before tokens are gathered. Nothing where nothing was learned."""

    def gmacs(self) -> float:
        """The cost of the whole net for one image."""
        return gmacs(self.macs())


def taught(logits: Tensor, step: Step) -> dict[str, Tensor]:
    """What every method learns from: the dense model's logits and, where they weigh anything, labels."""
    config, batch = step.config, step.batch
    parts = {"distillation": config.distillation_weight * distillation_loss(logits, batch.view.logits)}
    if config.cls_weight:
        parts["classification"] = config.cls_weight * classification_loss(logits, batch.labels)
    return parts


def solve(cost: Callable[[float], float], low: float, high: float, target: float) -> float:
    """The number in ``[low, high]`` whose cost in GMACs, which rises with it or stays, is nearest to ``target``.

    Raises:
        InputError: the target is beyond the cost at either end by more than 1 %.
    """
    if not cost(low) * 0.99 <= target <= cost(high) * 1.01:
        raise InputError(f"target {target:g} GMACs is out of reach: {cost(low):.4g} to {cost(high):.4g}")
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if cost(middle) < target:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda end: abs(cost(end) - target))


class LowerResolution(Method):
    """Images are made smaller until the dense net costs what it may; all of its blocks are trained.

    Sizes are multiples of the patch, so the budget is met as nearly as they allow.
    """

    paper = "the dense net at a lower resolution"

    def __init__(self, host: BackboneAdapter, target_gmacs: float) -> None:
        super().__init__(_nearest(host, target_gmacs))
        self.requires_grad_(True)

    def infer(self, stem: Tensor) -> Tensor:
        raise InputError(f"{type(self).__name__}: starts from images of {self.image_size} pixels, not from tokens")

    def infer_images(self, images: Tensor) -> Tensor:
        size = (self.image_size, self.image_size)
        if images.shape[2:] != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
        tokens = self.backbone.embed(images)
        for index in range(self.spec.depth):
            tokens = self.backbone.block(index, tokens)
        return self.backbone.logits(tokens)

    def macs(self) -> int:
        return dense_macs(self.spec)

    def describe(self) -> str:
        return f"{self.image_size} px"


def _nearest(host: BackboneAdapter, target_gmacs: float) -> BackboneAdapter:
    spec, patch = host.spec, host.spec.stem[-1].downsampling
    sizes = range(2 * patch, spec.image_size, patch)
    if not sizes:
        raise InputError(f"{spec.name}: there is no smaller image of at least two patches a side")
    smaller = [replace(spec, image_size=size, patch_tokens=(size // patch) ** 2) for size in sizes]
    best = min(smaller, key=lambda net: abs(gmacs(dense_macs(net)) - target_gmacs))
    return host.resized(best.image_size)
