"""What commands say of images that they leave out; ``run`` prints as it goes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Program, document_of, flat, refusal, write_images

import tofe_edge as te
from tofe_edge.cli import run as run_command
from tofe_edge.errors import DeviceError, InputError
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.workflows.convert import _replaced
from tofe_edge.workflows.run import ImageOutput, Model, Unreadable

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
REMARK = "1 left out: HEIC, which is not read (first: 0/a.HEIC)"
LEFT_OUT = {"cause": "HEIC, which is not read", "count": 1}


@pytest.fixture
def mixed(image_folder: Path) -> Path:
    (image_folder / "0" / "a.HEIC").write_bytes(HEIC)
    return image_folder


@pytest.mark.parametrize(
    "words", ["evaluate CKPT --device cpu", "tokens CKPT --device cpu", "parity MODEL --checkpoint CKPT"]
)
def test_left_out_images_are_said(words: str, program: Program, two_budgets: Path, weights: Path, mixed: Path) -> None:
    places = {"CKPT": weights, "MODEL": two_budgets}
    call = [*(places.get(word, word) for word in words.split()), "--data", mixed]
    document = document_of(program, *call)
    assert document["left_out"] == [{**LEFT_OUT, "first": str(mixed / "0" / "a.HEIC")}]
    assert REMARK in document["warnings"]
    code, out, _ = program(*call)
    assert code == 0 and REMARK in flat(out)
    # A class of which there is no image, or none that can be read.
    (mixed / "2").mkdir()
    assert "class '2' has no image" in refusal(program, *call)
    (mixed / "2" / "a.jpg").write_bytes(HEIC)
    assert "no image of class '2' can be read" in refusal(program, *call)
    document = document_of(program, *call, "--allow-empty")
    assert [one["count"] for one in document["left_out"]] == [2] and document["unreadable"] == [
        str(mixed / "2" / "a.jpg")
    ]


def test_reduce_says_what_it_leaves_out(weights: Path, tiny_dense_checkpoint: Checkpoint, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 40)
    (images / "0" / "a.HEIC").write_bytes(HEIC)
    reduced = te.reduce(tiny_dense_checkpoint.path, images, tmp_path / "a.safetensors", share=0.7)
    assert REMARK in (reduced.checkpoint.training or {})["warnings"]


@pytest.fixture
def refused_training(program: Program, tiny_dense_checkpoint: Checkpoint, tmp_path: Path) -> Callable[[Path], str]:
    """Why training on a folder is refused."""
    call = (
        "train",
        "--weights",
        tiny_dense_checkpoint.path,
        "--out",
        tmp_path / "a.safetensors",
        "--target-gmacs",
        0.002,
    )
    return lambda data: refusal(program, *call, "--data", data)


@pytest.mark.parametrize("classes", [("0", "1"), ("cat", "dog")])
def test_training_refuses_train_and_val_together(
    classes: tuple[str, str], refused_training: Callable[[Path], str], tmp_path: Path
) -> None:
    for name in ("train", "val"):
        write_images(tmp_path / "data" / name, 8, classes)
    assert (
        refused_training(tmp_path / "data")
        == f"{tmp_path / 'data'}: holds 'train' and 'val'; train on one of them, such as {tmp_path / 'data' / 'train'}"
    )


@pytest.mark.parametrize("classes", [("0", "1"), ("cat", "dog")])
def test_training_refuses_an_empty_class(
    classes: tuple[str, str], refused_training: Callable[[Path], str], tmp_path: Path
) -> None:
    data = write_images(tmp_path / "data", 8, classes)
    empty = "2" if classes[0] == "0" else "bird"
    (data / empty).mkdir()
    assert f"class '{empty}' has no image" in refused_training(tmp_path / "data")


def test_run_names_the_bad_ones_and_goes_on(
    program: Program, two_budgets: Path, image_folder: Path, tmp_path: Path
) -> None:
    paths = sorted(image_folder.rglob("*.png"))
    bad = [paths[0], paths[3]]
    for path in bad:
        path.write_bytes(b"no image")
    code, out, err = program("run", two_budgets, *paths, "--save", tmp_path / "a.npy")
    assert code == 2 and all(out.count(str(path)) == (path not in bad) for path in paths)
    assert out.endswith(f"Wrote {tmp_path / 'a.npy'}: 4 of 6 images, in their order\n") and out.count("\n\n") == 4
    first, second, last = err.splitlines()
    assert first.startswith(f"tofe-edge: error: {bad[0]}: is not an image") and str(bad[1]) in second
    assert last == "tofe-edge: error: 2 of 6 images cannot be read, see above; the others are done"
    code, out, err = program("run", two_budgets, *paths, "--json", "--save", tmp_path / "b.npy")
    document = json.loads(out)
    assert code == 2 and [entry["image"] for entry in document] == list(map(str, paths))
    assert ["error" in entry for entry in document] == [path in bad for path in paths]
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    assert np.load(tmp_path / "a.npy").shape == (4, 10)
    code, out, err = program("run", two_budgets, bad[0], "--json", "--save", tmp_path / "c.npy")
    assert (code, len(json.loads(out)), err.count("\n")) == (2, 1, 1) and not (tmp_path / "c.npy").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_stream_reads_an_image_when_it_is_asked_for(two_budgets: Path, image_folder: Path) -> None:
    good = image_folder / "0" / "0.png"
    taken: list[Path] = []

    def images() -> Iterator[Path]:
        for path in (good, image_folder / "none.png", good):
            taken.append(path)
            yield path

    stream = te.load(two_budgets).stream(images())
    assert taken == []
    assert isinstance(next(stream), ImageOutput) and len(taken) == 1
    assert isinstance(next(stream), Unreadable) and len(taken) == 2
    assert len(list(stream)) == 1 and len(taken) == 3
    with pytest.raises(InputError, match=r"none\.png: does not exist"):
        te.load(two_budgets).run(good, image_folder / "none.png")


def test_results_are_printed_as_they_come(
    program: Program, two_budgets: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that fails at the third image: two results are there, and with ``--json`` in a whole document."""
    paths = sorted(image_folder.rglob("*.png"))

    class Failing(Model):
        def stream(self, images: Any, **options: Any) -> Iterator[ImageOutput | Unreadable]:
            yield from super().stream(list(images)[:2], **options)
            raise DeviceError("model: the runtime failed")

    monkeypatch.setattr(run_command, "load", lambda path: Failing(te.load(path).artifact))
    code, out, err = program("run", two_budgets, *paths, "--json")
    assert (code, err) == (3, "tofe-edge: error: model: the runtime failed\n")
    assert [entry["image"] for entry in json.loads(out)] == list(map(str, paths[:2]))


def test_calibration_is_counted_and_a_replaced_model_is_said(
    program: Program, weights: Path, mixed: Path, tmp_path: Path
) -> None:
    (mixed / "1" / "0.png").write_bytes(b"")
    call = [
        "convert",
        "--checkpoint",
        weights,
        "--precision",
        "int8",
        "--out",
        tmp_path / "out",
        "--calibration",
        mixed,
    ]
    document = document_of(program, *call)
    assert [(one["cause"], one["count"]) for one in document["left_out"]] == [
        ("HEIC, which is not read", 1),
        ("empty", 1),
    ]
    assert not any("replaces" in warning for warning in document["warnings"])
    made = te.load(next((tmp_path / "out").glob("*.pte"))).manifest
    assert _replaced(made, made) is None, "the same bytes"
    (mixed / "1" / "0.png").unlink()
    other = write_images(tmp_path / "other", 4, seed=1)
    (said,) = (one for one in document_of(program, *call[:-1], other)["warnings"] if "replaces" in one)
    assert f"made with 3 images of {mixed}, this one with 4 images of {other}; keep both with another --out" in said
