"""Does a device slow down under a load that does not end? The first quarter of a long run against its last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tofe_edge.errors import InputError
from tofe_edge.runtimes.latency import Estimate, Latency, median_of
from tofe_edge.runtimes.timing import Telemetry

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
