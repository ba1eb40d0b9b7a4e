"""What every compared method is: a net with a budget, an inference form whose cost is real, and losses."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from tofe_edge.errors import InputError
from tofe_edge.model.backbones import Backbone, BackboneAdapter
from tofe_edge.model.backbones.timm_vit import TimmVit
from tofe_edge.model.macs import gmacs
from tofe_edge.model.tofe import Gumbel
from tofe_edge.training.batches import TrainingBatch
from tofe_edge.training.losses import classification_loss, distillation_loss
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.views import Views

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
    from_images: ClassVar[bool] = False
    """Whether it reaches into the blocks before the first selection, and so starts from images."""

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
