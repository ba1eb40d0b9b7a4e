"""Meeting a budget: one number solved for, and token counts that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tofe_edge.budget.cost import GmacsCost
from tofe_edge.errors import InputError
from tofe_edge.model.macs import Number, gmacs

_HALVINGS = 40

Shares = Callable[[float, int], Sequence[float]]
"""A number in [0, 1] and how many stages there are to the share of all tokens that each keeps, which rises with it."""


@dataclass(frozen=True)
class FormulaCost(GmacsCost):
    """GMACs of a net by a formula of its own."""

    formula: Callable[[Sequence[Number]], Number]
    """Patch tokens kept per stage to MACs of the whole net."""

    def of(self, kept: Sequence[Tensor]) -> Tensor:
        total: Tensor = self.formula(kept) / 1e9
        return total

    def of_counts(self, kept: Sequence[int]) -> float:
        return gmacs(self.formula(kept))


def solve(cost: Callable[[float], float], low: float, high: float, target: float) -> float:
    """The number in ``[low, high]`` whose cost, which rises with it or stays, is nearest to ``target``.

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


def counts_of(shares: Sequence[float], patch_tokens: int) -> tuple[int, ...]:
    """Shares of all patch tokens to whole counts of at least one."""
    return tuple(min(patch_tokens, max(1, round(share * patch_tokens))) for share in shares)


def fixed_counts(cost: GmacsCost, shares: Shares) -> tuple[int, ...]:
    """Token counts that meet the target, along a family of shares."""
    tokens, stages = cost.backbone.patch_tokens, len(cost.backbone.stages)
    ratio = solve(lambda ratio: cost.of_counts(counts_of(shares(ratio, stages), tokens)), 0.0, 1.0, cost.target)
    return counts_of(shares(ratio, stages), tokens)


def geometric(ratio: float, stages: int) -> Sequence[float]:
    """Each stage keeps the same share of what the one before kept: DynamicViT's choice."""
    return [ratio**stage for stage in range(1, stages + 1)]


def equal(ratio: float, stages: int) -> Sequence[float]:
    """All stages keep the same share of all."""
    return [ratio] * stages


def counts_buffer(counts: Sequence[int]) -> Tensor:
    """Counts as a buffer, so that they are part of a saved state."""
    return torch.tensor(list(counts), dtype=torch.int64)
