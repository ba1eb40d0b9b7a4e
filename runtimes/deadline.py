"""Which budget to run next: the largest whose predicted 90th percentile (p90) keeps a deadline.

An elastic artifact holds several budgets of one net as named methods; a larger one is more accurate and slower::

    policy = DeadlinePolicy({"forward": 4.6, "forward_97_67_26": 2.0}, deadline_ms=33)
    while True:
        method = policy.method
        policy.observe(time_one_run_of(method))

The policy has no clock, no I/O, no randomness: the same latencies give the same decisions. Time is counted in runs, one per
call of :meth:`DeadlinePolicy.observe`.
``native/deadline.cpp`` is the same rule for applications; a test holds the two together.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import InputError
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.io.artifact import Artifact
from tofe_edge.runtimes.executorch import ExecuTorchModel, load_methods
from tofe_edge.runtimes.trial import try_first

# Counts are in runs. p90 is a nearest rank: one run in ten may be late, scheduling makes some late anyway.
WINDOW = 32  # samples of the present method: 4 slow ones are a slowdown, 3 are outliers
MIN_SAMPLES = 10  # the fewest whose p90 is not their maximum, so that one outlier cannot switch
SETTLE = 3  # runs ignored after a switch: cold caches, first touches of memory, runs still in a pipeline
MARGIN = 0.85  # go only to a method predicted under this share of the deadline: room for noise in the p90, and a step
# down is decided on the first few slow samples, which tell less than the whole slowdown
DWELL = 32  # consecutive good decisions before a step up: a whole window of them
TRIAL = 256  # a step up undone within so many runs has failed: heat may take that long to throttle
MAX_WAIT = 1024  # longest back-off, and the age at which another method's p90 is no longer relied on: a try that fails
# costs SETTLE + MIN_SAMPLES late runs, about 1 % of these


class DeadlinePolicy:
    """Picks a method from the latencies reported to it. It starts on the smallest: better less accurate than late.

    * Down, at once, when the measured p90 is over the deadline; up, after ``DWELL`` good decisions in a row. Either goes
      to the largest method predicted under the margin, over several at once if need be.
    * Each step up that fails doubles the runs to wait for the next; one that outlasts its trial resets the wait.
    * Prediction: a method's own p90 once measured, else that of the nearest measured method times the ratio of GMACs. A
      device that throttles or recovers changes all methods alike, so all estimates follow the present method's p90.

    Args:
        gmacs: the cost of each method. Only ratios count, so latencies measured beforehand may stand in place of GMACs;
            they include what a run costs at any budget.

    Raises:
        InputError: there is no method, two have the same cost, or a cost or the deadline is not positive and finite.
    """

    def __init__(self, gmacs: Mapping[str, float], deadline_ms: float) -> None:
        if not 0 < deadline_ms < math.inf:
            raise InputError(f"the deadline must be positive and finite, not {deadline_ms} ms")
        if not gmacs or not all(0 < cost < math.inf for cost in gmacs.values()):
            raise InputError(f"a deadline needs at least one method, and positive finite GMACs of each: {dict(gmacs)}")
        if len(set(gmacs.values())) < len(gmacs):
            raise InputError(f"every method needs a cost of its own: {dict(gmacs)}")
        self.methods = tuple(sorted(gmacs, key=lambda method: gmacs[method]))
        self.switches = 0
        self._gmacs = [gmacs[method] for method in self.methods]
        self._deadline_ms = deadline_ms
        self._index = 0
        self._samples: deque[float] = deque(maxlen=WINDOW)  # of the present method, in ms
        self._estimates: dict[
            int, float
        ] = {}  # p90 in ms of the methods measured so far, at the device's present speed
        self._measured_at: dict[int, int] = {}  # the run when each was measured last
        self._runs = self._stay = 0  # runs since the start, and since the last switch
        self._streak = self._goal = 0  # decisions in a row for a step up, and the smallest method they asked for
        self._wait = DWELL  # runs between a switch and the next step up
        self._on_trial = False  # the last switch was a step up and has not proved itself

    @property
    def method(self) -> str:
        """The method to run next."""
        return self.methods[self._index]

    @property
    def meets_deadline(self) -> bool:
        """False if even the present method's p90, measured or predicted, is over the deadline (True before any)."""
        return not self._estimates or self._predict(self._index) <= self._deadline_ms

    def observe(self, latency_ms: float) -> None:
        """Take the wall time in ms of one run of :attr:`method`, which may be another one afterwards.

        Raises:
            InputError: the latency is not positive and finite; nothing has changed then.
        """
        if not 0 < latency_ms < math.inf:
            raise InputError(f"a latency must be positive and finite, not {latency_ms} ms")
        self._runs += 1
        self._stay += 1
        if self._on_trial and self._stay > TRIAL:
            self._on_trial, self._wait = False, DWELL
        if self._stay <= SETTLE:
            return
        self._samples.append(float(latency_ms))
        if len(self._samples) < MIN_SAMPLES:
            return
        p90 = sorted(self._samples)[(9 * len(self._samples) + 9) // 10 - 1]
        self._learn(p90)
        if p90 > self._deadline_ms:
            self._streak = 0
            self._switch(self._best(self._index))
            return
        goal = self._best(len(self.methods))
        self._goal = min(goal, self._goal) if self._streak else goal
        self._streak = self._streak + 1 if goal > self._index else 0
        if self._streak >= DWELL and self._stay >= self._wait:
            self._switch(self._goal)

    def _learn(self, p90: float) -> None:
        """Take the present method's p90. If it differs from the prediction, the device has changed: scale all.

        Only the first p90 after a step up is the method's own, because the samples before it were steady. Those before a
        step down were a change in progress, which tells nothing of the ratio of two methods.
        """
        first = self._stay == SETTLE + MIN_SAMPLES
        if self._estimates and not (first and self._on_trial):
            drift = p90 / self._predict(self._index)
            self._estimates = {index: estimate * drift for index, estimate in self._estimates.items()}
        self._estimates[self._index] = p90
        self._measured_at[self._index] = self._runs

    def _predict(self, index: int) -> float:
        """A method's p90 in ms. An old measurement counts only if it is better news than the ratio of GMACs.

        It may have been taken in a bad moment, and only another attempt would show that.
        """
        fresh = [known for known, run in self._measured_at.items() if self._runs - run <= MAX_WAIT]
        if index in fresh:
            return self._estimates[index]
        near = min(fresh, key=lambda known: (abs(known - index), known))
        scaled = self._estimates[near] * self._gmacs[index] / self._gmacs[near]
        return min(scaled, self._estimates.get(index, math.inf))

    def _best(self, end: int) -> int:
        """The largest method below ``end`` predicted to stay under the margin, or the smallest of all."""
        limit = MARGIN * self._deadline_ms
        return max((index for index in range(end) if self._predict(index) <= limit), default=0)

    def _switch(self, index: int) -> None:
        """Go to a method and forget the samples of the one that was left."""
        if index == self._index:
            return
        if index < self._index and self._on_trial:
            self._wait = min(2 * self._wait, MAX_WAIT)
        self._on_trial = index > self._index
        self._index = index
        self.switches += 1
        self._samples.clear()
        self._stay = self._streak = 0


@dataclass(frozen=True)
class ElasticModel:
    """A program's methods and the policy that picks one of them for every run."""

    methods: dict[str, ExecuTorchModel]
    policy: DeadlinePolicy

    def __call__(self, pixels: npt.NDArray[np.float32]) -> Prediction:
        """Classify with the current method and tell the policy how long it took."""
        model = self.methods[self.policy.method]
        begun = time.perf_counter()
        prediction = model(pixels)
        self.policy.observe((time.perf_counter() - begun) * 1e3)
        return prediction


def load_elastic(artifact: Artifact, threads: int, deadline_ms: float) -> ElasticModel:
    """Load every method of an artifact under a deadline in milliseconds; with one method there is nothing to choose.

    Raises:
        As :func:`tofe_edge.runtimes.loading.open_model`, and :class:`InputError` for a deadline that is not positive.
    """
    methods = artifact.manifest.methods
    policy = DeadlinePolicy({name: method.gmacs for name, method in methods.items()}, deadline_ms)
    try_first(artifact)
    return ElasticModel(load_methods(artifact, threads, list(methods)), policy)
