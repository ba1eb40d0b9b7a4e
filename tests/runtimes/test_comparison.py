"""The verdict on token reduction, on a bench whose times are made up."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from latency_tables import made_up_timing

from tofe_edge.runtimes.comparison import Comparison, Rival, compare
from tofe_edge.runtimes.latency import Estimate, Latency
from tofe_edge.runtimes.timing import Timing, TimingRequest, joined

TOFE = Rival(Path("tofe.pte"), "forward", 0.5)
DENSE = Rival(Path("dense.pte"), "forward", 1.0)


@dataclass
class MadeUpBench:
    """Takes as long as it is told, and gets slower with every call: a device that throttles."""

    ms: dict[str, float]
    drift: float = 1.0
    spread: float = 0.01
    name: str = "made up"
    calls: list[tuple[str, TimingRequest]] = field(default_factory=list)

    def time(self, model: Path, request: TimingRequest) -> Timing:
        generator = np.random.default_rng(len(self.calls))
        slower = self.drift ** len(self.calls)
        self.calls.append((model.name, request))
        samples = self.ms[model.name] * slower * generator.lognormal(0, self.spread, request.runs)
        return made_up_timing(tuple(samples.tolist()))


def test_a_model_that_is_faster_pays_even_on_a_device_that_throttles() -> None:
    bench = MadeUpBench({"tofe.pte": 6.0, "dense.pte": 10.0}, drift=1.01)
    comparison, timings = compare(bench, TOFE, DENSE, TimingRequest())
    assert comparison.pays is True and len(timings) == 10
    assert comparison.ratio.value == pytest.approx(0.6, rel=0.03)


@pytest.mark.parametrize(
    ("tofe_ms", "spread", "drift", "pays"),
    [
        (6.0, 0.01, 1.0, False),
        (5.0, 0.2, 1.0, None),
        # A drift is not a difference between equal models.
        *((5.0, 0.0005, drift, None) for drift in (0.98, 0.99, 1.002, 1.01, 1.02)),
    ],
)
def test_slower_and_equal_models_do_not_pay(tofe_ms: float, spread: float, drift: float, pays: bool | None) -> None:
    bench = MadeUpBench({"tofe.pte": tofe_ms, "dense.pte": 5.0}, drift, spread)
    assert compare(bench, TOFE, DENSE, TimingRequest())[0].pays is pays


def test_models_take_turns_and_share_the_runs() -> None:
    bench = MadeUpBench({"tofe.pte": 1.0, "dense.pte": 1.0})
    compare(bench, TOFE, DENSE, TimingRequest(runs=50, threads=3))
    assert [name for name, _ in bench.calls] == ["tofe.pte", "dense.pte", "dense.pte", "tofe.pte"] * 5
    assert {(request.runs, request.threads) for _, request in bench.calls} == {(5, 3)}


def test_break_even_is_where_the_overhead_eats_the_gain() -> None:
    found = Comparison(ms=6.0, against_ms=10.0, gmacs=0.5, against_gmacs=1.0, ratio=Estimate(0.6, 0.59, 0.61))
    assert found.overhead_ms == pytest.approx(1.0)
    assert found.break_even is not None
    assert found.break_even.value == pytest.approx(0.9)
    assert (found.break_even.low, found.break_even.high) == pytest.approx((0.89, 0.91))
    # At that share of the GMACs, with that overhead, it would take as long as the dense net.
    assert found.overhead_ms + found.break_even.value * found.against_ms == pytest.approx(found.against_ms)


def test_an_overhead_beyond_the_dense_time_never_breaks_even() -> None:
    assert Comparison(20.0, 5.0, 0.5, 1.0, Estimate(4.0, 3.9, 4.1)).break_even == Estimate(0, 0, 0)


@pytest.mark.parametrize(("gmacs", "low"), [(0.5, 0.9), (1.0, 1.2), (2.0, 1.2)])
def test_there_is_no_break_even_where_nothing_is_known_or_saved(gmacs: float, low: float) -> None:
    assert Comparison(6.0, 5.0, gmacs, 1.0, Estimate(1.2, low, 1.3)).break_even is None


def test_joined_timings_are_weighted_by_their_runs() -> None:
    def timing(samples: tuple[float, ...], cpu_ms: float, peak: int | None) -> Timing:
        latency = Latency(samples, cpu_ms)
        return Timing(latency=latency, load_ms=cpu_ms, threads=1, planned_bytes=5, peak_rss_bytes=peak, gpu=latency)

    whole = joined([timing((1.0,), 1.0, None), timing((2.0, 3.0, 4.0), 5.0, 9)])
    assert whole.gpu == whole.latency == Latency((1.0, 2.0, 3.0, 4.0), 4.0)
    assert (whole.load_ms, whole.planned_bytes, whole.peak_rss_bytes) == (3.0, 5, 9)
    with pytest.raises(ValueError, match="no timings"):
        joined([])
