"""The course of a run: how many steps, which of them train what, their learning rates and their noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.model.tofe import Gumbel
from tofe_edge.training.recipe import TrainingConfig

_WARM_UP_SHARE = 0.02


@dataclass(frozen=True)
class Schedule:
    """Steps of a run. First selectors learn on masked tokens, then, if asked for, blocks on gathered ones.

    Args:
        selecting: steps in which selectors learn and frozen tokens are masked (the paper's training).
        gathered: steps after them with fixed token counts and frozen tokens left out.
        fixed: of the first, those with the backbone fixed.
    """

    selecting: int
    gathered: int
    fixed: int

    @classmethod
    def of(cls, config: TrainingConfig, samples: int) -> Schedule:
        """Return the epochs over ``samples`` images in steps, rounded; at least one step in all."""

        def steps(epochs: float) -> int:
            return round(epochs * samples / config.batch_size)

        gathered = min(steps(config.gathered_epochs), max(1, steps(config.epochs)))
        return cls(max(1, steps(config.epochs)) - gathered, gathered, steps(config.fixed_epochs))

    @property
    def steps(self) -> int:
        """The steps of the whole run."""
        return self.selecting + self.gathered

    def gathers(self, step: int) -> bool:
        """Whether frozen tokens are left out in this step."""
        return step >= self.selecting

    def fixes_backbone(self, step: int) -> bool:
        """Whether the backbone is fixed in this step."""
        return step < self.fixed and not self.gathers(step)

    def lr_factor(self, step: int) -> float:
        """Return the share of the way from the final learning rate to the peak: a cosine over either part of the run."""
        local, steps = (step - self.selecting, self.gathered) if self.gathers(step) else (step, self.selecting)
        return cosine(local, max(1, steps))

    def warm_up(self, step: int) -> float:
        """Return a line from nearly 0 to 1 over the first 2 % of the steps of either part.

        Ours: AdamW's second moments need it at batch 32.
        """
        local, steps = (step - self.selecting, self.gathered) if self.gathers(step) else (step, self.selecting)
        return min(1.0, (local + 1) / max(1.0, _WARM_UP_SHARE * steps))


def cosine(step: int, steps: int) -> float:
    """Return the height of a cosine that falls from 1 at step 0 to 0 behind the last one."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def set_one_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int, warm_up: float) -> None:
    """Set the learning rate of all groups: a line up to the peak over ``warm_up`` steps, times a cosine to zero."""
    for group in optimizer.param_groups:
        group["lr"] = peak * (cosine(step, steps) * min(1.0, (step + 1) / warm_up))


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW with four groups: backbone or not, matrices (decayed) or vectors (not)."""
    groups = []
    for is_backbone in (True, False):
        for is_matrix in (True, False):
            parameters = [
                parameter
                for name, parameter in model.named_parameters()
                if name.startswith("backbone.") is is_backbone and (parameter.ndim > 1) is is_matrix
            ]
            peak = config.backbone_learning_rate if is_backbone else config.learning_rate
            groups.append(
                {
                    "params": parameters,
                    "lr": peak,
                    "peak": peak,
                    "backbone": is_backbone,
                    "weight_decay": config.weight_decay if is_matrix else 0.0,
                }
            )
    return torch.optim.AdamW(groups, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, schedule: Schedule, step: int) -> None:
    """Set a cosine from each group's peak to ``final_learning_rate``; the backbone's is 0 while it is fixed."""
    lr_factor, warm_up = schedule.lr_factor(step), schedule.warm_up(step)
    for group in optimizer.param_groups:
        final = min(config.final_learning_rate, group["peak"])
        fixed = group["backbone"] and schedule.fixes_backbone(step)
        group["lr"] = 0.0 if fixed else (final + (group["peak"] - final) * lr_factor) * warm_up


def noise_scale(step: int, steps: int, decay_start: float) -> float:
    """Return the scale of the Gumbel noise at a step: 1, then a line to 0 that ends halfway between ``decay_start`` and the end."""
    if decay_start >= 1:
        return 1.0
    share = step / max(1, steps)
    return min(1.0, max(0.0, 1 - (share - decay_start) / ((1 - decay_start) / 2)))


def gumbel_sampler(seed: int, step: int, scale: float = 1.0, part: int = 0, parts: int = 1) -> Gumbel:
    """Return a sampler: hard Gumbel-softmax at temperature 1 with straight-through gradients (Eq. 9).

    Args:
        scale: of the noise; 0 takes the likelier choice.
        part: which of ``parts`` equal parts of the batch it is for; the noise of the parts is that of the batch, cut.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)

    def draw(log_probabilities: Tensor) -> Tensor:
        # Drawn on the CPU, so that a GPU run sees the same noise.
        size, *rest = log_probabilities.shape
        drawn = torch.empty(parts * size, *rest).exponential_(generator=generator)
        noise = -drawn[part * size : (part + 1) * size].log()
        soft = F.softmax(log_probabilities + scale * noise.to(log_probabilities.device), dim=-1)
        hard = F.one_hot(soft.argmax(dim=-1), 2).to(soft.dtype)
        return hard - soft.detach() + soft

    return draw
