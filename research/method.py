"""What every compared method is: a net with a budget, an inference form whose cost is real, and losses."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.errors import InputError
from tofe_edge.model.backbones import Backbone, Host
from tofe_edge.model.backbones.timm_vit import TimmVit
from tofe_edge.model.macs import gmacs
from tofe_edge.model.tofe import KEEP, Gumbel
from tofe_edge.training.config import TrainingConfig
from tofe_edge.training.losses import classification_loss, distillation_loss, guidance_loss
from tofe_edge.training.teacher import TrainingBatch
from tofe_edge.training.views import Views

_RATIO_WEIGHT = 2.0


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
    trained: ClassVar[bool] = True
    """Whether it is meant to be trained; else it is used with the dense net's weights."""
    pretrained: ClassVar[tuple[str, ...]] = ("backbone.",)
    """What the names of parameters that start from the dense net begin with: they learn at the backbone's rate."""
    from_images: ClassVar[bool] = False
    """Whether it reaches into the blocks before the first selection, and so starts from images."""

    backbone: TimmVit

    def __init__(self, host: Host) -> None:
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
        return taught(self.infer(step.batch.view.stem), step)

    def settle(self, views: Views, config: TrainingConfig, noise: float) -> None:
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


def guided(scores: Sequence[Tensor], importance: Sequence[Tensor], config: TrainingConfig) -> dict[str, Tensor]:
    """What every learned selector is guided by, where guidance weighs anything; S tensors ``(B, n)`` each."""
    if not config.guidance_weight:
        return {}
    return {"guidance": config.guidance_weight * guidance_loss(scores, importance)}


def ratio_loss(masks: Sequence[Tensor], kept: Tensor) -> Tensor:
    """DynamicViT's: squared gaps between the shares that each image keeps and those it should, weighted.

    Args:
        masks: S masks ``(B, N)``.
        kept: ``(S,)`` token counts.
    """
    shares = torch.stack([mask.mean(dim=1) for mask in masks])
    wanted = (kept / masks[0].shape[1]).to(shares)[:, None]
    return _RATIO_WEIGHT * (shares - wanted).square().mean()


def score_of(logits: Tensor) -> Tensor:
    """Logits ``(B, n, 2)`` of keeping to scores ``(B, n)``, positive = keep."""
    return logits[..., KEEP] - logits[..., 1 - KEEP]


def draw_mask(logits: Tensor, gumbel: Gumbel | None) -> Tensor:
    """Logits ``(B, N, 2)`` of keeping to a mask ``(B, N)``; without noise: those more likely kept than not."""
    if gumbel is None:
        return (logits[..., KEEP] > logits[..., 1 - KEEP]).to(logits.dtype)
    return gumbel(F.log_softmax(logits.float(), dim=-1))[..., KEEP]
