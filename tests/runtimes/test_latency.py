"""Timing on made-up workloads: what is counted, in which order, and how samples are summed up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.runtimes.latency import WARM_UP_RUNS, Latency, measure, measure_interleaved


def test_percentiles_of_a_hundred_known_samples() -> None:
    shuffled = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    assert Latency(tuple(shuffled), 0.0).to_json() == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "min": 1.0}


@pytest.mark.parametrize(
    ("samples", "wanted"),
    [
        ((3.0,), {"p50": 3.0, "p90": 3.0, "p99": 3.0, "min": 3.0}),
        ((2.0, 1.0), {"p50": 1.0, "p90": 2.0, "p99": 2.0, "min": 1.0}),
        ((5.0, 1.0, 3.0), {"p50": 3.0, "p90": 5.0, "p99": 5.0, "min": 1.0}),
    ],
)
def test_percentiles_of_few_samples(samples: tuple[float, ...], wanted: dict[str, float]) -> None:
    assert Latency(samples, 0.0).to_json() == wanted


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_a_percentile_is_a_value_that_was_measured(samples: list[float], percent: float) -> None:
    assert Latency(tuple(samples), 0.0).percentile(percent) in samples


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50))
def test_percentiles_are_in_order(samples: list[float]) -> None:
    summary = Latency(tuple(samples), 0.0).to_json()
    assert summary["min"] <= summary["p50"] <= summary["p90"] <= summary["p99"] <= max(samples)


def test_warm_up_calls_are_made_and_not_counted() -> None:
    calls: list[None] = []
    latency = measure(lambda: calls.append(None), runs=7, warm_up=4)
    assert len(calls) == 11
    assert len(latency.samples_ms) == 7


def test_the_default_warm_up_is_the_one_reported() -> None:
    calls: list[None] = []
    measure(lambda: calls.append(None), runs=1)
    assert len(calls) == WARM_UP_RUNS + 1


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
