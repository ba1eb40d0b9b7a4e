"""Which budget to run next: the largest whose predicted 90th percentile (p90) keeps a deadline.

An elastic artifact holds several budgets of one net as named methods; a larger one is more accurate and slower::

    governor = DeadlineGovernor([Rung("forward", 4.6), Rung("forward_97_67_26", 2.0)], DeadlineConfig(deadline_ms=33))
    while True:
        method = governor.method
        governor.observe(time_one_run_of(method))

No clock, no I/O, no randomness: the same observations give the same decisions. Time is counted in runs, one a call of
:meth:`DeadlineGovernor.observe`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tofe_edge.errors import InputError


@dataclass(frozen=True)
class Rung:
    """One budget. Latency is taken to be proportional to GMACs until measured.

    Only ratios count, so latencies measured beforehand may stand in place of GMACs; they include what a run costs at any budget.
    """

    method: str
    gmacs: float


@dataclass(frozen=True)
class DeadlineConfig:
    """The deadline and how careful to be about it. Counts are in runs; the reason follows each constant.

    Raises:
        InputError: a value is out of its range.
    """

    deadline_ms: float
    percentile: float = 90.0  # nearest rank: one run in ten may be late, scheduling makes some late anyway
    window: int = 32  # samples of the present rung: 4 slow ones are a slowdown, 3 are outliers
    min_samples: int = 10  # the fewest whose p90 is not their maximum, so that one outlier cannot switch
    settle: int = 3  # runs ignored after a switch: cold caches, first touches of memory, runs still in a pipeline
    margin: float = 0.85  # go only to a rung predicted under this share of the deadline: room for noise in the p90,
    # and a step down is decided on the first few slow samples, which tell less than the whole slowdown
    dwell: int = 32  # consecutive good decisions before a step up: a whole window of them
    trial: int = 256  # a step up undone within so many runs has failed: heat may take that long to throttle
    max_wait: int = 1024  # longest back-off, and the age at which another rung's p90 is no longer relied on: a try
    # that fails costs settle + min_samples late runs, about 1 % of these

    def __post_init__(self) -> None:
        """Refuse what the governor could not work with."""
        enough = 0 < self.percentile < 100 and self.rank(self.min_samples) < self.min_samples
        for holds, rule in (
            (0 < self.deadline_ms < math.inf, "deadline_ms must be positive and finite"),
            (0 < self.margin <= 1, "margin must be above 0 and at most 1"),
            (enough, "percentile must be between 0 and 100, and not the maximum of min_samples samples"),
            (self.min_samples <= self.window, "min_samples must be at most window"),
            (self.settle >= 0 and self.trial >= 1 and self.dwell >= 1, "settle must be at least 0, trial and dwell 1"),
            (
                self.max_wait >= max(self.dwell, self.settle + self.min_samples),
                "max_wait must be at least dwell and settle + min_samples",
            ),
        ):
            if not holds:
                raise InputError(f"{rule}: {self}")

    def rank(self, count: int) -> int:
        """Nearest rank of the percentile among ``count`` samples, from 1."""
        return math.ceil(self.percentile * count / 100)


class DeadlineGovernor:
    """Picks a rung from the latencies reported to it. It starts on the smallest: better less accurate than late.

    * Down, at once, when the measured p90 is over the deadline; up, after ``dwell`` good decisions in a row. Either goes
      to the largest rung predicted under the margin, over several at once if need be.
    * Each step up that fails doubles the runs to wait for the next; one that outlasts its trial resets the wait.
    * Prediction: a rung's own p90 once measured, else that of the nearest measured rung times the ratio of GMACs. A
      device that throttles or recovers changes all rungs alike, so all estimates follow the present rung's p90.

    Raises:
        InputError: there is no rung, two have the same method or cost, or a cost is not positive and finite.
    """

    def __init__(self, rungs: Sequence[Rung], config: DeadlineConfig) -> None:
        if not rungs:
            raise InputError("a deadline governor needs at least one rung")
        if not all(0 < rung.gmacs < math.inf for rung in rungs):
            raise InputError(f"the GMACs of a rung must be positive and finite: {', '.join(map(str, rungs))}")
        if min(len({rung.method for rung in rungs}), len({rung.gmacs for rung in rungs})) < len(rungs):
            raise InputError(f"every rung needs a method and a cost of its own: {', '.join(map(str, rungs))}")
        self.rungs = tuple(sorted(rungs, key=lambda rung: rung.gmacs))
        self.config = config
        self.switches = 0
        self._index = 0
        self._samples: deque[float] = deque(maxlen=config.window)  # of the present rung, in ms
        self._estimates: dict[int, float] = {}  # p90 in ms of the rungs measured so far, at the device's present speed
        self._measured_at: dict[int, int] = {}  # the run when each was measured last
        self._runs = self._stay = 0  # runs since the start, and since the last switch
        self._streak = self._goal = 0  # decisions in a row for a step up, and the smallest rung they asked for
        self._wait = config.dwell  # runs between a switch and the next step up
        self._on_trial = False  # the last switch was a step up and has not proved itself

    @property
    def method(self) -> str:
        """The method to run next."""
        return self.rungs[self._index].method

    @property
    def meets_deadline(self) -> bool:
        """False when even the present rung's p90, measured or predicted, is over the deadline (True before any)."""
        return not self._estimates or self._predict(self._index) <= self.config.deadline_ms

    def observe(self, latency_ms: float) -> None:
        """Take the wall time in ms of one run of :attr:`method`, which may be another one afterwards.

        Raises:
            InputError: the latency is not positive and finite; nothing has changed then.
        """
        if not 0 < latency_ms < math.inf:
            raise InputError(f"a latency must be positive and finite, not {latency_ms} ms")
        config = self.config
        self._runs += 1
        self._stay += 1
        if self._on_trial and self._stay > config.trial:
            self._on_trial, self._wait = False, config.dwell
        if self._stay <= config.settle:
            return
        self._samples.append(float(latency_ms))
        if len(self._samples) < config.min_samples:
            return
        now = sorted(self._samples)[config.rank(len(self._samples)) - 1]
        self._learn(now)
        if now > config.deadline_ms:
            self._streak = 0
            self._switch(self._best(self._index))
            return
        goal = self._best(len(self.rungs))
        self._goal = min(goal, self._goal) if self._streak else goal
        self._streak = self._streak + 1 if goal > self._index else 0
        if self._streak >= config.dwell and self._stay >= self._wait:
            self._switch(self._goal)

    def _learn(self, now: float) -> None:
        """Take the present rung's p90. Where it differs from the prediction, the device has changed: scale all.

        Only the first p90 after a step up is the rung's own, because the samples before it were steady. Those before a
        step down were a change in progress, which tells nothing of the ratio of two rungs.
        """
        first = self._stay == self.config.settle + self.config.min_samples
        if self._estimates and not (first and self._on_trial):
            drift = now / self._predict(self._index)
            self._estimates = {index: estimate * drift for index, estimate in self._estimates.items()}
        self._estimates[self._index] = now
        self._measured_at[self._index] = self._runs

    def _predict(self, index: int) -> float:
        """A rung's p90 in ms. An old measurement counts only where it is better news than the ratio of GMACs.

        It may have been taken in a bad moment, and only another attempt would show that.
        """
        fresh = [known for known, run in self._measured_at.items() if self._runs - run <= self.config.max_wait]
        if index in fresh:
            return self._estimates[index]
        near = min(fresh, key=lambda known: (abs(known - index), known))
        scaled = self._estimates[near] * self.rungs[index].gmacs / self.rungs[near].gmacs
        return min(scaled, self._estimates.get(index, math.inf))

    def _best(self, end: int) -> int:
        """The largest rung below ``end`` predicted to stay under the margin, or the smallest of all."""
        limit = self.config.margin * self.config.deadline_ms
        return max((index for index in range(end) if self._predict(index) <= limit), default=0)

    def _switch(self, index: int) -> None:
        """Go to a rung and forget the samples of the one that was left."""
        if index == self._index:
            return
        if index < self._index and self._on_trial:
            self._wait = min(2 * self._wait, self.config.max_wait)
        self._on_trial = index > self._index
        self._index = index
        self.switches += 1
        self._samples.clear()
        self._stay = self._streak = 0
