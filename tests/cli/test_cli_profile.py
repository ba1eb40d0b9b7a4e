"""``profile`` on this machine: for how long, against what, as a page."""

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Program, flat, manifest_for, refusal

from tofe_edge.io.artifact import Artifact, write_manifest
from tofe_edge.model.checkpoint import Checkpoint


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves on by a millisecond whenever it is read, so that no load of the machine changes a result."""
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks) / 1e3)


def profile(program: Program, *arguments: object) -> Any:
    code, out, _ = program("profile", *arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_a_measurement_says_where_it_was_made(elastic_artifact: Artifact, program: Program) -> None:
    document = profile(program, elastic_artifact.path, "--runs", 3, "--cpus", "0")
    assert (document["on"], document["runs"], document["threads"]) == ("host", 3, 1)
    assert document["machine"]["cores"] >= 1 and document["load_ms"] > 0
    assert document["latency_ms"].keys() == {"p50", "p90", "p99", "min"}
    # For a batch of images there is a preparation too.
    assert [stage.keys() for stage in document["stages"]] == [{"name", "ms"}] * (1 + 4 + 3) and document["operators"]
    assert "sustained" not in document and "against" not in document


@pytest.mark.usefixtures("clock")
def test_sustained_compares_the_quarters(elastic_artifact: Artifact, program: Program, tmp_path: Path) -> None:
    document = profile(program, elastic_artifact.path, "--sustained", 1)
    found = document["sustained"]
    assert found["seconds"] == pytest.approx(1, abs=0.01)
    assert found["runs"] == document["runs"] > 24
    assert found["slowdown"] == pytest.approx(found["last_ms"] / found["first_ms"])
    assert found["slowdown_low"] <= found["slowdown"] <= found["slowdown_high"]
    assert "telemetry" in document
    code, _, err = program("profile", elastic_artifact.path, "--sustained", 1e-6)
    assert code == 2 and "too few to tell whether it slows down" in err
    page = tmp_path / "page.html"
    code, out, _ = program("profile", elastic_artifact.path, "--sustained", 1, "--html", page)
    assert code == 0 and str(page) in out
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") >= 3 and "First quarter" in text


def test_comparison_to_the_dense_net(elastic_artifact: Artifact, tiny_checkpoint: Checkpoint, program: Program) -> None:
    model, weights = elastic_artifact.path, tiny_checkpoint.path
    document = profile(program, model, "--against", "dense", "--checkpoint", weights, "--runs", 20)
    found = document["against"]
    assert (found["model"], found["gmacs"]) == ("dense", pytest.approx(tiny_checkpoint.dense_gmacs, rel=1e-3))
    assert found["gmacs_ratio"] == pytest.approx(tiny_checkpoint.gmacs / tiny_checkpoint.dense_gmacs, rel=1e-3)
    assert found["time_ratio_low"] <= found["time_ratio"] <= found["time_ratio_high"]
    ends = found["time_ratio_low"], found["time_ratio_high"]
    assert found["pays"] is (True if ends[1] < 1 else False if ends[0] > 1 else None)
    assert document["runs"] == 20
    _, out, _ = program("profile", model, "--against", model, "--runs", "10")
    # Nothing is saved, so there is no share from which on it would be.
    assert "at 1.000 of its GMACs" in flat(out) and "break-even" not in flat(out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--against dense --sustained 1", "one at a time"),
        ("--runs 5 --sustained 1", "one at a time"),
        ("--checkpoint none.safetensors", "--checkpoint is for --against dense"),
        ("--against none.pte", "none.pte: no such model file"),
        ("--against dense", "name its file with --checkpoint"),
        ("--cpus 3-1", "are not a list of numbers"),
        ("--cpus 4000", "cannot be used"),
        ("--on telnet://pi", "telnet://pi"),
        ("--on ssh://-oProxyCommand=x", "-oProxyCommand"),
        ("--method backward", "has no method 'backward'"),
        ("--compute-units all", "--compute-units is for .mlpackage models"),
        ("--html FOLDER", "is a folder"),
    ],
)
def test_wrong_calls(elastic_artifact: Artifact, program: Program, tmp_path: Path, options: str, message: str) -> None:
    words = (str(tmp_path) if word == "FOLDER" else word for word in options.split())
    assert message in refusal(program, "profile", elastic_artifact.path, *words)


def test_other_inputs_are_not_compared(
    elastic_artifact: Artifact, tiny_checkpoint: Checkpoint, tmp_path: Path, program: Program
) -> None:
    path, content = tmp_path / "single.pte", b"\0\0\0\0ET12" + bytes(100)
    path.write_bytes(content)
    write_manifest(path, manifest_for(tiny_checkpoint, path.name, content))
    message = refusal(program, "profile", elastic_artifact.path, "--against", path)
    assert "takes batches of 1 at 64 px where" in message and "takes 3 at 64 px" in message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(elastic_artifact: Artifact, number: signal.Signals) -> None:
    """What is to be removed at the end is, as after Ctrl-C."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, as under nohup, and children inherit that")
    command = [sys.executable, "-m", "tofe_edge", "profile", str(elastic_artifact.path), "--sustained", "100"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(6)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
