"""``--html`` of ``convert`` and ``profile`` through the real program."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from page_contents import Tags

from tofe_edge.cli import main
from tofe_edge.model.checkpoint import Checkpoint

DEADLINE_SECONDS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("html")


@pytest.fixture(scope="module")
def converted(folder: Path, tiny_checkpoint: Checkpoint) -> Path:
    """A model that was converted with a page; stdout is JSON all the same."""
    done = subprocess.run(
        [sys.executable, "-m", "tofe_edge", "convert", "--checkpoint", str(tiny_checkpoint.path), "--precision", "int8",
         "--waive", "weights that were never trained", "--out", str(folder), "--html", str(folder / "made.html"), "--json"],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["artifact"])


def test_convert_writes_the_page_of_what_it_made(converted: Path, folder: Path) -> None:
    tags = Tags((folder / "made.html").read_text(encoding="utf-8"))
    for part in (
        converted.name, "Tokens per block", "What is computed", "Parity with the reference", "Time per stage",
        "Time per operator", "Histogram of latency", "50 runs", "with 1 thread", "Where rounding comes from",
    ):  # fmt: skip
        assert part in tags.text, part
    manifest = json.loads(converted.with_suffix(".json").read_text(encoding="utf-8"))
    assert manifest["sha256"] in tags.text
    assert all(layer in tags.text for layer in manifest["quantization"]["layers"])


def test_profile_writes_the_page_of_what_it_measured(
    converted: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = folder / "measured.html"
    assert main(["profile", str(converted), "--runs", "7", "--html", str(page), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    tags = Tags(page.read_text(encoding="utf-8"))
    for part in (converted.name, "7 runs", f"{document['latency_ms']['p50']:.2f} ms", document["stages"][0]["name"]):
        assert part in tags.text, part
    assert "stage 3: 3 computed, 13 frozen" in tags.text


def test_profile_does_without_golden_vectors(converted: Path, tmp_path: Path) -> None:
    for file in (converted, converted.with_suffix(".json")):
        shutil.copy(file, tmp_path)
    page = tmp_path / "a page.html"
    assert main(["profile", str(tmp_path / converted.name), "--runs", "2", "--html", str(page)]) == 0
    assert "What is computed" not in Tags(page.read_text(encoding="utf-8")).text


@pytest.mark.parametrize(
    "place", ["", "tiny-int8.json", "tiny-int8.pte", "tiny-int8.golden/0.png", "../out/tiny-int8.json"]
)
def test_a_page_where_the_model_goes_is_refused_before_any_work(
    place: str, tmp_path: Path, tiny_checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    page = out / place
    given = ["convert", "--checkpoint", str(tiny_checkpoint.path), "--precision", "int8", "--out", str(out)]
    assert main([*given, "--html", str(page)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and ("--html" in error or "is a folder" in error)
    assert list(out.iterdir()) == []
