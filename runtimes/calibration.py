"""Timing the parts of a net on a bench, in turn, so that a machine whose speed drifts hits them alike."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tofe_edge.budget.latency_model import Part
from tofe_edge.runtimes.bench import Bench
from tofe_edge.runtimes.latency import UNDISTURBED_PERCENT, percentile
from tofe_edge.runtimes.timing import Machine, Timing, TimingRequest

_WARM_UP_RUNS = 2
_WHOLE_NET_TURNS = 4
"""Per round. A whole net takes longer than a part, so that fewer of its runs are undisturbed, and the rest hangs on it."""


@dataclass(frozen=True)
class Plan:
    """How often each part is run, and how."""

    rounds: int
    runs: int
    """Per part and round."""
    threads: int
    cpus: str = ""


@dataclass(frozen=True)
class Calibrated:
    """What a calibration measured."""

    ms: Mapping[Part, float]
    """Undisturbed time of each part."""
    disturbed: float
    """Median of all runs over the undisturbed time; the median part's."""
    runs: int
    """Per part; whole nets have more."""
    machine: Machine | None


def undisturbed_ms(timing: Timing) -> float:
    """Return the time of a run that nothing else on the machine disturbs: one that was measured, next to the fastest."""
    return timing.latency.percentile(UNDISTURBED_PERCENT)


def turns(parts: Iterable[Part]) -> list[Part]:
    """Return what has its turn in a round, whole nets several times."""
    return [part for part in parts for _ in range(_WHOLE_NET_TURNS if part.kind in ("dense", "tofe") else 1)]


def time_parts(bench: Bench, programs: Mapping[Part, Path], plan: Plan, bar: Any) -> Calibrated:
    """Time every part in each of ``plan.rounds`` rounds, in an order that changes but is the same in each calibration.

    Args:
        programs: the file with each part; the method has the part's name.
        bar: a progress bar with one unit for each of :func:`turns` and round.

    Raises:
        InputError, DeviceError: as :meth:`Bench.time`; there is never half a result.
    """
    samples: dict[Part, list[float]] = {part: [] for part in programs}
    machine: Machine | None = None
    shuffle, order = random.Random(0).shuffle, turns(programs)
    for _ in range(plan.rounds):
        # In one order a machine that is slow every few seconds may be slow for the same parts each time.
        shuffle(order)
        for part in order:
            request = TimingRequest(part.method, plan.runs, None, _WARM_UP_RUNS, plan.threads, plan.cpus)
            timing = bench.time(programs[part], request)
            machine = timing.machine or machine
            samples[part] += timing.latency.samples_ms
            bar.update(1)
    quiet = {part: percentile(times, UNDISTURBED_PERCENT) for part, times in samples.items()}
    disturbed = median(percentile(times, 50) / quiet[part] for part, times in samples.items())
    return Calibrated(quiet, disturbed, plan.rounds * plan.runs, machine)
