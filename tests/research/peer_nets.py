"""Tiny nets and batches that the tests of compared methods share."""

import torch
from conftest import TINY, tiny_tofe
from torch import Tensor

from research.method import Method
from tofe_edge.model.tofe import ToFe
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.teacher import teacher_targets
from tofe_edge.training.trainer import TrainingBatch

TARGET = 0.002
"""GMACs, of 0.0026 that the dense tiny net takes."""

CONFIG = TrainingConfig(
    target_gmacs=TARGET,
    batch_size=4,
    learning_rate=1e-3,
    cls_weight=0.0,
    distillation_weight=3.0,
    budget_weight=1e6,
    noise_decay_start=0.5,
)


def tiny_teacher(depth: int = TINY["depth"]) -> ToFe:
    """A net in which nothing is zero, one or untouched."""
    return tiny_tofe(depth=depth)


def tiny_images(count: int, seed: int = 0) -> Tensor:
    """Noise, other noise in each image."""
    return torch.randn(count, 3, TINY["image_size"], TINY["image_size"], generator=torch.Generator().manual_seed(seed))


def tiny_batch(teacher: ToFe, step: int = 0, count: int = 4) -> TrainingBatch:
    """Noise, and what the teacher makes of it."""
    images = tiny_images(count, seed=step)
    return TrainingBatch(step, 0, (), images, torch.arange(count) % 10, teacher_targets(teacher, images), 0)


def unsettled(method: Method) -> Method:
    """The method with all of its parameters moved a little: none is zero, as some are at first."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        for name, parameter in method.named_parameters():
            if name.startswith("net.selectors."):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return method.eval()
