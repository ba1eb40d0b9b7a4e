"""Does token reduction pay on a device? Two models timed in turn, and what the difference of their times says."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from tofe_edge.runtimes.bench import Bench
from tofe_edge.runtimes.latency import Estimate, median_of
from tofe_edge.runtimes.timing import Timing, TimingRequest, joined

ROUNDS = 10
"""Turns that each model gets: enough for the interval of a median."""

_WARM_UP_RUNS = 3
"""Per turn: the caches and the clock are another model's."""


@dataclass(frozen=True)
class Rival:
    """A model to be timed, and what it computes."""

    model: Path
    method: str
    gmacs: float
    """Per image."""


@dataclass(frozen=True)
class Comparison:
    """A model against another one of the same task, usually ToFe against the dense net."""

    ms: float
    """Median over all turns."""
    against_ms: float
    gmacs: float
    against_gmacs: float
    ratio: Estimate
    """``ms / against_ms``: the median of the turns' ratios."""

    @property
    def pays(self) -> bool | None:
        """Whether the model is the faster one; ``None`` if the turns do not agree enough to say."""
        if self.ratio.high < 1:
            return True
        return False if self.ratio.low > 1 else None

    @property
    def gmacs_ratio(self) -> float:
        """What the ratio of times would be if time went by multiply-accumulates alone."""
        return self.gmacs / self.against_gmacs

    @property
    def overhead_ms(self) -> float:
        """Time beyond the model's share of multiply-accumulates: selectors, reordering, shorter matrices."""
        return self.against_ms * (self.ratio.value - self.gmacs_ratio)

    @property
    def break_even(self) -> Estimate | None:
        """The share of the other model's GMACs below which reduction pays, were the overhead the same at any share.

        ``None`` if the model does not compute less, or if the turns do not say which is the faster one.
        """
        if self.pays is None or self.gmacs >= self.against_gmacs:
            return None
        ratio, saved = self.ratio, 1 + self.gmacs_ratio
        return Estimate(*(max(0.0, saved - one) for one in (ratio.value, ratio.high, ratio.low)))


def compare(
    bench: Bench, model: Rival, against: Rival, request: TimingRequest, rounds: int = ROUNDS
) -> tuple[Comparison, tuple[Timing, ...]]:
    """Time both in turn, A B B A …, so that a drifting clock speed hits them alike.

    Args:
        request: how to time; its runs are spread over the rounds, its method is not read.

    Returns:
        The comparison, and the model's own timings, one per round.

    Raises:
        InputError, DeviceError: as :meth:`Bench.time`.
    """
    share = replace(request, runs=math.ceil(request.runs / rounds), warm_up=_WARM_UP_RUNS)
    rivals = (model, against)
    turns = []
    for turn in range(rounds):
        # Whoever goes second meets the hotter device: each goes second every other time.
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        timed = {one: bench.time(rivals[one].model, replace(share, method=rivals[one].method)) for one in order}
        turns.append([timed[0], timed[1]])
    times = [[median(timing.latency.samples_ms) for timing in turn] for turn in turns]
    comparison = Comparison(
        ms=joined([turn[0] for turn in turns]).latency.percentile(50),
        against_ms=joined([turn[1] for turn in turns]).latency.percentile(50),
        gmacs=model.gmacs,
        against_gmacs=against.gmacs,
        ratio=median_of([ms / other_ms for ms, other_ms in times]),
    )
    return comparison, tuple(turn[0] for turn in turns)
