"""Two rivals timed in turns, A B B A, wherever they compute: a drift of the clock speed cancels within a round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from tofe_edge.errors import InputError
from tofe_edge.runtimes.latency import Estimate, median_of

MIN_ROUNDS = 6
"""The fewest rounds of which two hold the median between them with 95 %."""

_MAX_CALLS = 1000

Call = Callable[[], object]


@dataclass(frozen=True)
class Plan:
    """How long two rivals are timed."""

    rounds: int = 20
    seconds: float = math.inf
    """After these no further round begins, once there are six."""
    turn_s: float = 0.2
    """A turn repeats its rival until it takes about as long: what it costs to wait for a GPU is then no part of it."""
    warm_up_s: float = 0.5
    """Each rival runs so long before the first round, and twice at least."""

    def __post_init__(self) -> None:
        if self.rounds < MIN_ROUNDS:
            raise InputError(f"rounds ({self.rounds}) must be at least {MIN_ROUNDS}, of which a median has an interval")
        if not min(self.seconds, self.turn_s) > 0 or not self.warm_up_s >= 0:
            raise InputError(
                f"seconds ({self.seconds:g}) and those of a turn ({self.turn_s:g}) must be positive numbers"
            )


@dataclass(frozen=True)
class Turns:
    """Seconds per call in each round, the mean of two turns."""

    a_s: tuple[float, ...]
    b_s: tuple[float, ...]

    @property
    def medians_s(self) -> tuple[float, float]:
        """The medians of A and B over all rounds."""
        return median(self.a_s), median(self.b_s)

    @property
    def speedup(self) -> Estimate:
        """How many times as fast as A B is: the median of the rounds' ratios."""
        return median_of(self._ratios())

    @property
    def quartiles(self) -> tuple[float, float]:
        """Quartiles of the rounds' ratios: how much one round differs from another."""
        low, high = np.quantile(self._ratios(), [0.25, 0.75])
        return float(low), float(high)

    def _ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.a_s, self.b_s, strict=True)]


def take_turns(
    a: Call, b: Call, plan: Plan, synchronize: Call = lambda: None, clock: Callable[[], float] = time.perf_counter
) -> Turns:
    """Time both.

    Args:
        synchronize: waits until what was called is computed; does nothing on a CPU.
        clock: seconds.
    """

    def seconds(call: Call, calls: int) -> float:
        synchronize()
        begun = clock()
        for _ in range(calls):
            call()
        synchronize()
        return (clock() - begun) / calls

    def warm_up(call: Call) -> int:
        """Returns how often a turn calls."""
        seconds(call, 1)
        begun, one = clock(), seconds(call, 1)
        while clock() - begun < plan.warm_up_s:
            one = seconds(call, 1)
        return min(_MAX_CALLS, math.ceil(plan.turn_s / one)) if one > 0 else _MAX_CALLS

    calls_a, calls_b = warm_up(a), warm_up(b)
    begun = clock()
    a_s: list[float] = []
    b_s: list[float] = []
    while len(a_s) < MIN_ROUNDS or (len(a_s) < plan.rounds and clock() - begun < plan.seconds):
        first, second, third, fourth = (
            seconds(a, calls_a),
            seconds(b, calls_b),
            seconds(b, calls_b),
            seconds(a, calls_a),
        )
        a_s.append((first + fourth) / 2)
        b_s.append((second + third) / 2)
    return Turns(tuple(a_s), tuple(b_s))
