"""Meeting a budget: one number solved for, token counts that follow from it, and counts that selectors have learned."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from research.method import Method
from tofe_edge.budget.cost import Cost, GmacsCost, fit_to_budget
from tofe_edge.errors import InputError
from tofe_edge.model.macs import Number, gmacs
from tofe_edge.model.tofe import TrainingOutput
from tofe_edge.training.schedule import gumbel_sampler
from tofe_edge.training.views import Views

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


class Counted(Method):
    """A method of which each stage keeps so many tokens of an image. Where they are not learned they stay as solved."""

    cost: FormulaCost
    kept: Tensor
    """Token counts, as a buffer: they are part of a saved state."""

    def solve_counts(self, target_gmacs: float, shares: Shares) -> None:
        """Choose the counts, once all is there that ``macs_of`` asks."""
        self.cost = FormulaCost(self.spec, target_gmacs, self.macs_of)
        self.register_buffer("kept", counts_buffer(fixed_counts(self.cost, shares)))

    def keep(self, counts: Sequence[int]) -> None:
        """Keep so many from now on."""
        self.kept.copy_(counts_buffer(counts))

    @property
    def counts(self) -> tuple[int, ...]:
        """Patch tokens kept per stage."""
        return tuple(self.kept.tolist())

    @abstractmethod
    def macs_of(self, kept: Sequence[Number]) -> Number:
        """Whole net with these token counts."""

    def macs(self) -> int:
        return int(self.macs_of(self.counts))

    def describe(self) -> str:
        return f"keeps {', '.join(map(str, self.counts))} tokens"


_VIEWS = 256
_BATCH = 32
_FAR_STEP = 1_000_000
"""No run has as many: these draws are none of its own."""


@torch.no_grad()
def learned_counts(
    masked_from: Callable[..., TrainingOutput], views: Views, cost: Cost, seed: int, noise: float
) -> tuple[int, ...]:
    """Mean kept tokens per stage over 256 views, or all where there are fewer, brought to the budget.

    Args:
        noise: scale of the Gumbel noise with which the selectors have just been trained: what they keep without it
            differs while they are undecided.
    """
    batch = min(_BATCH, len(views))
    steps = max(1, min(_VIEWS, len(views)) // batch)
    sums: Tensor | None = None
    for step in range(_FAR_STEP, _FAR_STEP + steps):
        view, _ = views.draw(step, batch, seed)
        masks = masked_from(view.stem, gumbel_sampler(seed, step, noise) if noise else None).masks
        kept = torch.stack([mask.sum() for mask in masks]).double()
        sums = kept if sums is None else sums + kept
    assert sums is not None
    return fit_to_budget(tuple((sums / (steps * batch)).tolist()), cost).counts.kept
