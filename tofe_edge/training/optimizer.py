"""AdamW over parameter groups, and the learning-rate schedule."""

from __future__ import annotations

import torch
from torch import nn

from tofe_edge.training.config import TrainingConfig
from tofe_edge.training.schedule import Schedule


def make_optimizer(
    model: nn.Module, config: TrainingConfig, backbone: tuple[str, ...] = ("backbone.",)
) -> torch.optim.AdamW:
    """AdamW with four groups: backbone or not, matrices (decayed) or vectors (not).

    Args:
        backbone: what the names of the backbone's parameters begin with.
    """
    groups = []
    for is_backbone in (True, False):
        for is_matrix in (True, False):
            parameters = [
                parameter
                for name, parameter in model.named_parameters()
                if name.startswith(backbone) is is_backbone and (parameter.ndim > 1) is is_matrix
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
    return torch.optim.AdamW(groups)


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, schedule: Schedule, step: int) -> None:
    """Cosine from each group's peak to ``final_learning_rate``; the backbone's is 0 while it is fixed."""
    loudness, warm_up = schedule.loudness(step), schedule.warm_up(step)
    for group in optimizer.param_groups:
        final = min(config.final_learning_rate, group["peak"])
        fixed = group["backbone"] and schedule.fixes_backbone(step)
        group["lr"] = 0.0 if fixed else (final + (group["peak"] - final) * loudness) * warm_up
