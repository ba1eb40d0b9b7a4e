"""AdamW over parameter groups, and the learning-rate schedule."""

from __future__ import annotations

import math

import torch

from tofe_edge.tofe import ToFe
from tofe_edge.training.config import TrainingConfig

_WARM_UP_SHARE = 0.02


def make_optimizer(model: ToFe, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with four groups: backbone or not, matrices (decayed) or vectors (not)."""
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
    return torch.optim.AdamW(groups)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int, steps: int, free_at: int
) -> None:
    """Cosine from each group's peak to ``final_learning_rate``; the backbone's is 0 before step ``free_at``.

    A linear warm-up over the first 2 % of steps is ours: AdamW's second moments need it at batch 32.
    """
    warm_up = min(1.0, (step + 1) / max(1.0, _WARM_UP_SHARE * steps))
    cosine = 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))
    for group in optimizer.param_groups:
        final = min(config.final_learning_rate, group["peak"])
        rate = (final + (group["peak"] - final) * cosine) * warm_up
        group["lr"] = 0.0 if group["backbone"] and step < free_at else rate
