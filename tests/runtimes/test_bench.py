"""Timing here: what is measured, for how long, on which cores."""

import os
from pathlib import Path

import pytest
from fake_sysfs import CLOCKS, TEMPERATURES, fake_sys
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.artifact import Artifact
from tofe_edge.runtimes.bench import HostBench, Watch, bound_to, clocks, parse_cpus, temperatures
from tofe_edge.runtimes.timing import TimingRequest


def test_runs_are_counted_and_started_one_after_the_other(elastic_artifact: Artifact) -> None:
    timing = HostBench().time(elastic_artifact.path, TimingRequest(runs=7, warm_up=1))
    assert len(timing.latency.samples_ms) == len(timing.latency.started_s) == 7
    assert list(timing.latency.started_s) == sorted(timing.latency.started_s)
    assert timing.load_ms
    assert timing.machine is not None
    assert timing.machine.arch


def test_an_unknown_method_and_a_file_that_is_no_program(elastic_artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no method 'backward'"):
        HostBench().time(elastic_artifact.path, TimingRequest(method="backward"))
    path = tmp_path / "none.pte"
    path.write_bytes(b"nothing of the kind" * 10)
    with pytest.raises((InputError, DeviceError), match=r"none\.pte"):
        HostBench().time(path, TimingRequest())


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"threads": 0}, {"warm_up": -1}, {"duration_s": 0.0}])
def test_requests_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        TimingRequest(**wrong)  # type: ignore[arg-type]


def test_cores_are_chosen_and_restored() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    with bound_to(str(core)):
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before
    with pytest.raises(InputError, match=r"cannot be used \(no 4095\)"), bound_to(f"{core},4095"):
        pass
    assert os.sched_getaffinity(0) == before


@given(st.frozensets(st.integers(0, 200), min_size=1))
def test_lists_of_cores_are_read(cores: frozenset[int]) -> None:
    assert parse_cpus(",".join(map(str, cores))) == cores


@given(st.integers(0, 100), st.integers(0, 100))
def test_ranges_of_cores_are_read(first: int, more: int) -> None:
    assert parse_cpus(f"{first}-{first + more}") == frozenset(range(first, first + more + 1))


@pytest.mark.parametrize("text", ["", "a", "1,", "3-1", "-1", "1-", "99999", "0 1", "٣"])
def test_what_is_no_list_of_cores_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="are not a list"):
        parse_cpus(text)


def test_clocks_and_temperatures_are_read(tmp_path: Path) -> None:
    root = fake_sys(tmp_path)
    assert clocks(root) == CLOCKS
    assert temperatures(root) == {name.replace("?", "\ufffd"): celsius for name, celsius in TEMPERATURES.items()}


def test_a_watch_looks_once_a_second_and_is_silent_where_there_is_nothing(tmp_path: Path) -> None:
    watch = Watch(fake_sys(tmp_path / "full"))
    for at_s in (0.0, 0.3, 0.9, 1.2, 2.1, 2.2):
        watch.look(at_s)
    assert [state.at_s for state in watch.seen] == [0.0, 1.2, 2.2]
    blind = Watch(tmp_path)
    blind.look(0.0)
    assert blind.seen == ()
