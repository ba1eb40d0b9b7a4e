"""Timing: warm-up, samples, percentiles, medians and how sure they are. Knows nothing of what it times.

No distribution is assumed: latencies have none with a name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import InputError
from tofe_edge.io.progress import progress_bar

WARM_UP_RUNS = 10
CONFIDENCE = 0.95

UNDISTURBED_PERCENT = 2.0
"""Other work of a machine only ever adds to a time. On a busy one medians of the same program differ by half from
minute to minute, this percentile by a few per cent (docs/calibration.md); on a quiet one it is next to the median."""

BUSY = 1.25
"""If the median is this many times an undisturbed run, somebody should know."""


def percentile(samples: Sequence[float] | npt.NDArray[np.float64], percent: float) -> float:
    """Return the nearest-rank percentile: a value that was measured, not one between two."""
    return float(np.percentile(samples, percent, method="inverted_cdf"))


@dataclass(frozen=True)
class Latency:
    """Wall times of single runs in milliseconds, and the CPU time a run took on average."""

    samples_ms: tuple[float, ...]
    cpu_ms: float
    started_s: tuple[float, ...] = ()
    """When each run began, seconds after the first did; empty if nobody noted it."""

    def percentile(self, percent: float) -> float:
        """The nearest-rank percentile of the samples."""
        return percentile(self.samples_ms, percent)

    @property
    def disturbed(self) -> float:
        """The median over an undisturbed run."""
        return self.percentile(50) / self.percentile(UNDISTURBED_PERCENT)

    def to_json(self) -> dict[str, float]:
        """``p50``, ``p90``, ``p99`` and ``min``."""
        return {
            "p50": self.percentile(50),
            "p90": self.percentile(90),
            "p99": self.percentile(99),
            "min": min(self.samples_ms),
        }


def measure(
    run: Callable[[], Any],
    runs: int,
    warm_up: int = WARM_UP_RUNS,
    *,
    duration_s: float | None = None,
    between: Callable[[float], Any] | None = None,
) -> Latency:
    """Time ``runs`` calls one by one after ``warm_up`` calls that are not counted.

    CPU time above wall time means several threads worked; CPU time equal to wall time with several
    threads means they shared one core, as happens on virtual machines.

    Args:
        duration_s: call for so many seconds in place of ``runs`` times; at least once.
        between: called before the first counted run and after each, outside of their times, with the seconds since the
            first began.

    Raises:
        InputError: ``runs`` is not positive.
    """
    return _measure([run], runs, warm_up, duration_s, between)[0]


def measure_interleaved(
    candidates: Sequence[Callable[[], Any]], runs: int, warm_up: int = WARM_UP_RUNS
) -> list[Latency]:
    """Time several candidates in turn, A B A B …, so that a drifting clock speed hits them alike.

    Raises:
        InputError: ``runs`` is not positive.
    """
    return _measure(candidates, runs, warm_up, None, None)


def _measure(
    candidates: Sequence[Callable[[], Any]],
    runs: int,
    warm_up: int,
    duration_s: float | None,
    between: Callable[[float], Any] | None,
) -> list[Latency]:
    if runs < 1:
        raise InputError(f"runs must be at least 1, not {runs}")
    for run in candidates:
        for _ in range(warm_up):
            run()
    samples: list[list[float]] = [[] for _ in candidates]
    starts: list[list[float]] = [[] for _ in candidates]
    cpu = [0.0] * len(candidates)
    with _progress(runs, duration_s) as bar:
        if between is not None:
            between(0.0)
        first, rounds = time.perf_counter(), 0
        while _goes_on(rounds, runs, time.perf_counter() - first, duration_s):
            for index, run in enumerate(candidates):
                cpu_begun, begun = time.process_time(), time.perf_counter()
                run()
                samples[index].append((time.perf_counter() - begun) * 1e3)
                cpu[index] += (time.process_time() - cpu_begun) * 1e3
                starts[index].append(begun - first)
                if between is not None:
                    between(time.perf_counter() - first)
            rounds += 1
            bar.update(1 if duration_s is None else min(time.perf_counter() - first, duration_s) - bar.n)
    return [Latency(tuple(times), total / rounds, tuple(begun)) for times, total, begun in zip(samples, cpu, starts)]


def _goes_on(done: int, runs: int, passed_s: float, duration_s: float | None) -> bool:
    return done < runs if duration_s is None else done == 0 or passed_s < duration_s


def _progress(runs: int, duration_s: float | None) -> Any:
    if duration_s is None:
        return progress_bar("measuring", total=runs, unit="run")
    return progress_bar("measuring", total=duration_s, unit="s")


@dataclass(frozen=True)
class Estimate:
    """A value, and the ends of the interval that holds the true one in 95 % of such measurements."""

    value: float
    low: float
    high: float


def median_of(samples: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Median of independent samples and its interval between two of them, by the sign test.

    With fewer than 6 samples no two of them enclose the median with 95 %: the interval is open (infinite).

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("there are no samples")
    ordered = sorted(samples)
    cut = _left_out(len(ordered), confidence)
    low, high = (-math.inf, math.inf) if cut is None else (ordered[cut], ordered[-1 - cut])
    return Estimate(float(np.median(ordered)), low, high)


def _left_out(count: int, confidence: float) -> int | None:
    """How many samples may be left out at either end; ``None`` if even all of them are not enough."""
    tail, most = 0.0, (1 - confidence) / 2
    for cut in range(count // 2 + 1):
        # The probability that at most `cut` of `count` samples lie below the median.
        tail += math.comb(count, cut) / 2.0**count if count < 1000 else _normal_term(count, cut)
        if tail > most:
            return cut - 1 if cut else None
    return None


def _normal_term(count: int, cut: int) -> float:
    # comb(count, cut) overflows a float beyond a thousand samples.
    return math.exp(math.lgamma(count + 1) - math.lgamma(cut + 1) - math.lgamma(count - cut + 1) - count * math.log(2))
