"""The dense teacher, and what a student is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tofe_edge.tofe import ToFe


@dataclass(frozen=True)
class TeacherView:
    """What the student learns from the dense model on one batch."""

    stem: Tensor
    """Tokens ``(B, P + N, D)`` at the input of block l_1."""
    stages: tuple[Tensor, ...]
    """Patch tokens ``(B, N, D)`` at the input of blocks l_2 … l_S."""
    logits: Tensor
    """``(B, classes)``"""

    def to(self, device: torch.device) -> TeacherView:
        """The same on a device."""
        return TeacherView(
            self.stem.to(device), tuple(stage.to(device) for stage in self.stages), self.logits.to(device)
        )


@torch.no_grad()
def look(teacher: ToFe, images: Tensor) -> TeacherView:
    """Run the dense teacher and note its residual stream where the student is compared with it."""
    prefix = teacher.backbone.spec.prefix_tokens
    tokens = stem = teacher.run_blocks(0, teacher.backbone.embed(images))
    stages = []
    for stage in range(1, len(teacher.selectors) + 1):
        tokens = teacher.run_blocks(stage, tokens)
        if stage <= len(teacher.approximators):
            stages.append(tokens[:, prefix:])
    return TeacherView(stem, tuple(stages), teacher.backbone.logits(tokens))
