"""What times say of a device: does token reduction pay there (two models in turn), does it throttle (one long run)?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tofe_edge.errors import InputError
from tofe_edge.runtimes.bench import Bench
from tofe_edge.runtimes.latency import Estimate, Latency, median_of, percentile
from tofe_edge.runtimes.timing import Telemetry, Timing, TimingRequest

ROUNDS = 10
"""Turns that each model gets: enough for the interval of a median."""

_DRAWS = 1000

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
    """Median of the runs of all turns."""
    against_ms: float
    """The same of the other model."""
    gmacs: float
    against_gmacs: float
    ratio: Estimate
    """``ms / against_ms``, with the interval that drawing the turns again, each with both models, gives it."""

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
        return self.ms - self.against_ms * self.gmacs_ratio

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
    times = [(ours.latency.samples_ms, theirs.latency.samples_ms) for ours, theirs in turns]
    ms, against_ms = _medians(times)
    comparison = Comparison(ms, against_ms, model.gmacs, against.gmacs, _ratio(times))
    return comparison, tuple(turn[0] for turn in turns)


_Turn = tuple[Sequence[float], Sequence[float]]
"""Samples of both models in milliseconds."""


def _medians(turns: Sequence[_Turn]) -> tuple[float, float]:
    """Of both models over all turns."""
    ours, theirs = (np.concatenate(samples) for samples in zip(*turns, strict=True))
    return percentile(ours, 50), percentile(theirs, 50)


def _ratio(turns: Sequence[_Turn]) -> Estimate:
    """The ratio of both medians, and what 95 % of bootstrap samples of whole turns lie between."""
    generator = np.random.default_rng(0)
    drawn = [_medians([turns[one] for one in generator.integers(len(turns), size=len(turns))]) for _ in range(_DRAWS)]
    ms, against_ms = _medians(turns)
    low, high = np.percentile([one / other for one, other in drawn], [2.5, 97.5])
    return Estimate(ms / against_ms, min(float(low), ms / against_ms), max(float(high), ms / against_ms))


NOTICEABLE = 1.05
"""Slower by less than this is called steady: a governor's steps and other programs make as much."""

EXCLUDED = 1.15
"""A device is said to keep its speed only if the interval rules out a slowdown larger than this."""

LEAST_RUNS = 24
"""Six per quarter: with fewer a median has no interval."""


@dataclass(frozen=True)
class Course:
    """How a clock or a temperature went, in kHz or degrees Celsius."""

    first: float
    last: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Sustained:
    """A long run, judged."""

    seconds: float
    runs: int
    first_ms: float
    """Median of the runs that began in the first quarter of the time."""
    last_ms: float
    slowdown: float
    """``last_ms / first_ms``."""
    slowdown_low: float
    """The least that the intervals (95 % each) of both medians allow."""
    slowdown_high: float
    throttles: bool | None
    """It is slower at the end by more than ``NOTICEABLE``, and that is not chance; ``None`` if the runs differ too much to
    say. What happens within the first quarter is not seen."""
    celsius: Mapping[str, Course]
    khz: Mapping[str, Course]


def judge(latency: Latency, telemetry: Sequence[Telemetry]) -> Sustained:
    """Compare the quarters of one long run. Runs follow each other, so the intervals are narrower than the truth.

    Raises:
        InputError: there are too few runs in a quarter to say anything.
    """
    if len(latency.started_s) != len(latency.samples_ms):
        raise InputError("the runner does not tell when its runs began; build it again")
    end_s = latency.started_s[-1] + latency.samples_ms[-1] / 1e3
    first = [ms for ms, begun in zip(latency.samples_ms, latency.started_s) if begun < end_s / 4]
    last = [ms for ms, begun in zip(latency.samples_ms, latency.started_s) if begun >= end_s * 3 / 4]
    if min(len(first), len(last)) < LEAST_RUNS // 4:
        raise InputError(
            f"{len(latency.samples_ms)} runs in {end_s:.2g} s are too few to tell whether it slows down; measure for longer"
        )
    before, after = median_of(first), median_of(last)
    slowdown = Estimate(after.value / before.value, after.low / before.high, after.high / before.low)
    return Sustained(
        seconds=end_s,
        runs=len(latency.samples_ms),
        first_ms=before.value,
        last_ms=after.value,
        slowdown=slowdown.value,
        slowdown_low=slowdown.low,
        slowdown_high=slowdown.high,
        throttles=_throttles(slowdown),
        celsius=_courses([one.celsius for one in telemetry]),
        khz=_courses([one.khz for one in telemetry]),
    )


def _throttles(slowdown: Estimate) -> bool | None:
    if slowdown.value > NOTICEABLE and slowdown.low > 1:
        return True
    return False if slowdown.high <= EXCLUDED else None


def _courses(states: Sequence[Mapping[str, float]]) -> dict[str, Course]:
    names = {name: None for state in states for name in state}
    seen = {name: [state[name] for state in states if name in state] for name in names}
    return {name: Course(values[0], values[-1], min(values), max(values)) for name, values in seen.items()}
