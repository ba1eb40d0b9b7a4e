"""The course of a run: how many steps, which of them train what, and how loud the noise and the learning are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tofe_edge.training.config import TrainingConfig

_WARM_UP_SHARE = 0.02


@dataclass(frozen=True)
class Schedule:
    """Steps of a run. First selectors learn on masked tokens, then, where asked for, blocks on gathered ones.

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
        """Epochs over ``samples`` images in steps, rounded; at least one step in all."""

        def steps(epochs: float) -> int:
            return round(epochs * samples / config.batch_size)

        gathered = min(steps(config.gathered_epochs), max(1, steps(config.epochs)))
        return cls(max(1, steps(config.epochs)) - gathered, gathered, steps(config.fixed_epochs))

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.selecting + self.gathered

    def gathers(self, step: int) -> bool:
        """Whether frozen tokens are left out in this step."""
        return step >= self.selecting

    def fixes_backbone(self, step: int) -> bool:
        """Whether the backbone is fixed in this step."""
        return step < self.fixed and not self.gathers(step)

    def loudness(self, step: int) -> float:
        """Share of the way from the final learning rate to the peak: a cosine over either part of the run."""
        local, steps = (step - self.selecting, self.gathered) if self.gathers(step) else (step, self.selecting)
        return 0.5 * (1 + math.cos(math.pi * local / max(1, steps)))

    def warm_up(self, step: int) -> float:
        """A line from nearly 0 to 1 over the first 2 % of the steps of either part.

        Ours: AdamW's second moments need it at batch 32.
        """
        local, steps = (step - self.selecting, self.gathered) if self.gathers(step) else (step, self.selecting)
        return min(1.0, (local + 1) / max(1.0, _WARM_UP_SHARE * steps))
