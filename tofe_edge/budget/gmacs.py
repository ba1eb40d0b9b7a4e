"""The budget selector: a number of GMACs and a list of checkpoints in, the most accurate that fits out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tofe_edge.errors import GateError
from tofe_edge.model.checkpoint import Checkpoint

TOLERANCE = 0.01
"""A checkpoint may exceed the budget by this share: learned counts are whole tokens."""

WHOLE = "; dense: it fits with all its tokens, so none is frozen"


@dataclass(frozen=True)
class Budget:
    """What a model may cost for one image, and who says so."""

    gmacs: float
    source: str


@dataclass(frozen=True)
class Candidate:
    """A checkpoint weighed against a budget."""

    checkpoint: Checkpoint
    fits: bool
    verdict: str


@dataclass(frozen=True)
class Choice:
    """What was picked and why; every other checkpoint is a runner-up, best first."""

    checkpoint: Checkpoint
    budget: Budget
    reason: str
    runners_up: tuple[Candidate, ...]


def choose(checkpoints: Sequence[Checkpoint], budget: Budget) -> Choice:
    """Pick the most accurate checkpoint that fits; between equals the cheaper one.

    Accuracy is the top-1 in each header. It is comparable between checkpoints measured on the same images;
    the verdicts name the data set.

    Raises:
        GateError: nothing fits. The message gives the feasible range.
    """
    ranked = sorted(checkpoints, key=lambda checkpoint: (-checkpoint.top1, checkpoint.gmacs, checkpoint.name))
    limit = budget.gmacs * (1 + TOLERANCE)
    fitting = [checkpoint for checkpoint in ranked if checkpoint.gmacs <= limit]
    if not fitting:
        raise GateError(_infeasible(ranked, budget))
    best = fitting[0]
    rest = [_weigh(checkpoint, limit, best) for checkpoint in ranked if checkpoint is not best]
    rest.sort(key=lambda candidate: not candidate.fits)
    reason = f"{rank_of(best)} of {len(fitting)} that fit {budget.gmacs:.2f} GMACs ({accuracy_of(best)})"
    if best.token_counts is None:
        reason += WHOLE
    return Choice(best, budget, reason, tuple(rest))


def _weigh(checkpoint: Checkpoint, limit: float, best: Checkpoint) -> Candidate:
    if checkpoint.gmacs > limit:
        over = checkpoint.gmacs - limit / (1 + TOLERANCE)
        return Candidate(checkpoint, False, f"{over:.2f} GMACs over budget ({accuracy_of(checkpoint)})")
    if not checkpoint.accuracy:
        return Candidate(checkpoint, True, f"fits, {accuracy_of(checkpoint)}")
    return Candidate(checkpoint, True, f"fits, less accurate ({accuracy_of(checkpoint)})")


def rank_of(best: Checkpoint) -> str:
    """What the best of several is: without any accuracy it is the one that takes least."""
    return "most accurate" if best.accuracy else "smallest"


def accuracy_of(checkpoint: Checkpoint) -> str:
    """Measured top-1 and on what, in words; of a reduced net how often it agrees with the dense one."""
    if not checkpoint.accuracy:
        if checkpoint.token_counts is None or not checkpoint.budgets:
            return "accuracy not measured"
        return f"accuracy not measured, agrees with the dense net on {checkpoint.budgets[0].agreement:.1f} % of images"
    return f"top-1 {checkpoint.top1:.1f} % on {checkpoint.accuracy.get('dataset', 'unnamed data')}"


def _infeasible(checkpoints: Sequence[Checkpoint], budget: Budget) -> str:
    if not checkpoints:
        return "no checkpoint to choose from; train one with `tofe-edge train` or name one with --checkpoint"
    costs = [checkpoint.gmacs for checkpoint in checkpoints]
    enough = math.ceil(round(min(costs) * 100, 6)) / 100  # rounded up: the advice must work
    dense = all(checkpoint.token_counts is None for checkpoint in checkpoints)
    smaller = "leave --dense out" if dense else "train a smaller one with `tofe-edge train --target-gmacs`"
    return (
        f"budget {budget.gmacs:.3g} GMACs ({budget.source}): nothing fits; the checkpoints at hand need {min(costs):.2f} to "
        f"{max(costs):.2f} GMACs. Raise --max-gmacs to {enough:.2f}, or {smaller}"
    )
