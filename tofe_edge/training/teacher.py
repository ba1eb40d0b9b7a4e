"""The dense teacher, and what a student is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from tofe_edge.model.tofe import ToFe


@dataclass(frozen=True)
class TeacherView:
    """What the student learns from the dense model on one batch."""

    stem: Tensor
    """Tokens ``(B, P + N, D)`` at the input of block l_1."""
    stages: tuple[Tensor, ...]
    """Patch tokens ``(B, N, D)`` at the input of blocks l_2 … l_S."""
    logits: Tensor
    """``(B, classes)``"""
    importance: Tensor
    """``(B, S, N)``: the attention that each patch token receives from stage s on, to the last block."""

    def to(self, device: torch.device) -> TeacherView:
        """The same on a device."""
        stages = tuple(stage.to(device) for stage in self.stages)
        return TeacherView(self.stem.to(device), stages, self.logits.to(device), self.importance.to(device))


@dataclass(frozen=True)
class TrainingBatch:
    """One step's examples on the device that trains."""

    step: int
    view: TeacherView
    labels: Tensor
    images: Tensor | None
    """``(B, 3, H, W)``; ``None``: the student starts where the teacher's view does."""
    unreadable: int


@torch.no_grad()
def teacher_targets(teacher: ToFe, images: Tensor) -> TeacherView:
    """Run the dense teacher and note its residual stream where the student is compared with it."""
    spec, backbone = teacher.backbone.spec, teacher.backbone
    tokens = stem = teacher.stem(images)
    stages, received = [], []
    for stage, (first, end) in enumerate(pairwise((*spec.stages, spec.depth)), start=1):
        paid = []
        for index in range(first, end):
            paid.append(backbone.attention_received(index, tokens))
            tokens = backbone.block(index, tokens)
        received.append(torch.stack(paid).sum(dim=0))
        if stage < len(spec.stages):
            stages.append(tokens[:, spec.prefix_tokens :])
    # What a later stage attends to is to be kept now, too: it is computed anew from here on.
    importance = torch.stack(received, dim=1).flip(1).cumsum(dim=1).flip(1)
    return TeacherView(stem, tuple(stages), backbone.logits(tokens), importance)
