"""What a run learns from, step by step: images just decoded and looked at by the teacher, or views prepared before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tofe_edge.model.tofe import ToFe
from tofe_edge.training.batches import TrainingSet, batches
from tofe_edge.training.config import TrainingConfig
from tofe_edge.training.teacher import TeacherView, look
from tofe_edge.training.views import Views


@dataclass(frozen=True)
class Lesson:
    """One step's examples on the device that trains."""

    step: int
    view: TeacherView
    labels: Tensor
    images: Tensor | None
    """``(B, 3, H, W)``; ``None``: the student starts where the teacher's view does."""
    unreadable: int


def lessons_from_images(
    data: TrainingSet, teacher: ToFe, config: TrainingConfig, steps: range, device: torch.device
) -> Iterator[Lesson]:
    """Random crops, the next ones decoded while the current ones are trained on."""
    preprocessing = teacher.backbone.preprocessing
    for batch in batches(data.train, preprocessing, config.batch_size, steps, config.seed, config.augmentation):
        images = batch.images.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            view = look(teacher, images)
        yield Lesson(batch.step, view, batch.labels.to(device), images, len(batch.unreadable))


def lessons_from_views(views: Views, config: TrainingConfig, steps: range, device: torch.device) -> Iterator[Lesson]:
    """Prepared views, drawn anew in each pass over them."""
    for step in steps:
        view, labels = views.draw(step, config.batch_size, config.seed)
        yield Lesson(step, view.to(device), labels.to(device), None, 0)
