"""Engines on a board with a double of trtexec: a measurement is whole or none, and nothing stays there, also behind a real sshd."""

import json
import os
import shutil
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import processes
import pytest
import ssh_server
from conftest import Program, TinyModel, flat, refusal, shell_script
from local_shell import LocalShell
from ssh_server import SshServer

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.evaluation.golden import golden_path_of, read_golden
from tofe_edge.io.artifact import Artifact, open_artifact
from tofe_edge.io.preprocessing import normalize
from tofe_edge.runtimes import tensorrt
from tofe_edge.runtimes.devices.address import SshAddress, parse_address
from tofe_edge.runtimes.devices.ssh import connected
from tofe_edge.runtimes.onnx import load
from tofe_edge.runtimes.tensorrt import last_error, open_remote, read_outputs, read_profile, read_times, version_of
from tofe_edge.runtimes.timing import TimingRequest

ADDRESS = "ssh://board"
_LONG_S = 120.0
"""A machine that is busy with other tests is no defect."""


@pytest.fixture
def artifact(tiny_model: TinyModel) -> Artifact:
    return open_artifact(tiny_model("--target", "onnx"))


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalShell:
    """This machine as the board that every address names."""
    (tmp_path / "device").mkdir()
    shell = LocalShell({"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "device")}, name=ADDRESS)
    monkeypatch.setattr("tofe_edge.runtimes.devices.ssh.connected", lambda place: nullcontext(shell))
    return shell


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the double on the board, which is found at one of the usual places."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "tensorrt"
    folder.mkdir()
    double = shutil.copy(Path(__file__).with_name("trtexec_double.py"), folder / "double.py")
    program = shell_script(folder / "trtexec", f'exec "{sys.executable}" "{double}" "$@"')
    (folder / "version").write_text("100300")
    script = tensorrt._SCRIPT.replace("/usr/src/tensorrt/bin/trtexec", str(program))
    assert script != tensorrt._SCRIPT
    monkeypatch.setattr(tensorrt, "_SCRIPT", script)
    return folder


def answers(artifact: Artifact) -> list[dict[str, Any]]:
    """What ONNX Runtime gives for the golden inputs."""
    model, golden = load(artifact, 1), read_golden(golden_path_of(artifact.path), artifact)
    found = []
    for vector in golden.of("forward"):
        pixels = normalize(vector.pixels, golden.preprocessing)[None]
        outputs = model.execute(pixels)
        names = ["logits", *(f"selection_{stage}" for stage in range(1, len(outputs)))]
        tensors = [(name, one.shape, one.ravel().tolist()) for name, one in zip(names, outputs)]
        found.append({"head": pixels.ravel()[:50].tolist(), "tensors": tensors})
    return found


def nothing_left(board: Path) -> bool:
    device = board.with_name("device")
    return processes.until(lambda: not list(device.iterdir()) and not processes.working_in(device))


def builds(board: Path) -> int:
    path = board / "calls"
    return path.read_text().count("--onnx") if path.exists() else 0


def engines(board: Path) -> list[Path]:
    return list(board.with_name("cache").rglob("*.engine"))


@pytest.mark.usefixtures("shell")
def test_an_engine_is_built_timed_and_checked(board: Path, artifact: Artifact, program: Program) -> None:
    (board / "answers.json").write_text(json.dumps(answers(artifact)))
    words = ("profile", artifact.path, "--on", ADDRESS, "--engine", "tensorrt", "--runs", 7)
    code, out, _ = program(*words, "--json")
    report = json.loads(out)
    assert (code, report["on"], report["runs"], report["busy"]) == (0, ADDRESS, 7, False)
    engine = report["engine"]
    assert (engine["name"], engine["version"], engine["flags"]) == ("tensorrt", "10.3.0", ["--fp16"])
    assert (engine["gpu_ms"]["p50"], report["latency_ms"]["p50"]) == (3, 5) and report["load_ms"] == pytest.approx(19)
    assert engine["parity"]["passed"] and engine["parity"]["snr_db"] > 90 and engine["parity"]["images"] == 4
    assert [one["ms"] for one in report["stages"]] == [1, 2, 3, 4] and len(report["operators"]) == 4
    assert nothing_left(board) and builds(board) == 1
    # 2. Another version builds its own, and one that computes something else fails. Warm-up runs among the times do not count.
    (board / "warmup").touch()
    (board / "version").write_text("8602")
    (board / "wrong").touch()
    code, out, _ = program(*words)
    assert code == 1 and "TensorRT 8.6.2, --fp16" in out and "GPU time        p50 3.00 ms" in out
    assert "the mean of the traced runs" in flat(out)
    assert "on 4 golden inputs: FAILED: " in flat(out) and nothing_left(board) and builds(board) == 2


@pytest.mark.usefixtures("shell")
def test_a_build_that_fails_or_no_trtexec_is_one_line(board: Path, artifact: Artifact, program: Program) -> None:
    words = ("profile", artifact.path, "--on", ADDRESS, "--engine", "tensorrt")
    (board / "fail").write_text("Error[10]: Could not find any implementation for node stage1/TopK_9")
    said = refusal(program, *words, code=3)
    assert said == f"{ADDRESS}: building the engine failed: {(board / 'fail').read_text()}"
    assert nothing_left(board) and not engines(board)
    (board / "trtexec").unlink()
    assert "has no trtexec in PATH or /usr/src/tensorrt/bin; install it there" in refusal(program, *words, code=3)
    assert nothing_left(board)
    for more, message in (
        ("--threads 2", "--threads: TensorRT computes on the GPU"),
        ("--runner .", "--runner is for"),
    ):
        assert message in refusal(program, *words, *more.split())


def test_two_at_once_and_a_lost_link(
    board: Path, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both build at the same time; the link, of a real sshd, breaks in the middle of it, and both begin anew."""
    (board / "wait").touch()
    with ssh_server.serving(tmp_path, monkeypatch) as server:
        found = measured_over(server, board, artifact)
        assert nothing_left(board)
    assert found == [(5.0, 5.0, 5.0)] * 4 and builds(board) == 4 and len(engines(board)) == 1
    assert capsys.readouterr().err.count("trying again") == 2


def measured_over(server: SshServer, board: Path, artifact: Artifact) -> list[Any]:
    address, found = parse_address(server.address), list[Any]()
    assert isinstance(address, SshAddress)

    def measure() -> None:
        with connected(address) as shell, open_remote(shell, pauses_s=(0.2, 1.0, 1.0)) as bench:
            # The second time with the engine from here.
            for _ in range(2):
                found.append(bench.time(artifact.path, TimingRequest(runs=3)).latency.samples_ms)

    threads = [threading.Thread(target=measure) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert processes.until(lambda: builds(board) == 2, _LONG_S)
    assert server.drop_connections()
    assert processes.until(lambda: builds(board) == 4, _LONG_S)
    (board / "wait").unlink()
    for thread in threads:
        thread.join()
    return found


def test_a_build_that_takes_too_long_is_ended(shell: LocalShell, board: Path, artifact: Artifact) -> None:
    (board / "wait").touch()
    with (
        open_remote(shell, build_timeout_s=0.5) as bench,
        pytest.raises(DeviceError, match=r"trtexec took more than 0\.5 s"),
    ):
        bench.time(artifact.path, TimingRequest(runs=3))
    assert nothing_left(board)


def test_dynamic_int8_is_refused(artifact: Artifact) -> None:
    def flags(precision: str, mode: str | None) -> tuple[str, ...]:
        manifest = replace(artifact.manifest, precision=precision, int8_mode=mode)
        return tensorrt.flags_for(Artifact(artifact.path, manifest))

    assert [flags("fp32", None), flags("int8", "static")] == [("--fp16",), ("--fp16", "--int8")]
    with pytest.raises(InputError, match="TensorRT reads static ranges alone; convert it with --int8-mode static"):
        flags("int8", "dynamic")


@pytest.mark.parametrize(
    ("digits", "version"), [("8502", "8.5.2"), ("8602", "8.6.2"), ("100300", "10.3.0"), ("101601", "10.16.1")]
)
def test_versions_are_read(digits: str, version: str) -> None:
    assert version_of(digits) == version


def test_what_trtexec_says_is_understood() -> None:
    said = "[I] fine\n[11/30/2026-12:00:00] [E] Error[4]: no\n[E] Engine set up failed\n"
    assert last_error(said, 1) == "Error[4]: no"
    assert last_error("[E] Engine set up failed", 1) == "Engine set up failed" and last_error("", 9) == "exit code 9"
    one_kernel = [{"count": 2}, {"name": "{ForeignNode[stage1/Add_1...stage4/Add_9]}", "averageMs": 2.5}]
    breakdown = read_profile(one_kernel, "x", ["a"] * 4)
    assert (breakdown.stages, len(breakdown.operators)) == ((), 1)
    for read in (
        lambda one: read_times(one, "x", 0),
        lambda one: read_profile(one, "x", []),
        lambda one: read_outputs(one, "x"),
    ):
        for wrong in ([{"name": 3}], 7, [7], [{"name": "a", "dimensions": "2x2", "values": [1]}]):
            with pytest.raises(DeviceError, match=r"^x: its .* not complete"):
                read(wrong)


@pytest.mark.parametrize("value", [-1.0, 0.0, float("nan"), float("inf")])
def test_times_that_are_none_are_refused(value: float) -> None:
    run = dict.fromkeys(("startComputeMs", "endEnqMs", "startEnqMs", "startH2dMs", "latencyMs", "computeMs"), 1.0)
    assert read_times([run], "x", 0)[0].samples_ms == (1.0,)
    with pytest.raises(DeviceError, match="not all are times"):
        read_times([run, run | {"computeMs": value}], "x", 0)
