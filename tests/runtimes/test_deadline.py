"""The deadline policy on made-up devices that throttle, recover, heat up, hiccup and are not what GMACs promise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.runtimes.deadline import DeadlineConfig, DeadlineGovernor, Rung
from tofe_edge.runtimes.latency import Latency

RUNGS = (
    Rung("forward_60_36_22", 1.5),
    Rung("forward_97_67_26", 2.0),
    Rung("forward_118_83_58", 2.6),
    Rung("forward_137_96_67", 3.4),
    Rung("forward", 4.6),
)
SMALLEST, LARGEST = RUNGS[0].method, RUNGS[-1].method
COST = {rung.method: rung.gmacs for rung in RUNGS}
MS_A_GMAC = 5.0
"""Speed of the made-up devices when cool: the largest rung takes 23 ms."""


@dataclass(frozen=True)
class Trace:
    """What a simulation saw, one entry a run."""

    governor: DeadlineGovernor
    methods: list[str]
    late: np.ndarray

    def share(self, begin: int, end: int, method: str) -> float:
        """Share of the runs from ``begin`` to ``end`` that ran the method."""
        return self.methods[begin:end].count(method) / (end - begin)

    def switched_at(self) -> list[int]:
        """The runs that ran another method than the one before."""
        return [run for run in range(1, len(self.methods)) if self.methods[run] != self.methods[run - 1]]


def simulate(
    config: DeadlineConfig,
    speed: Callable[[int], float] = lambda run: MS_A_GMAC,
    runs: int = 4000,
    noise: float = 0.08,
    seed: int = 0,
    cost: Callable[[float], float] = lambda gmacs: gmacs,
) -> Trace:
    """A device that takes cost(GMACs) · speed(run) ms, times lognormal noise."""
    rng = np.random.default_rng(seed)
    governor = DeadlineGovernor(RUNGS, config)
    methods, late = [], []
    for run in range(runs):
        method = governor.method
        latency = cost(COST[method]) * speed(run) * math.exp(rng.normal(0, noise))
        governor.observe(latency)
        methods.append(method)
        late.append(latency > config.deadline_ms)
    return Trace(governor, methods, np.array(late))


def feed(governor: DeadlineGovernor, latencies: Sequence[float]) -> list[str]:
    """The method after each observation."""
    methods = []
    for latency in latencies:
        governor.observe(latency)
        methods.append(governor.method)
    return methods


def feed_while(governor: DeadlineGovernor, method: str, latency: float) -> None:
    """Report one latency until the method is left."""
    for _ in range(500):
        if governor.method != method:
            return
        governor.observe(latency)
    raise AssertionError(f"never left {method}")


def climbed(config: DeadlineConfig, rungs: Sequence[Rung] = RUNGS) -> DeadlineGovernor:
    """A governor that a quiet device has brought to the largest rung, with a full window at 23 ms."""
    governor = DeadlineGovernor(rungs, config)
    for _ in range(400):
        governor.observe(MS_A_GMAC * COST[governor.method])
    assert governor.method == LARGEST and governor.switches == 1
    return governor


@pytest.mark.parametrize("seed", range(5))
def test_a_device_that_throttles_and_recovers(seed: int) -> None:
    trace = simulate(DeadlineConfig(33), lambda run: MS_A_GMAC * (1 + (2000 <= run < 4000)), runs=6000, seed=seed)
    assert trace.share(100, 2000, LARGEST) == 1, "the deadline leaves room for the largest"
    assert trace.late[:2000].mean() < 0.01
    assert trace.late[2000:2050].sum() <= 10, "four slow runs suffice to leave"
    assert trace.late[2050:4000].mean() < 0.02
    # 2.6 GMACs take 26 ms at half speed, 29 at the 90th percentile; 3.4 take 34.
    assert trace.share(2050, 4000, "forward_118_83_58") > 0.95, "several rungs down, but not further than needed"
    assert trace.share(4100, 6000, LARGEST) > 0.95, "a hundred runs after recovery"
    assert trace.late[4000:].mean() < 0.01
    assert trace.governor.switches <= 6


def test_a_device_that_slows_down_by_and_by_descends_rung_by_rung() -> None:
    trace = simulate(DeadlineConfig(33), lambda run: MS_A_GMAC * min(2, 1 + max(run - 1000, 0) / 2000), runs=5000)
    assert [trace.methods[run] for run in trace.switched_at()][:3] == [LARGEST, RUNGS[3].method, RUNGS[2].method]
    assert trace.late[1000:].mean() < 0.02
    assert trace.governor.method == RUNGS[2].method


@pytest.mark.parametrize("deadline", [20.0, 21.7, 23.0, 24.3, 25.5, 27.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_noise_at_a_boundary_does_not_make_it_oscillate(deadline: float, seed: int) -> None:
    """23 ms is the largest rung's median, 25.5 its p90 and 30 what puts that p90 on the margin; 21.7 the next one's."""
    trace = simulate(DeadlineConfig(deadline), runs=6000, seed=seed)
    assert trace.governor.switches <= 4
    assert trace.late.mean() < 0.02


def test_a_rung_right_on_the_deadline_is_tried_once_a_max_wait_even_without_margin() -> None:
    """GMACs promise a p90 of 21.8 ms of 24.5; it is 27.5."""
    trace = simulate(
        DeadlineConfig(24.5, margin=1.0), runs=9000, cost=lambda gmacs: gmacs * (1.08 if gmacs == 4.6 else 0.95)
    )
    tries = sum(trace.methods[run] == LARGEST for run in trace.switched_at())
    assert 5 <= tries <= 10
    assert trace.late.mean() < 0.03


def test_back_off_doubles_up_to_its_cap_on_a_device_that_the_largest_rung_heats_up() -> None:
    """Cool at once when left, throttled by half after 60 runs of the largest rung: predictions never see it coming."""
    config = DeadlineConfig(33, max_wait=300)
    governor = DeadlineGovernor(RUNGS, config)
    ups, busy = [], 0
    for run in range(3000):
        method = governor.method
        busy = busy + 1 if method == LARGEST else 0
        governor.observe(MS_A_GMAC * COST[method] * (1.5 if busy > 60 else 1))
        if method != LARGEST and governor.method == LARGEST:
            ups.append(run)
    # 64 runs to notice that it got hot, and the wait; the first try came after dwell + settle + min_samples - 1.
    assert ups[0] == 43
    assert list(np.diff(ups)) == [64 + 64, 64 + 128, 64 + 256] + [64 + 300] * (len(ups) - 4)
    assert len(ups) > 8


def test_a_step_up_that_outlasts_its_trial_resets_the_back_off() -> None:
    config = DeadlineConfig(33, trial=100)
    governor = DeadlineGovernor(RUNGS, config)

    def runs_until(method: str, slow: float) -> int:
        for run in range(1, 2000):
            governor.observe(MS_A_GMAC * COST[governor.method] * slow)
            if governor.method == method:
                return run
        raise AssertionError(f"never reached {method}")

    waits = []
    for quiet in (40, 40, 200, 40):
        waits.append(runs_until(LARGEST, 1))
        feed(governor, [23.0] * quiet)
        feed_while(governor, LARGEST, 40.0)  # throttled until it has left, and cool again at once
    waits.append(runs_until(LARGEST, 1))
    assert waits[:3] == [44, 64, 128], "doubled after each failure"
    assert waits[3] < 64, "a success between: as if nothing had failed"
    assert waits[4] == 64


def test_outliers_do_not_switch_but_a_slowdown_does() -> None:
    config = DeadlineConfig(33)
    governor = climbed(config)
    feed(governor, ([500.0] + [23.0] * 10) * 20)
    assert governor.switches == 1, "three in a window of 32"
    feed(governor, [23.0] * 32)
    assert feed(governor, [500.0] * 3) == [LARGEST] * 3
    governor.observe(500.0)
    assert governor.method != LARGEST and governor.switches == 2


@pytest.mark.parametrize("position", range(12))
def test_one_outlier_right_after_a_switch_does_not_switch_back(position: int) -> None:
    governor = DeadlineGovernor(RUNGS, DeadlineConfig(33))
    feed_while(governor, SMALLEST, 7.5)
    feed(governor, [500.0 if run == position else 23.0 for run in range(50)])
    assert governor.switches == 1


def test_the_first_runs_after_a_switch_are_ignored() -> None:
    for cold, stays in ((3, True), (5, False)):
        governor = DeadlineGovernor(RUNGS, DeadlineConfig(33))
        feed_while(governor, SMALLEST, 7.5)
        feed(governor, [500.0] * cold + [23.0] * (13 - cold))
        assert (governor.method == LARGEST) == stays


def test_a_step_up_needs_consecutive_good_decisions() -> None:
    """The p90 of a window of 10 is its second largest, so a pair of slow runs is one to nine bad decisions."""
    rungs = [Rung("small", 1), Rung("large", 2)]
    config = DeadlineConfig(33, window=10)
    assert "large" not in feed(DeadlineGovernor(rungs, config), ([10.0] * 28 + [20.0] * 2) * 40)
    assert "large" in feed(DeadlineGovernor(rungs, config), [10.0] * 45)
    assert "large" not in feed(DeadlineGovernor(rungs, config), [10.0] * 43)
    late_between = feed(DeadlineGovernor(rungs, config), ([10.0] * 28 + [40.0] * 2) * 40)
    assert "large" not in late_between, "late runs on the smallest rung count as bad too"


def test_a_step_up_goes_no_higher_than_every_decision_of_the_streak_asked_for() -> None:
    governor = DeadlineGovernor([Rung("a", 1), Rung("b", 2), Rung("c", 3)], DeadlineConfig(33, window=10))
    feed(governor, [13.0] * 30)  # b would take 26 ms, c 39
    assert feed(governor, [5.0] * 14)[-2:] == ["a", "b"]  # for the last five decisions c would take 15


def test_all_estimates_follow_the_present_rung() -> None:
    """Left at 23 ms for being throttled to 46, the largest rung is known to be fast again from a smaller one alone.

    It really costs 0.8 of what its GMACs say, so a prediction by GMACs would not let it in.
    """
    cost = {rung.method: MS_A_GMAC * rung.gmacs * (0.8 if rung.method == LARGEST else 1) for rung in RUNGS}
    governor = DeadlineGovernor(RUNGS, DeadlineConfig(25))

    def go(runs: int, slow: float) -> str:
        for _ in range(runs):
            governor.observe(cost[governor.method] * slow)
        return governor.method

    # By GMACs it needs 23 ms of the 21.25 below the margin; a faster device lets it be tried and measured once.
    assert go(200, 1.0) == RUNGS[3].method
    assert go(200, 0.9) == LARGEST
    assert go(200, 1.0) == LARGEST
    assert go(200, 2.0) == RUNGS[1].method
    assert go(200, 1.0) == LARGEST
    assert go(1500, 2.0) == RUNGS[1].method
    assert go(200, 1.0) == LARGEST, "an old measurement counts where it is better news than the GMACs"


def test_a_rung_never_run_is_predicted_from_the_nearest_measured_one() -> None:
    """A fixed cost of 6 ms: by the smallest rung's 12 ms the largest takes 36.8, by the next one's 19.6 it takes 26.5."""
    governor = DeadlineGovernor(RUNGS, DeadlineConfig(33))
    visited = []
    for _ in range(300):
        visited.append(governor.method)
        governor.observe(6 + 4 * COST[governor.method])
    assert list(dict.fromkeys(visited)) == [SMALLEST, RUNGS[3].method, LARGEST]


def test_a_rung_slower_than_its_gmacs_is_tried_seldom() -> None:
    """Superlinear cost: GMACs promise the largest rung to fit again and again, and it never does."""
    trace = simulate(DeadlineConfig(33), runs=8000, cost=lambda gmacs: 0.6 * gmacs**1.5)
    assert trace.share(300, 8000, RUNGS[3].method) > 0.9
    assert 2 <= sum(trace.methods[run] == LARGEST for run in trace.switched_at()) <= 9
    assert trace.late.mean() < 0.02


def test_a_measurement_taken_in_a_bad_moment_is_forgotten() -> None:
    config = DeadlineConfig(33, max_wait=200)
    governor = DeadlineGovernor(RUNGS, config)
    feed_while(governor, SMALLEST, 7.5)
    feed_while(governor, LARGEST, 100.0)  # only while it is on trial
    methods = []
    for _ in range(300):
        governor.observe(MS_A_GMAC * COST[governor.method])
        methods.append(governor.method)
    assert LARGEST not in methods[:199]
    assert methods[-1] == LARGEST


def test_one_rung_only() -> None:
    governor = DeadlineGovernor([Rung("forward", 4.6)], DeadlineConfig(33))
    assert governor.method == "forward" and governor.meets_deadline
    feed(governor, [20.0] * 100)
    assert governor.meets_deadline
    feed(governor, [40.0] * 100)
    assert not governor.meets_deadline
    feed(governor, [20.0] * 100)
    assert governor.meets_deadline
    assert governor.method == "forward" and governor.switches == 0


def test_all_rungs_too_slow_stays_on_the_smallest_and_says_so() -> None:
    trace = simulate(DeadlineConfig(5.0), runs=1000)
    assert set(trace.methods) == {SMALLEST}
    assert not trace.governor.meets_deadline


def test_a_device_too_slow_for_all_rungs_is_reported_at_the_switch() -> None:
    governor = climbed(DeadlineConfig(33))
    assert governor.meets_deadline
    feed_while(governor, LARGEST, 300.0)
    assert governor.method == SMALLEST and governor.switches == 2
    assert not governor.meets_deadline, "predicted: 300 ms · 1.5 / 4.6"
    feed(governor, [7.5] * 13)
    assert governor.meets_deadline


def test_rungs_come_in_any_order() -> None:
    assert DeadlineGovernor(RUNGS[::-1], DeadlineConfig(33)).rungs == RUNGS
    assert climbed(DeadlineConfig(33), RUNGS[::-1]).method == LARGEST


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=64), st.integers(1, 99))
def test_the_rank_is_that_of_the_latency_report(samples: list[float], percent: int) -> None:
    rank = DeadlineConfig(33, percentile=percent, min_samples=200, window=200).rank(len(samples))
    assert sorted(samples)[rank - 1] == Latency(tuple(samples), 0.0).percentile(percent)


@pytest.mark.parametrize("latency", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_latency_that_is_none_is_refused_and_changes_nothing(latency: float) -> None:
    governor, other = (DeadlineGovernor(RUNGS, DeadlineConfig(33)) for _ in range(2))
    for run in range(60):
        if run % 2:
            with pytest.raises(InputError, match="latency"):
                governor.observe(latency)
        for each in (governor, other):
            each.observe(7.5)
        assert governor.method == other.method
    assert governor.switches == 1


@pytest.mark.parametrize(
    ("rungs", "message"),
    [
        ([], "at least one"),
        ([Rung("a", 1), Rung("a", 2)], "of its own"),
        ([Rung("a", 1), Rung("b", 1)], "of its own"),
        ([Rung("a", 0)], "positive"),
        ([Rung("a", -1), Rung("b", 1)], "positive"),
        ([Rung("a", math.nan)], "positive"),
        ([Rung("a", math.inf)], "positive"),
    ],
)
def test_wrong_rungs_are_refused(rungs: list[Rung], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DeadlineGovernor(rungs, DeadlineConfig(33))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"deadline_ms": -1}, "deadline_ms"),
        ({"deadline_ms": math.nan}, "deadline_ms"),
        ({"deadline_ms": math.inf}, "deadline_ms"),
        ({"margin": 0}, "margin"),
        ({"margin": 1.1}, "margin"),
        ({"percentile": 0}, "percentile"),
        ({"percentile": 100}, "percentile"),
        ({"percentile": math.nan}, "percentile"),
        ({"min_samples": 9}, "maximum"),
        ({"min_samples": 0}, "maximum"),
        ({"window": 9}, "window"),
        ({"settle": -1}, "settle"),
        ({"dwell": 0}, "dwell"),
        ({"trial": 0}, "trial"),
        ({"max_wait": 31}, "max_wait"),
        ({"dwell": 1, "max_wait": 12}, "max_wait"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DeadlineConfig(**{"deadline_ms": 33, **wrong})  # type: ignore[arg-type]


costs = st.lists(st.floats(0.1, 50), min_size=1, max_size=6, unique=True)
stretches = st.lists(st.tuples(st.floats(0.01, 1000), st.integers(1, 90)), max_size=12)
"""Latencies in ms and for how many runs each is reported, whatever the rung."""


def governor_of(gmacs: Sequence[float], deadline_ms: float = 33) -> DeadlineGovernor:
    """Rungs with the given costs; a short memory, so that every branch is reached in few runs."""
    config = DeadlineConfig(deadline_ms, dwell=8, trial=40, max_wait=60)
    return DeadlineGovernor([Rung(f"forward_{index}", cost) for index, cost in enumerate(gmacs)], config)


@examples(max_examples=60)
@given(costs, stretches)
def test_any_latencies_give_a_rung_the_same_each_time_with_room_between_switches(
    gmacs: list[float], stretch: list[tuple[float, int]]
) -> None:
    latencies = [latency for latency, times in stretch for _ in range(times)]
    governor, again = governor_of(gmacs), governor_of(gmacs)
    methods = feed(governor, latencies)
    assert set(methods) <= {rung.method for rung in governor.rungs}
    assert methods == feed(again, latencies)
    assert governor.meets_deadline == again.meets_deadline and governor.switches == again.switches
    switched = [run for run, (one, two) in enumerate(zip([governor_of(gmacs).method, *methods], methods)) if one != two]
    assert len(switched) == governor.switches
    assert all(gap >= 13 for gap in np.diff([-1, *switched])), "settle + min_samples"


@examples(max_examples=60)
@given(costs, stretches, st.floats(1e-6, 1e-3))
def test_far_under_the_deadline_for_long_leads_to_the_largest(
    gmacs: list[float], stretch: list[tuple[float, int]], ms_a_gmac: float
) -> None:
    governor = governor_of(gmacs)
    feed(governor, [latency for latency, times in stretch for _ in range(times)])
    cost = {rung.method: rung.gmacs for rung in governor.rungs}
    for _ in range(500):
        governor.observe(ms_a_gmac * cost[governor.method])
    assert governor.method == governor.rungs[-1].method and governor.meets_deadline


@examples(max_examples=60)
@given(costs, stretches, st.floats(1e3, 1e6))
def test_far_over_the_deadline_leads_to_the_smallest(
    gmacs: list[float], stretch: list[tuple[float, int]], ms_a_gmac: float
) -> None:
    governor = governor_of(gmacs)
    feed(governor, [latency for latency, times in stretch for _ in range(times)])
    cost = {rung.method: rung.gmacs for rung in governor.rungs}
    for _ in range(13 * len(gmacs)):
        governor.observe(ms_a_gmac * cost[governor.method])
    assert governor.method == governor.rungs[0].method and not governor.meets_deadline
