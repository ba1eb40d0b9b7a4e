"""How the native runner measures: for how long, on which cores, what it notes of the machine meanwhile."""

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import shell_script
from fake_sysfs import CLOCKS, TEMPERATURES, fake_sys
from native_builds import Built
from native_programs import run

from tofe_edge.io.artifact import Artifact
from tofe_edge.io.quiet import swallow_native_stderr
from tofe_edge.runtimes.native_runner import WRONG_CALL
from tofe_edge.runtimes.timing import Telemetry, TimingRequest

pytestmark = pytest.mark.toolchain

INPUT_BYTES = 3 * 3 * 64 * 64 * 4


@pytest.fixture(scope="module")
def model(elastic_artifact: Artifact) -> Path:
    return elastic_artifact.path


def report(host: Built, *arguments: str) -> dict[str, Any]:
    done = host(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_runs_go_on_until_the_time_is_over(host: Built, model: Path) -> None:
    found = report(host, str(model), "--duration", "0.2")
    begun, samples = found["samples_at_s"], found["samples_ms"]
    assert len(begun) == len(samples) > 1
    assert begun[0] == 0.0 and begun == sorted(begun)
    # The last one began before the end; every one began after the one before it was over.
    assert begun[-1] < 0.2
    assert all(after - before >= 1e-3 * ms - 2e-6 for before, after, ms in zip(begun, begun[1:], samples))
    assert found["min_ms"] == min(samples)


def test_one_run_takes_place_however_short_the_time(host: Built, model: Path) -> None:
    assert len(report(host, str(model), "--duration", "1e-05")["samples_ms"]) == 1
    timed = run(host.binary, model, bytes(INPUT_BYTES), TimingRequest(duration_s=0.05, warm_up=1)).timing
    assert len(timed.latency.samples_ms) == len(timed.latency.started_s) > 1


def test_it_runs_on_the_cores_it_gets(host: Built, model: Path) -> None:
    core = str(max(os.sched_getaffinity(0)))
    assert report(host, str(model), "--cpus", core)["cpus"] == [int(core)]
    assert report(host, str(model))["cpus"] is None
    # What the system says of its threads.
    command = [str(host.binary), str(model), "--cpus", core, "--threads", "2", "--duration", "60"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            threads = Path(f"/proc/{process.pid}/task")
            while len(list(threads.iterdir())) < 2:
                assert process.poll() is None
                time.sleep(0.01)
            for status in threads.glob("*/status"):
                assert f"\nCpus_allowed_list:\t{core}\n" in status.read_text()
        finally:
            process.kill()


def test_a_core_that_is_not_there_is_a_wrong_call(host: Built, model: Path) -> None:
    missing = next(core for core in range(1000) if core not in os.sched_getaffinity(0))
    assert f"--cpus: core {missing} is not there" in host.refused(WRONG_CALL, str(model), "--cpus", f"0,{missing}")


def test_clocks_and_temperatures_are_read_between_runs(host: Built, model: Path, tmp_path: Path) -> None:
    found = report(host, str(model), "--duration", "1.2", "--sysfs", str(fake_sys(tmp_path)))
    readings = found["telemetry"]
    assert 2 <= len(readings) <= 3
    # A second after the first one, which is read just before the clock begins at 0.
    assert readings[0]["t_s"] == 0.0 and readings[1]["t_s"] > 0.9
    for reading in readings:
        assert reading["khz"] == CLOCKS
        assert reading["celsius"] == TEMPERATURES
    assert found["machine"] == {
        "arch": platform.machine(),
        "cores_online": os.cpu_count(),
        "cpu_model": "Board Five Rev 1.0",
    }


def test_sensors_are_read_if_there_are_no_thermal_zones(host: Built, model: Path, tmp_path: Path) -> None:
    sensor = tmp_path / "class/hwmon/hwmon3"
    sensor.mkdir(parents=True)
    (sensor / "name").write_text("coretemp\n")
    (sensor / "temp2_input").write_text("51000\n")
    found = report(host, str(model), "--sysfs", str(tmp_path))
    assert [one["celsius"] for one in found["telemetry"]] == [{"coretemp temp2": 51.0}]
    assert [one["khz"] for one in found["telemetry"]] == [{}]
    assert report(host, str(model), "--sysfs", str(tmp_path / "none"))["telemetry"] == [], (
        "a machine that tells nothing"
    )


def test_python_reads_what_was_noted(host: Built, model: Path, tmp_path: Path) -> None:
    wrapper = shell_script(tmp_path / "runner", f'exec {host.binary} "$@" --sysfs {fake_sys(tmp_path / "sys")}')
    timed = run(wrapper, model, bytes(INPUT_BYTES)).timing
    assert timed.machine is not None and timed.machine.cpu_model == "Board Five Rev 1.0"
    assert timed.telemetry == (Telemetry(0.0, CLOCKS, TEMPERATURES),)


def test_a_trace_holds_every_counted_run_and_no_other(host: Built, model: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.etdp"
    report(host, str(model), "--runs", "5", "--warmup", "3", "--etdump", str(trace))
    with swallow_native_stderr():
        from executorch.devtools import Inspector

        blocks = {block.name: block for block in Inspector(etdump_path=str(trace)).event_blocks}
    operators = [event for event in blocks["Execute"].events if event.is_delegated_op and event.perf_data is not None]
    assert len(operators) > 20
    assert {len(event.perf_data.raw) for event in operators} == {5}
    nowhere = tmp_path / "none" / "trace.etdp"
    message = host.refused(WRONG_CALL, str(model), "--etdump", str(nowhere))
    assert "trace.etdp: cannot be written" in message and message.endswith("choose another --etdump\n")
