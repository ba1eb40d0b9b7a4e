"""``tofe-edge evaluate``: token counts of images, against those that the checkpoint ships."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Program, refusal

from tofe_edge.evaluation.reference import load_reference
from tofe_edge.io.inputs import load_image
from tofe_edge.model.checkpoint import Checkpoint


def evaluate(program: Program, weights: Path, folder: Path, *more: object) -> str:
    code, out, err = program("evaluate", weights, "--data", folder, "--device", "cpu", *more)
    assert (code, err) == (0, "")
    return out


def counts_of(checkpoint: Checkpoint, folder: Path) -> np.ndarray:
    """Kept tokens ``(images, S)``, image by image."""
    reference = load_reference(checkpoint, "instance", "cpu")
    found = [reference(load_image(path, checkpoint.preprocessing)).kept for path in sorted(folder.rglob("*.png"))]
    return np.array([[len(positions) for positions in kept] for kept in found])


def test_instance_mode_has_a_distribution(program: Program, tiny_checkpoint: Checkpoint, image_folder: Path) -> None:
    document = json.loads(evaluate(program, tiny_checkpoint.path, image_folder, "--mode", "instance", "--json"))
    counts = counts_of(tiny_checkpoint, image_folder)
    assert [entry["stage"] for entry in document["distribution"]] == [1, 2, 3]
    for column, shipped, entry in zip(counts.T, (9, 5, 3), document["distribution"], strict=True):
        assert entry["mean"] == pytest.approx(column.mean(), abs=1e-3)
        assert entry["std"] == pytest.approx(column.std(), abs=1e-3)
        assert (entry["min"], entry["max"], entry["shipped"]) == (column.min(), column.max(), shipped)
        assert entry["mean_minus_shipped"] == pytest.approx(column.mean() - shipped, abs=1e-3)
        assert {int(count): images for count, images in entry["histogram"].items()} == {
            count: int((column == count).sum()) for count in column.tolist()
        }
    assert document["mean_kept"] == pytest.approx(counts.mean(axis=0), abs=0.01)


@pytest.mark.parametrize("mode", ["batch", "instance"])
def test_reuse_is_that_of_tokens(program: Program, weights: Path, image_folder: Path, mode: str) -> None:
    document = json.loads(evaluate(program, weights, image_folder, "--mode", mode, "--json"))
    _, out, _ = program("tokens", weights, "--data", image_folder, "--mode", mode, "--json", "--device", "cpu")
    assert document["mean_reused"] == json.loads(out)["summary"]["mean_reused"]
    assert document["mean_reused"][0] == 0 < sum(document["mean_reused"])
    assert ("distribution" in document) == (mode == "instance")


def test_a_dense_model_reuses_nothing(program: Program, tiny_dense_checkpoint: Checkpoint, image_folder: Path) -> None:
    document = json.loads(evaluate(program, tiny_dense_checkpoint.path, image_folder, "--json"))
    assert document["mean_reused"] == [] == document["mean_kept"] and "distribution" not in document
    assert "reused" not in evaluate(program, tiny_dense_checkpoint.path, image_folder)


def test_a_table_compares_shipped_counts(program: Program, tiny_checkpoint: Checkpoint, image_folder: Path) -> None:
    out = evaluate(program, tiny_checkpoint.path, image_folder, "--mode", "instance")
    counts = counts_of(tiny_checkpoint, image_folder)
    lines = [line.split() for line in out.splitlines() if line.startswith("stage ")]
    assert len(lines) == 3
    for stage, (column, shipped) in enumerate(zip(counts.T, (9, 5, 3))):
        assert lines[stage][2:5] == [f"{column.mean():.1f}", str(shipped), f"{column.mean() - shipped:+.1f}"]
        assert lines[stage][-1] == f"{column.max()}"
    assert "difference" not in evaluate(program, tiny_checkpoint.path, image_folder)


def test_pages_of_histograms(program: Program, tiny_checkpoint: Checkpoint, image_folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    out = evaluate(program, tiny_checkpoint.path, image_folder, "--mode", "instance", "--html", page)
    assert out.endswith(f"wrote  {page}\n")
    content = page.read_text(encoding="utf-8")
    assert content.count("images, stage ") == 3 and "shipped 9" in content and content.count('<div class="maps">') == 6
    totals = counts_of(tiny_checkpoint, image_folder).sum(axis=1)
    paths = sorted(image_folder.rglob("*.png"))
    # Among equals the one seen first has the fewest, the last one the most.
    fewest, most = paths[int(totals.argmin())], paths[::-1][int(totals[::-1].argmax())]
    first, second = content.split("Images with the fewest tokens")[1].split("Images with the most tokens")
    assert first.index(f"{fewest.parent.name}/{fewest.name}") < first.index('<div class="maps">')
    assert second.index(f"{most.parent.name}/{most.name}") < second.index('<div class="maps">')


@pytest.mark.parametrize("mode", [[], ["--mode", "batch"], ["--mode", "dense"]])
def test_a_page_needs_counts_that_differ(
    program: Program, weights: Path, image_folder: Path, tmp_path: Path, mode: list[str]
) -> None:
    page = tmp_path / "page.html"
    line = refusal(program, "evaluate", weights, "--data", image_folder, "--html", page, *mode)
    assert "add --mode instance" in line and not page.exists()


def test_no_file_is_replaced(program: Program, weights: Path, image_folder: Path, tmp_path: Path) -> None:
    call = ("evaluate", weights, "--data", image_folder, "--mode", "instance", "--html")
    assert "is a folder" in refusal(program, *call, tmp_path)
    assert "is the checkpoint" in refusal(program, *call, weights)
