"""Throttling is told from noise."""

import numpy as np
import pytest

from tofe_edge.errors import InputError
from tofe_edge.runtimes.latency import Latency
from tofe_edge.runtimes.sustained import judge
from tofe_edge.runtimes.timing import Telemetry


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
