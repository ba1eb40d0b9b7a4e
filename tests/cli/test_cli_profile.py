"""``profile`` on this machine: for how long, against what, as a page."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import manifest_for

from tofe_edge.cli import main
from tofe_edge.io.artifact import Artifact, write_manifest
from tofe_edge.model.checkpoint import Checkpoint

Answer = Callable[..., Any]
Refused = Callable[..., str]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Answer:
    def run(*arguments: object) -> Any:
        assert main([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run the program; its last line on stderr."""

    def run(*arguments: object, code: int = 2) -> str:
        assert main([str(argument) for argument in arguments]) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()[-1]

    return run


def test_a_measurement_says_where_it_was_made(elastic_artifact: Artifact, answer: Answer) -> None:
    document = answer("profile", elastic_artifact.path, "--runs", 3, "--cpus", "0")
    assert document["on"] == "host"
    assert document["machine"]["cores"] >= 1
    assert document["runs"] == 3
    assert document["stages"] and document["operators"]
    assert "sustained" not in document and "against" not in document


def test_sustained_compares_the_quarters(elastic_artifact: Artifact, answer: Answer) -> None:
    document = answer("profile", elastic_artifact.path, "--sustained", 1)
    found = document["sustained"]
    assert 1 <= found["seconds"] < 60
    assert found["runs"] == document["runs"] > 24
    assert found["slowdown"] == pytest.approx(found["last_ms"] / found["first_ms"])
    assert found["slowdown_low"] <= found["slowdown"] <= found["slowdown_high"]


def test_a_run_too_short_to_judge_is_refused(elastic_artifact: Artifact, refused: Refused) -> None:
    assert "too few to tell whether it slows down" in refused("profile", elastic_artifact.path, "--sustained", 1e-6)


def test_against_the_dense_net(elastic_artifact: Artifact, tiny_checkpoint: Checkpoint, answer: Answer) -> None:
    model, weights = elastic_artifact.path, tiny_checkpoint.path
    document = answer("profile", model, "--against", "dense", "--checkpoint", weights, "--runs", 20)
    found = document["against"]
    assert (found["model"], found["gmacs"]) == ("dense", pytest.approx(tiny_checkpoint.dense_gmacs, rel=1e-3))
    assert found["gmacs_ratio"] == pytest.approx(tiny_checkpoint.gmacs / tiny_checkpoint.dense_gmacs, rel=1e-3)
    assert found["time_ratio_low"] <= found["time_ratio"] <= found["time_ratio_high"]
    ends = found["time_ratio_low"], found["time_ratio_high"]
    assert found["pays"] is (True if ends[1] < 1 else False if ends[0] > 1 else None)
    assert document["runs"] == 20


def test_against_another_model(elastic_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(elastic_artifact.path)
    assert main(["profile", model, "--against", model, "--runs", "10"]) == 0
    said = capsys.readouterr().out
    assert "at 1.000 of its GMACs" in said
    # Nothing is saved, so there is no share from which on it would be.
    assert "break-even" not in said


def test_the_page_is_written(elastic_artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["profile", str(elastic_artifact.path), "--sustained", "1", "--html", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") >= 3
    assert "First quarter" in text


def test_a_page_that_cannot_be_written_is_known_before_anything_is_measured(
    elastic_artifact: Artifact, tmp_path: Path, refused: Refused
) -> None:
    assert str(tmp_path) in refused("profile", elastic_artifact.path, "--html", tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--against", "dense", "--sustained", "1"], "one at a time"),
        (["--runs", "5", "--sustained", "1"], "one at a time"),
        (["--checkpoint", "none.safetensors"], "--checkpoint is for --against dense"),
        (["--against", "none.pte"], "none.pte: no such model file"),
        (["--against", "dense"], "name its file with --checkpoint"),
        (["--cpus", "3-1"], "are no list of numbers"),
        (["--cpus", "4000"], "cannot be used"),
        (["--on", "telnet://pi"], "telnet://pi"),
        (["--on", "ssh://-oProxyCommand=x"], "-oProxyCommand"),
        (["--method", "backward"], "has no method 'backward'"),
    ],
)
def test_calls_that_make_no_sense(elastic_artifact: Artifact, refused: Refused, options: list[str], said: str) -> None:
    assert said in refused("profile", elastic_artifact.path, *options)


def test_models_with_other_inputs_are_not_compared(
    elastic_artifact: Artifact, tiny_checkpoint: Checkpoint, tmp_path: Path, refused: Refused
) -> None:
    path, content = tmp_path / "single.pte", b"\0\0\0\0ET12" + bytes(100)
    path.write_bytes(content)
    write_manifest(path, manifest_for(tiny_checkpoint, path.name, content))
    said = refused("profile", elastic_artifact.path, "--against", path)
    assert "takes batches of 1 at 64 px where" in said and "takes 3 at 64 px" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(elastic_artifact: Artifact, number: signal.Signals) -> None:
    """What is to be tidied away at the end is, as after Ctrl-C."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, as under nohup, and children inherit that")
    command = [sys.executable, "-m", "tofe_edge", "profile", str(elastic_artifact.path), "--sustained", "100"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(6)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
