"""Timing on made-up workloads: what is counted, in which order, how samples are summed up, and throttling told from noise."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tofe_edge.errors import InputError
from tofe_edge.runtimes.comparison import judge
from tofe_edge.runtimes.latency import WARM_UP_RUNS, Latency, measure, measure_interleaved, median_of
from tofe_edge.runtimes.timing import Telemetry


def test_percentiles_of_a_hundred_known_samples() -> None:
    shuffled = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    assert Latency(tuple(shuffled), 0.0).to_json() == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "min": 1.0}


@pytest.mark.parametrize(
    ("samples", "p50", "p90"), [((3.0,), 3.0, 3.0), ((2.0, 1.0), 1.0, 2.0), ((5.0, 1.0, 3.0), 3.0, 5.0)]
)
def test_percentiles_of_few_samples(samples: tuple[float, ...], p50: float, p90: float) -> None:
    assert Latency(samples, 0.0).to_json() == {"p50": p50, "p90": p90, "p99": p90, "min": min(samples)}


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_a_percentile_is_a_value_that_was_measured(samples: list[float], percent: float) -> None:
    latency = Latency(tuple(samples), 0.0)
    assert latency.percentile(percent) in samples
    summary = latency.to_json()
    assert summary["min"] <= summary["p50"] <= summary["p90"] <= summary["p99"] <= max(samples)


@pytest.mark.parametrize("warm_up", [4, None])
def test_warm_up_calls_are_made_and_not_counted(warm_up: int | None) -> None:
    calls: list[None] = []
    options: dict[str, Any] = {} if warm_up is None else {"warm_up": warm_up}
    assert len(measure(lambda: calls.append(None), runs=7, **options).samples_ms) == 7
    assert len(calls) == 7 + (WARM_UP_RUNS if warm_up is None else warm_up)


def test_what_is_called_between_runs_is_called_after_each() -> None:
    calls: list[str] = []
    times: list[float] = []

    def between(at_s: float) -> None:
        calls.append("between")
        times.append(at_s)

    measure(lambda: calls.append("run"), 2, warm_up=1, between=between)
    assert calls == ["run", "between", "run", "between", "run", "between"]
    assert times[0] == 0.0 and times == sorted(times)


@pytest.mark.parametrize(("duration_s", "runs"), [(1.0, 250), (1e-12, 1)])
def test_a_duration_replaces_the_number(monkeypatch: pytest.MonkeyPatch, duration_s: float, runs: int) -> None:
    """By a clock that moves on by a millisecond when it is read, four times per run."""
    ticks = itertools.count()
    monkeypatch.setattr("tofe_edge.runtimes.latency.time.perf_counter", lambda: next(ticks) / 1e3)
    latency = measure(lambda: None, runs=5, warm_up=0, duration_s=duration_s)
    assert len(latency.samples_ms) == runs
    assert latency.started_s[-1] < max(duration_s, 0.01)


def test_candidates_take_turns_after_their_warm_ups() -> None:
    order: list[str] = []
    names = ["a", "b", "c"]
    results = measure_interleaved([lambda name=name: order.append(name) for name in names], runs=3, warm_up=2)  # type: ignore[misc]
    assert order == ["a", "a", "b", "b", "c", "c"] + 3 * names
    assert [len(result.samples_ms) for result in results] == [3, 3, 3]


def test_each_candidate_gets_its_own_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"wall": 0.0, "cpu": 0.0}

    def work(wall_ms: float, cpu_ms: float) -> None:
        clock["wall"] += wall_ms / 1e3
        clock["cpu"] += cpu_ms / 1e3

    monkeypatch.setattr("tofe_edge.runtimes.latency.time.perf_counter", lambda: clock["wall"])
    monkeypatch.setattr("tofe_edge.runtimes.latency.time.process_time", lambda: clock["cpu"])
    slow, fast = measure_interleaved([lambda: work(8, 16), lambda: work(2, 1)], runs=4, warm_up=1)
    assert slow.samples_ms == pytest.approx((8, 8, 8, 8))
    assert fast.samples_ms == pytest.approx((2, 2, 2, 2))
    assert (slow.cpu_ms, fast.cpu_ms) == pytest.approx((16, 1))


@pytest.mark.parametrize("runs", [0, -1])
def test_fewer_than_one_run_is_refused_before_anything_runs(runs: int) -> None:
    calls: list[None] = []
    with pytest.raises(InputError, match=f"runs must be at least 1, not {runs}"):
        measure(lambda: calls.append(None), runs=runs)
    assert not calls


def left_out(count: int) -> int | None:
    """From the distribution itself: how many samples the interval may leave out at either end."""
    fitting = [cut for cut in range(count // 2 + 1) if binom.cdf(cut, count, 0.5) <= 0.025]
    return max(fitting, default=None)


@pytest.mark.parametrize("count", [1, 5, 6, 7, 8, 9, 10, 20, 50, 999, 1000, 1001, 5000])
def test_the_interval_lies_where_the_sign_test_puts_it(count: int) -> None:
    estimate, cut = median_of(range(count)), left_out(count)
    assert estimate.value == (count - 1) / 2
    assert (estimate.low, estimate.high) == ((-math.inf, math.inf) if cut is None else (cut, count - 1 - cut))


def test_the_interval_holds_the_median_in_95_of_100_measurements() -> None:
    generator = np.random.default_rng(0)
    # Latencies lean to one side; their median is not their mean.
    draws = generator.lognormal(0, 1, (2000, 30))
    held = [estimate.low <= 1 <= estimate.high for estimate in map(median_of, draws.tolist())]
    assert 0.945 <= np.mean(held) <= 0.99


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200))
def test_the_median_is_within_its_interval(samples: list[float]) -> None:
    estimate = median_of(samples)
    assert estimate.low <= estimate.value <= estimate.high
    assert min(samples) <= estimate.value <= max(samples)


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="no samples"):
        median_of([])


def course(samples_ms: list[float]) -> Latency:
    """Runs one straight after the other."""
    begun = np.concatenate([[0.0], np.cumsum(samples_ms)[:-1]]) / 1e3
    return Latency(tuple(samples_ms), 1.0, tuple(begun.tolist()))


def noisy(factors: list[float], spread: float = 0.1) -> Latency:
    generator = np.random.default_rng(1)
    return course([5 * factor * float(generator.lognormal(0, spread)) for factor in factors])


def test_a_device_that_gets_slower_throttles() -> None:
    found = judge(noisy([1.0] * 200 + [1.6] * 300), ())
    assert found.throttles
    assert found.slowdown == pytest.approx(1.6, rel=0.05)
    assert found.slowdown_low < found.slowdown < found.slowdown_high
    assert found.runs == 500


@pytest.mark.parametrize("end", [0.7, 1.0, 1.02])
def test_one_that_gets_faster_or_stays_does_not(end: float) -> None:
    assert judge(noisy([1.0] * 200 + [end] * 200, spread=0.03), ()).throttles is False


def test_noise_as_large_as_the_change_is_no_throttling() -> None:
    found = judge(noisy([1.0] * 15 + [1.1] * 15, spread=0.6), ())
    assert found.slowdown_low < 1
    assert found.throttles is None


def test_quarters_are_of_the_time_not_of_the_runs() -> None:
    # 100 fast runs fill the first second, 10 slow ones the other three: half of the runs say nothing of the last quarter.
    found = judge(course([10.0] * 100 + [300.0] * 30), ())
    assert (found.first_ms, found.last_ms) == (10.0, 300.0)


def test_the_course_of_clocks_and_temperatures() -> None:
    states = (
        Telemetry(0.0, {"cpu0": 2400000}, {"cpu": 40.0}),
        Telemetry(1.0, {"cpu0": 1200000}, {"cpu": 82.5}),
        Telemetry(2.0, {"cpu0": 1500000}, {"cpu": 80.0, "late": 30.0}),
    )
    found = judge(noisy([1.0] * 100), states)
    assert found.khz["cpu0"].__dict__ == {"first": 2400000, "last": 1500000, "lowest": 1200000, "highest": 2400000}
    assert (found.celsius["cpu"].highest, found.celsius["late"].first) == (82.5, 30.0)


def test_a_runner_that_tells_no_beginnings_is_an_old_one() -> None:
    with pytest.raises(InputError, match="build it again"):
        judge(Latency((5.0,) * 50, 1.0), ())


def test_too_few_runs_say_nothing() -> None:
    with pytest.raises(InputError, match=r"10 runs in 0\.05 s are too few"):
        judge(course([5.0] * 10), ())
