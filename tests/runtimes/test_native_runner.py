"""The native runner, built here and called from Python: the same bytes as the Python runtime, what it reports, exit codes."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import shell_script
from native_builds import Built
from native_programs import INPUT_BYTES, TINY_PRECISIONS, Precision, content, in_python, run, tiny_program
from tiny_exports import SIZE, images

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.runtimes.native_runner import BAD_FILE, BAD_INPUT, WRONG_CALL
from tofe_edge.runtimes.timing import TimingRequest


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {precision: tiny_program(folder, precision) for precision in TINY_PRECISIONS}


@pytest.mark.parametrize("precision", TINY_PRECISIONS)
def test_outputs_equal_the_python_runtimes(host: Built, tiny: dict[Precision, Path], precision: Precision) -> None:
    for image in images(4, seed=2):
        result = run(host.binary, tiny[precision], image.numpy().tobytes())
        assert content(result) == in_python(tiny[precision], image)
        assert [output.dtype.name for output in result.outputs] == ["float32", "int64", "int64", "int64"]
        assert [output.shape for output in result.outputs] == [(1, 10), (16,), (16,), (3,)]


def test_a_missing_input_is_one_half_everywhere(host: Built, tiny: dict[Precision, Path], tmp_path: Path) -> None:
    output = tmp_path / "out.bin"
    done = host(str(tiny["fp32"]), "--output", str(output))
    assert done.returncode == 0
    assert output.read_bytes() == b"".join(in_python(tiny["fp32"], torch.full((1, 3, SIZE, SIZE), 0.5)))


def test_the_report_is_json_with_statistics_of_all_samples(host: Built, tiny: dict[Precision, Path]) -> None:
    done = host(str(tiny["fp32"]), "--runs", "7", "--warmup", "2", "--threads", "2")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    report = json.loads(done.stdout)
    ranked = sorted(report["samples_ms"])
    assert len(ranked) == 7
    assert [report[key] for key in ("min_ms", "p50_ms", "p90_ms", "p99_ms")] == [ranked[0], ranked[3], *2 * [ranked[6]]]
    assert report["threads"] == 2
    assert report["method"] == "forward"
    for key in ("load_ms", "cpu_ms", "planned_bytes"):
        assert report[key] > 0
    # Its own memory, not what the process that started it had: this one holds PyTorch.
    assert 2**20 < report["peak_rss_bytes"] < 2**27
    assert report["outputs"][0] == {"shape": [1, 10], "dtype": "float32", "bytes": 40}


def test_samples_and_memory_reach_python(host: Built, tiny: dict[Precision, Path]) -> None:
    result = run(host.binary, tiny["fp32"], bytes(INPUT_BYTES), TimingRequest(runs=5, warm_up=1))
    timing = result.timing
    assert len(timing.latency.samples_ms) == 5
    assert timing.latency.to_json()["min"] == min(timing.latency.samples_ms) > 0
    assert (result.method, timing.threads) == ("forward", 1)
    assert timing.planned_bytes is not None and timing.load_ms is not None
    assert timing.peak_rss_bytes is not None
    assert min(timing.load_ms, timing.planned_bytes, timing.peak_rss_bytes, timing.latency.cpu_ms) > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no model given"),
        (["a.pte", "b.pte"], "one model only, not also 'b.pte'"),
        (["a.pte", "--colour", "red"], "unknown option '--colour'"),
        (["a.pte", "--runs"], "--runs needs a value"),
        (["a.pte", "--output", ""], "--output needs a value"),
        (["a.pte", "--runs", "0"], "--runs takes a whole number from 1 to 1000000, not '0'"),
        (["a.pte", "--runs", "+3"], "not '+3'"),
        (["a.pte", "--runs", "99999999999999999999"], "not '99999999999999999999'"),
        (["a.pte", "--warmup", "-1"], "--warmup takes a whole number from 0"),
        (["a.pte", "--threads", "two"], "--threads takes a whole number from 1 to 1024, not 'two'"),
        (["a.pte", "--duration", "0"], "--duration takes seconds, more than 0 and up to 86400, not '0'"),
        (["a.pte", "--duration", "-1"], "not '-1'"),
        (["a.pte", "--duration", "inf"], "not 'inf'"),
        (["a.pte", "--duration", "1s"], "not '1s'"),
        (["a.pte", "--duration", "86401"], "not '86401'"),
        (["a.pte", "--duration", "1", "--runs", "1"], "--runs and --duration exclude each other"),
        (["a.pte", "--cpus", "2-1"], "--cpus takes a list of cores such as 0,2-3, not '2-1'"),
        (["a.pte", "--input", "a", "--image", "b"], "--input and --image exclude each other"),
        (["a.pte", "--sha256", "12"], "--sha256 takes 64 hexadecimal digits, not '12'"),
        (["a.pte", "--sha256", "g" * 64], "not 'gggg"),
        (["a.pte", "--size", "-5"], "--size takes a whole number from 0"),
        (["a.pte", "--top", "0"], "--top takes a whole number from 1"),
        (["a.pte", "--self-test", "x", "--runs", "3"], "--self-test does not take --runs"),
    ],
)
def test_a_wrong_call_names_the_argument_and_shows_the_usage(host: Built, arguments: Sequence[str], said: str) -> None:
    message = host.refused(WRONG_CALL, *arguments)
    assert said in message
    assert said.startswith("--cpus takes") or "usage: tofe_runner MODEL.pte [--method NAME]" in message


def test_help_is_not_an_error(host: Built) -> None:
    done = host("--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: tofe_runner MODEL.pte [--method NAME]")


def test_an_unknown_method_is_a_wrong_call_that_lists_those_there_are(host: Built, tiny: dict[Precision, Path]) -> None:
    message = host.refused(WRONG_CALL, str(tiny["fp32"]), "--method", "backward")
    assert "has no method 'backward'; --method takes one of: forward" in message
    with pytest.raises(InputError, match=r"fp32\.pte: has no method 'backward'"):
        run(host.binary, tiny["fp32"], bytes(INPUT_BYTES), TimingRequest(method="backward"))


@pytest.mark.parametrize(
    "head", [b"", b"abc", b"\0" * 4096, b"PK\x03\x04" + b"\0" * 4096, b"\0\0\0\0ET11" + b"\0" * 99], ids=repr
)
def test_what_is_no_program_is_a_bad_file(host: Built, tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "odd.pte"
    path.write_bytes(head)
    assert "odd.pte: is not an ExecuTorch program of a known version" in host.refused(BAD_FILE, str(path))


def test_a_missing_file_and_a_folder_are_bad_files(host: Built, tmp_path: Path) -> None:
    assert "none.pte: cannot be opened (No such file" in host.refused(BAD_FILE, str(tmp_path / "none.pte"))
    assert "cannot be read (Is a directory)" in host.refused(BAD_FILE, str(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_cut_program_is_a_bad_file(host: Built, tiny: dict[Precision, Path], tmp_path: Path, share: float) -> None:
    whole = tiny["fp32"].read_bytes()
    path = tmp_path / "cut.pte"
    path.write_bytes(whole[: 8 + int(share * (len(whole) - 8))])
    assert "cut.pte: ExecuTorch cannot load" in host.refused(BAD_FILE, str(path))
    with pytest.raises(InputError, match=r"cut\.pte: ExecuTorch cannot load"):
        run(host.binary, path, bytes(INPUT_BYTES))


@pytest.mark.parametrize(
    ("size", "said"), [(0, "has 0 bytes"), (INPUT_BYTES - 1, f"has {INPUT_BYTES - 1} bytes"), (INPUT_BYTES + 1, "has more bytes")]
)  # fmt: skip
def test_input_size_is_checked(host: Built, tiny: dict[Precision, Path], tmp_path: Path, size: int, said: str) -> None:
    path = tmp_path / "in.bin"
    path.write_bytes(bytes(size))
    message = host.refused(BAD_INPUT, str(tiny["fp32"]), "--input", str(path))
    assert f"{said}, but the model takes {INPUT_BYTES}; give its input as raw float32" in message
    with pytest.raises(InputError, match=f"but the model takes {INPUT_BYTES}"):
        run(host.binary, tiny["fp32"], bytes(size))


def test_a_missing_input_and_an_output_nowhere(host: Built, tiny: dict[Precision, Path], tmp_path: Path) -> None:
    assert "no.bin: cannot be opened" in host.refused(BAD_INPUT, str(tiny["fp32"]), "--input", str(tmp_path / "no.bin"))
    nowhere = str(tmp_path / "nowhere" / "out.bin")
    assert "out.bin: cannot be written" in host.refused(WRONG_CALL, str(tiny["fp32"]), "--output", nowhere)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 77", "cannot run here, exit code 77"),
        ("kill -SEGV $$", "ended the native runner with SIGSEGV"),
        ("exec sleep 60", r"took more than 1 s"),
        (None, "cannot be started"),
    ],
)
def test_what_does_not_answer_like_the_runner_is_a_device_error(tmp_path: Path, script: str | None, said: str) -> None:
    path = tmp_path / "runner"
    if script is not None:
        shell_script(path, script)
    with pytest.raises(DeviceError, match=said):
        run(path, tmp_path / "net.pte", b"", timeout_s=1 if script == "exec sleep 60" else 60)


def test_a_build_folder_moves_as_a_whole(host: Built, tiny: dict[Precision, Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    assert {path.name for path in host.binary.parent.iterdir()} - {"tofe.h"} == {"tofe_runner", "lib"}
    subprocess.run(["cp", "-r", str(host.binary.parent), str(moved)], check=True)
    assert run(moved / host.binary.name, tiny["fp32"], bytes(INPUT_BYTES)).outputs[0].shape == (1, 10)
