"""``tofe-edge tokens`` through the program: JSON, table, page and picture, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Program, flat, refusal
from PIL import Image

from tofe_edge.evaluation.reference import load_reference
from tofe_edge.io.inputs import load_image
from tofe_edge.model.checkpoint import Checkpoint


def tokens(program: Program, weights: Path, *arguments: object) -> str:
    code, out, err = program("tokens", weights, "--device", "cpu", *arguments)
    assert (code, err) == (0, "")
    return out


def test_tokens_are_reported(
    program: Program,
    tiny_checkpoint: Checkpoint,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = [image_folder / "0" / "0.png", image_folder / "0" / "1.png"]
    page, sheet = tmp_path / "new" / "page.html", tmp_path / "sheet.png"
    call = ("--image", *paths, "--html", page, "--png", sheet)
    document = json.loads(tokens(program, tiny_checkpoint.path, *call, "--json"))
    assert (document["checkpoint"], document["mode"], document["patch_tokens"]) == ("tiny", "batch", 16)
    assert document["wrote"] == [str(page), str(sheet)] and document["unreadable"] == []
    reference = load_reference(tiny_checkpoint, "batch", "cpu")
    for path, entry in zip(paths, document["images"], strict=True):
        expected = reference(load_image(path, tiny_checkpoint.preprocessing))
        assert entry["image"] == str(path) and entry["label"] is None
        assert [set(stage) for stage in entry["kept"]] == [set(stage.tolist()) for stage in expected.kept]
        assert entry["kept_counts"] == [9, 5, 3] and entry["prediction"]["class_id"] == str(expected.logits.argmax())
        first, second, third = map(set, entry["kept"])
        assert entry["reused"] == [0, len(second - first), len(third - (first & second))]
    summary = document["summary"]
    assert (summary["images"], summary["mean_kept"], summary["mean_usage"]) == (2, [9, 5, 3], 1 + 17 / 16)
    assert summary["mean_reused"] == np.mean([entry["reused"] for entry in document["images"]], axis=0).tolist()
    assert page.read_text(encoding="utf-8").count('<div class="maps">') == 2
    assert Image.open(sheet).format == "PNG"
    # For people, images that were named have a line each.
    monkeypatch.chdir(image_folder)
    lines = tokens(program, tiny_checkpoint.path, "--image", "0/0.png", "0/1.png").splitlines()
    assert all(any(line.startswith(f"0/{number}.png") and "9, 5, 3" in line for line in lines) for number in (0, 1))


def test_every_source_says_the_same(program: Program, weights: Path, image_folder: Path, tmp_path: Path) -> None:
    paths, flat = sorted(image_folder.rglob("*.png")), tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(paths):
        (flat / f"{number}.png").write_bytes(path.read_bytes())
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in paths]
    (tmp_path / "x.csv").write_text("path,label\n" + "\n".join(lines))
    labels, documents = {}, []
    for source in (image_folder, tmp_path / "x.csv", flat):
        document: Any = json.loads(tokens(program, weights, "--data", source, "--mode", "instance", "--json"))
        labels[source.name] = [entry.pop("label") for entry in document["images"]]
        assert all(entry.pop("image") for entry in document["images"])
        documents.append(document)
    assert labels == {"images": ["0"] * 3 + ["1"] * 3, "x.csv": ["0"] * 3 + ["1"] * 3, "flat": [None] * 6}
    assert documents[0] == documents[1] == documents[2]
    assert len({tuple(entry["kept_counts"]) for entry in documents[0]["images"]}) > 1  # instance-adaptive


def test_the_table_is_that_of_the_paper(program: Program, weights: Path, image_folder: Path) -> None:
    (image_folder / "0" / "1.png").write_bytes(b"")
    summary = json.loads(tokens(program, weights, "--data", image_folder, "--json"))["summary"]
    out = tokens(program, weights, "--data", image_folder)
    assert "5 (1 unreadable)" in flat(out) and "in 2.06 of 4 stages" in flat(out)
    for stage in range(3):
        line = next(line for line in out.splitlines() if line.startswith(f"stage {stage + 1}"))
        kept, reused, share = (summary[key][stage] for key in ("mean_kept", "mean_reused", "reused_share"))
        assert line.split()[2:] == [f"{kept:.2f}", f"{reused:.2f}", f"{share:.2%}"]


def test_images_are_drawn(program: Program, weights: Path, image_folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    out = tokens(program, weights, "--data", image_folder, "--limit", 5, "--draw", 2, "--html", page)
    assert out.endswith(f"wrote  {page}\n")
    content = page.read_text(encoding="utf-8")
    assert content.count('<div class="maps">') == 2 and "3 more images, counted but not drawn" in content


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "either --image FILE or --data DATA"),
        ("--image a.png --data b", "either --image FILE or --data DATA"),
        ("--image a.png --limit 1", "--limit is for --data"),
        ("--data missing", "missing: does not exist"),
        ("--data empty", "holds no image"),
        ("--image images/0/0.png missing.png", "missing.png: does not exist"),
        ("--image images/0/0.png empty.png", "empty.png: is empty"),
        ("--image images/0/0.png --png images/1/../0/0.png", "is what is to be read"),
        ("--image images/0/0.png --html empty", "is a folder"),
        ("--image images/0/0.png --html a --png a", "name one file"),
        ("--data unreadable --draw 1 --png a.png", "none of the images to be drawn can be read; raise --draw"),
    ],
)
def test_calls_that_make_no_sense_are_refused_and_write_nothing(
    program: Program,
    weights: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("empty.png").write_bytes(b"")
    # One image is drawn of two: the first, which cannot be read.
    Path("unreadable").mkdir()
    Path("unreadable/0.png").write_bytes(b"")
    Path("unreadable/1.png").write_bytes((image_folder / "0" / "0.png").read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    assert words in refusal(program, "tokens", weights, *arguments.split())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before and not Path("a").exists()


def test_checkpoints_are_neither_dense_nor_written_over(
    program: Program, weights: Path, tiny_dense_checkpoint: Checkpoint, image_folder: Path
) -> None:
    line = refusal(program, "tokens", tiny_dense_checkpoint.path, "--data", image_folder)
    assert line.startswith("tiny-dense: is a dense model") and "give a ToFe checkpoint" in line
    call = ("tokens", weights, "--data", image_folder)
    assert "is what is to be read" in refusal(program, *call, "--html", weights)
