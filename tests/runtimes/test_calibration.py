"""Timing parts in turn, on a bench that makes its times up."""

from pathlib import Path

import pytest
from latency_tables import made_up_timing

from tofe_edge.budget.latency_model import Part
from tofe_edge.errors import DeviceError
from tofe_edge.io.progress import progress_bar
from tofe_edge.runtimes.calibration import Plan, time_parts, turns, undisturbed_ms
from tofe_edge.runtimes.timing import Machine, Timing, TimingRequest

BLOCK, STEM = Part("block", (8,)), Part("stem")


def timing(*samples_ms: float) -> Timing:
    return made_up_timing(samples_ms, Machine("aarch64", 4, "Cortex-A76"))


class SlowingBench:
    """After two calls it is twice as slow, and every second run is disturbed threefold."""

    name = "slowing"

    def __init__(self, fails_at: int = -1) -> None:
        self.asked: list[tuple[Path, TimingRequest]] = []
        self.fails_at = fails_at

    def time(self, model: Path, request: TimingRequest) -> Timing:
        """Times that grow with the number of questions."""
        if len(self.asked) == self.fails_at:
            raise DeviceError("the link broke")
        round_ms = 2.0 ** (len(self.asked) // 2) * (1 if request.method == "stem" else 10)
        self.asked.append((model, request))
        return timing(*(round_ms * (3 if run % 2 else 1) for run in range(request.runs)))


def test_parts_take_turns_and_undisturbed_runs_count() -> None:
    bench, plan = SlowingBench(), Plan(rounds=3, runs=10, threads=2, cpus="0,1")
    with progress_bar("measuring", total=6) as bar:
        found = time_parts(bench, {STEM: Path("a.pte"), BLOCK: Path("b.pte")}, plan, bar)
    asked = [(path.name, request.method) for path, request in bench.asked]
    assert {frozenset(asked[turn : turn + 2]) for turn in (0, 2, 4)} == {
        frozenset({("a.pte", "stem"), ("b.pte", "block_8")})
    }
    assert {(request.runs, request.threads, request.cpus) for _, request in bench.asked} == {(10, 2, "0,1")}
    assert found.ms == {STEM: 1.0, BLOCK: 10.0}
    assert found.disturbed == 3.0  # of 1, 2, 3, 4, 6 and 12 ms, five of each
    assert found.runs == 30
    assert found.machine == Machine("aarch64", 4, "Cortex-A76")


def test_parts_do_not_always_follow_each_other() -> None:
    bench, parts = SlowingBench(), {Part("block", (tokens,)): Path("a") for tokens in range(1, 9)}
    with progress_bar("measuring", total=80) as bar:
        time_parts(bench, parts, Plan(10, 1, 1), bar)
    methods = [request.method for _, request in bench.asked]
    rounds = [tuple(methods[turn : turn + 8]) for turn in range(0, 80, 8)]
    assert len(set(rounds)) == 10
    assert {frozenset(one) for one in rounds} == {frozenset(part.method for part in parts)}


def test_whole_nets_have_more_turns() -> None:
    parts = (STEM, Part("dense"), Part("tofe", (3, 2, 1)))
    assert [turns(parts).count(part) for part in parts] == [1, 4, 4]


def test_a_failure_leaves_no_half_of_a_result() -> None:
    with pytest.raises(DeviceError, match="the link broke"), progress_bar("measuring", total=4) as bar:
        time_parts(SlowingBench(fails_at=3), {STEM: Path("a"), BLOCK: Path("b")}, Plan(2, 1, 1), bar)


def test_the_undisturbed_time_is_one_that_was_measured() -> None:
    assert undisturbed_ms(timing(*range(1, 101))) == 2.0
    assert undisturbed_ms(timing(*range(1, 21))) == 1.0
    assert undisturbed_ms(timing(5.0)) == 5.0
