"""The paper's losses as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from tofe_edge.budget.cost import Cost


def approximation_loss(rearranged: Sequence[Tensor], teacher: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """Return how far approximated tokens are from the teacher's (Eq. 10).

    Args:
        rearranged: S - 1 tensors ``(B, N, D)``, the student's patch tokens at the input of l_2 … l_S.
        teacher: the teacher's, at the same points of its residual stream.
        masks: the masks ``(B, N)`` of stages 1 … S - 1 (more may follow; they are not read).

    The paper divides by the number of kept tokens and takes a plain square; its text calls that number
    "frozen", and a sum over D would dwarf the other losses. We divide by the number of frozen tokens
    (at least 1) and take the mean over D.
    """
    total = rearranged[0].new_zeros(())
    for student, target, mask in zip(rearranged, teacher, masks):
        frozen = 1 - mask
        gap = (student.float() - target.float()).square().mean(dim=-1)
        total = total + ((frozen * gap).sum(dim=1) / frozen.sum(dim=1).clamp(min=1)).mean()
    return total


def budget_loss(masks: Sequence[Tensor], cost: Cost, per_sample: bool = True) -> Tensor:
    """Return the squared gap between the net's cost and its budget, in (1e9 MACs)^2 or what is worth that (Eq. 14).

    Args:
        masks: S masks ``(B, N)``.
        cost: in GMACs, or in a device's milliseconds; see ``Cost.gap`` for their exchange rate.
        per_sample: square each sample's gap (Eq. 14), or the gap of the batch mean.
    """
    gap = cost.gap([mask.float().sum(dim=1) for mask in masks])
    return gap.square().mean() if per_sample else gap.mean().square()


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy (Eq. 11)."""
    return F.cross_entropy(logits.float(), labels)


def distillation_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return the KL divergence from the dense teacher's class distribution, per sample. Not in the paper; DynamicViT's."""
    return F.kl_div(
        F.log_softmax(logits.float(), dim=-1),
        F.log_softmax(teacher.float(), dim=-1),
        log_target=True,
        reduction="batchmean",
    )
