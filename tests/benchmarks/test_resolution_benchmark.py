"""The benchmark of input sizes end to end on a tiny net, with eager PyTorch in place of lowered programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks import resolution
from benchmarks.contenders import Contender, Subject
from benchmarks.contenders.contender import Pixels
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.runtimes.latency import Latency


def eager(subject: Subject) -> Contender:
    """The plain graph, and a size that tells the groups apart."""
    net = subject.plain()
    size = 10_000 if subject.counts is None else 20_000
    return Contender(
        subject.group,
        subject.group,
        "Eager",
        "fp32",
        lambda pixels: net(torch.from_numpy(pixels)).detach().numpy(),
        size,
    )


def test_every_size_gives_a_row_with_both_ratios(
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(resolution, "lower", eager)
    arguments = ["--checkpoint", str(tiny_checkpoint.path), "--sizes", "96,64", "--runs", "3", "--out", str(tmp_path)]
    assert resolution.main(arguments) == 0
    (path,) = tmp_path.glob("resolution-deit_tiny-????-??-??.yaml")
    text = path.read_text()
    document = yaml.safe_load(text)
    small, large = document["results"]
    assert (small["image_size"], small["patch_tokens"], small["tokens"]) == (64, 16, "9,5,3")
    assert (large["image_size"], large["patch_tokens"], large["tokens"]) == (96, 36, "20,11,7")
    assert (document["trained_at"], document["threads"], document["runs"]) == (64, 1, 3)
    for row in (small, large):
        dense, tofe = row["dense"], row["tofe"]
        assert dense["snr_db"] > 60 and tofe["snr_db"] > 60
        assert (dense["size_mb"], tofe["size_mb"]) == (0.01, 0.02)
        assert row["latency_ratio"] == pytest.approx(tofe["p50_ms"] / dense["p50_ms"], rel=0.01)
        assert row["gmacs_ratio"] == pytest.approx(tofe["gmacs"] / dense["gmacs"], abs=0.05)
    # The artifact's own header, computed elsewhere, at the size that it was trained at.
    assert small["gmacs_ratio"] == pytest.approx(tiny_checkpoint.gmacs / tiny_checkpoint.dense_gmacs, abs=1e-4)
    assert large["dense"]["gmacs"] > small["dense"]["gmacs"]
    assert str(tmp_path) not in text
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_times_go_to_the_size_and_the_net_that_took_them(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def recorded(subject: Subject) -> Contender:
        contender = eager(subject)

        def run(pixels: Pixels) -> Pixels:
            seen.append(pixels.shape)
            return contender.run(pixels)

        return replace(contender, run=run)

    def made_up(calls: Sequence[Callable[[], object]], runs: int) -> list[Latency]:
        seen.clear()
        for call in calls:
            call()
        return [Latency((time,) * runs, time / 2) for time in (8.0, 4.0, 20.0, 5.0)]

    monkeypatch.setattr(resolution, "lower", recorded)
    monkeypatch.setattr(resolution, "measure_interleaved", made_up)
    arguments = ["--checkpoint", str(tiny_checkpoint.path), "--sizes", "64,96", "--out", str(tmp_path)]
    assert resolution.main(arguments) == 0
    assert seen == [(1, 3, 64, 64)] * 2 + [(1, 3, 96, 96)] * 2
    (path,) = tmp_path.glob("*.yaml")
    small, large = yaml.safe_load(path.read_text())["results"]
    assert [row[net]["p50_ms"] for row in (small, large) for net in ("dense", "tofe")] == [8, 4, 20, 5]
    assert [row[net]["cpu_ms"] for row in (small, large) for net in ("dense", "tofe")] == [4, 2, 10, 2.5]
    assert (small["latency_ratio"], large["latency_ratio"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--sizes", "224,300"], "image size 300 does not fit deit_tiny_patch16_224"),
        (["--sizes", "224,large"], "--sizes 224,large: expected different positive whole numbers"),
        (["--sizes", "64,64"], "--sizes 64,64: expected different positive whole numbers"),
        (["--sizes", ""], "--sizes : expected different positive whole numbers"),
        (["--checkpoint", "no_such_checkpoint"], "no_such_checkpoint"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line_before_anything_is_built(
    arguments: list[str],
    reason: str,
    tiny_checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(resolution, "lower", lambda subject: pytest.fail("built"))
    assert resolution.main(["--checkpoint", str(tiny_checkpoint.path), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and reason in line
