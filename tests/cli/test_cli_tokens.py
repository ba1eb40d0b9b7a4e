"""``tofe-edge tokens`` through the program: JSON, table, page and picture, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Program, refusal
from PIL import Image

from tofe_edge.evaluation.reference import load_reference
from tofe_edge.io.inputs import load_image
from tofe_edge.model.checkpoint import Checkpoint


def images_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def test_the_program_says_where_every_token_went(
    tiny_checkpoint: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    paths, page, sheet = images_of(image_folder)[:2], tmp_path / "new" / "page.html", tmp_path / "sheet.png"
    done = subprocess.run(
        [sys.executable, "-m", "tofe_edge", "tokens", str(tiny_checkpoint.path), "--image", *map(str, paths),
         "--html", str(page), "--png", str(sheet), "--json", "--device", "cpu"],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["checkpoint"], document["mode"], document["patch_tokens"]) == ("tiny", "batch", 16)
    assert document["wrote"] == [str(page), str(sheet)] and document["unreadable"] == []
    reference = load_reference(tiny_checkpoint, "batch", "cpu")
    for path, entry in zip(paths, document["images"], strict=True):
        wanted = reference(load_image(path, tiny_checkpoint.preprocessing))
        assert entry["image"] == str(path) and entry["label"] is None
        assert [set(stage) for stage in entry["kept"]] == [set(stage.tolist()) for stage in wanted.kept]
        assert entry["kept_counts"] == [9, 5, 3] and entry["prediction"]["class_id"] == str(wanted.logits.argmax())
        first, second, third = map(set, entry["kept"])
        assert entry["reused"] == [0, len(second - first), len(third - (first & second))]
    summary = document["summary"]
    assert (summary["images"], summary["mean_kept"], summary["mean_usage"]) == (2, [9, 5, 3], 1 + 17 / 16)
    assert summary["mean_reused"] == np.mean([entry["reused"] for entry in document["images"]], axis=0).tolist()
    assert page.read_text(encoding="utf-8").count('<div class="maps">') == 2
    assert Image.open(sheet).format == "PNG"


def test_labelled_data_flat_folders_and_csv_say_the_same(
    program: Program, tiny_checkpoint: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    paths = images_of(image_folder)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(paths):
        (flat / f"{number}.png").write_bytes(path.read_bytes())
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in paths]
    (tmp_path / "x.csv").write_text("path,label\n" + "\n".join(lines))
    found = {}
    for source in (image_folder, tmp_path / "x.csv", flat):
        code, out, _ = program(
            "tokens", tiny_checkpoint.path, "--data", source, "--mode", "instance", "--json", "--device", "cpu"
        )
        assert code == 0
        found[source.name] = json.loads(out)
    labels = {name: [entry.pop("label") for entry in document["images"]] for name, document in found.items()}
    assert labels == {"images": ["0"] * 3 + ["1"] * 3, "x.csv": ["0"] * 3 + ["1"] * 3, "flat": [None] * 6}
    for document in found.values():
        for entry in document["images"]:
            entry.pop("image")
    assert found["images"] == found["x.csv"] == found["flat"]
    counts = {tuple(entry["kept_counts"]) for entry in found["flat"]["images"]}
    assert len(counts) > 1  # instance-adaptive


def test_the_table_is_that_of_the_paper(program: Program, tiny_checkpoint: Checkpoint, image_folder: Path) -> None:
    (image_folder / "0" / "1.png").write_bytes(b"")
    arguments = ("tokens", tiny_checkpoint.path, "--data", image_folder, "--device", "cpu")
    summary = json.loads(program(*arguments, "--json")[1])["summary"]
    code, out, _ = program(*arguments)
    assert code == 0 and "5 (1 unreadable)" in out and "in 2.06 of 4 stages" in out
    for stage in range(3):
        line = next(line for line in out.splitlines() if line.startswith(f"stage {stage + 1}"))
        assert line.split()[2:] == [
            f"{summary['mean_kept'][stage]:.2f}",
            f"{summary['mean_reused'][stage]:.2f}",
            f"{summary['reused_share'][stage]:.2%}",
        ]


def test_images_that_were_named_have_a_line_each(
    program: Program, tiny_checkpoint: Checkpoint, image_folder: Path
) -> None:
    paths = images_of(image_folder)[:2]
    code, out, _ = program("tokens", tiny_checkpoint.path, "--image", *paths, "--device", "cpu")
    assert code == 0 and all(
        any(line.startswith(str(path)) and "9, 5, 3" in line for line in out.splitlines()) for path in paths
    )


def test_all_images_are_counted_and_some_drawn(
    program: Program, tiny_checkpoint: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    code, out, _ = program(
        "tokens",
        tiny_checkpoint.path,
        "--data",
        image_folder,
        "--limit",
        5,
        "--draw",
        2,
        "--html",
        page,
        "--device",
        "cpu",
    )
    assert code == 0 and out.endswith(f"wrote  {page}\n")
    content = page.read_text(encoding="utf-8")
    assert content.count('<div class="maps">') == 2 and "3 images more are counted and not drawn" in content


@pytest.mark.parametrize("arguments", [[], ["--image", "a.png", "--data", "b"]])
def test_images_come_from_one_place(program: Program, tiny_checkpoint: Checkpoint, arguments: list[str]) -> None:
    assert "either --image FILE or --data DATA" in refusal(program, "tokens", tiny_checkpoint.path, *arguments)


def test_a_limit_needs_data(program: Program, tiny_checkpoint: Checkpoint) -> None:
    assert "--limit is for --data" in refusal(program, "tokens", tiny_checkpoint.path, "--image", "a.png", "--limit", 1)


@pytest.mark.parametrize("mode", ["batch", "instance"])
def test_a_dense_model_has_no_token_maps(
    program: Program, tiny_dense_checkpoint: Checkpoint, image_folder: Path, mode: str
) -> None:
    line = refusal(program, "tokens", tiny_dense_checkpoint.path, "--data", image_folder, "--mode", mode)
    assert line.startswith("tiny-dense: is a dense model") and "give a ToFe checkpoint" in line


@pytest.mark.parametrize(
    ("content", "words"), [(None, "does not exist"), (b"", "is empty"), (b"text", "is not an image")]
)
def test_a_named_image_that_cannot_be_read_is_refused_even_among_good_ones(
    program: Program, tiny_checkpoint: Checkpoint, image_folder: Path, content: bytes | None, words: str
) -> None:
    bad = image_folder / "bad.png"
    if content is not None:
        bad.write_bytes(content)
    line = refusal(program, "tokens", tiny_checkpoint.path, "--image", images_of(image_folder / "0")[0], bad)
    assert line.startswith(f"{bad}: {words}")


@pytest.mark.parametrize(("data", "words"), [("missing", "does not exist"), ("empty", "holds no image")])
def test_data_without_images_are_refused(
    program: Program, tiny_checkpoint: Checkpoint, tmp_path: Path, data: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert words in refusal(program, "tokens", tiny_checkpoint.path, "--data", tmp_path / data)


def test_nothing_that_is_read_is_written_over(
    program: Program, tiny_checkpoint: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    image = images_of(image_folder)[0]
    before = image.read_bytes()
    call = ("tokens", tiny_checkpoint.path, "--image", image)
    assert "is what is to be read" in refusal(program, *call, "--png", image_folder / "1" / ".." / "0" / image.name)
    assert "is what is to be read" in refusal(program, *call, "--html", tiny_checkpoint.path)
    assert "is a folder" in refusal(program, *call, "--html", tmp_path)
    assert "name one file" in refusal(program, *call, "--html", tmp_path / "a", "--png", tmp_path / "a")
    assert image.read_bytes() == before and not (tmp_path / "a").exists()


def test_pictures_of_images_that_cannot_be_read_are_refused(
    program: Program, tiny_checkpoint: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    from tofe_edge.io.dataset import find_samples, sample_evenly

    (drawn,) = sample_evenly(find_samples(image_folder, [str(number) for number in range(10)]), 1)
    drawn.path.write_bytes(b"")
    line = refusal(
        program, "tokens", tiny_checkpoint.path, "--data", image_folder, "--draw", 1, "--png", tmp_path / "a.png"
    )
    assert "none of the images to be drawn can be read; raise --draw" in line
