"""A net that was fine-tuned elsewhere: its classes and preprocessing go all the way."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import Program, document_of, flat, refusal, tiny_tofe, write_images
from tiny_run import stand_in

from tofe_edge.io.artifact import open_artifact
from tofe_edge.model.checkpoint import read_header

NAMES = ("cat", "cow", "dog")
DEIT = ("--backbone", "deit_tiny_patch16_224")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights of Lightning with three outputs, ``pets.ckpt``, and pictures in folders of these names."""
    folder = tmp_path_factory.mktemp("own")
    state = tiny_tofe("deit_tiny_patch16_224", classes=3).backbone.state_dict()
    weights = {key.replace("vit.", "model."): value for key, value in state.items()}
    torch.save({"state_dict": weights, "epoch": 3}, folder / "pets.ckpt")
    write_images(folder / "pictures", 24, NAMES)
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        yield folder


def test_folders_name_the_classes(folder: Path, program: Program) -> None:
    labels = ("--labels", folder / "pictures")
    code, out, err = program("evaluate", folder / "pets.ckpt", *DEIT, *labels, "--data", folder / "pictures")
    assert (code, err) == (0, "")
    assert "3: cat, cow, dog (from --labels" in flat(out) and "pets.ckpt, key state_dict" in flat(out)
    assert "ImageNet's mean and std (from the name deit_tiny_patch16_224)" in flat(out) and "warning" not in flat(out)
    call = ("evaluate", folder / "pets.ckpt", *DEIT, "--data", folder / "pictures")
    assert "'cat' is not a class id" in (line := refusal(program, *call))
    assert f"name its classes with --labels {folder / 'pictures'}" in line


def test_a_reduced_net_keeps_them(folder: Path, program: Program) -> None:
    (folder / "own.yaml").write_text("mean: 0.5\nstd: 0.5\ncrop_pct: 1.0\ninterpolation: bilinear\n")
    (folder / "names.json").write_text(json.dumps({name: number for number, name in enumerate(NAMES)}))
    call = ["reduce", "--weights", folder / "pets.ckpt", *DEIT, "--images", folder / "pictures", "--share", "0.8"]
    call += [
        "--labels",
        folder / "names.json",
        "--preprocessing",
        folder / "own.yaml",
        "--out",
        folder / "small.safetensors",
    ]
    document = document_of(program, *call)
    header = read_header(folder / "small.safetensors")
    assert header.classes.ids == header.classes.names == NAMES
    assert (header.preprocessing.crop_pct, header.preprocessing.interpolation) == (1.0, "bilinear")
    assert (
        document["sources"]["preprocessing"] == f"--preprocessing {folder / 'own.yaml'}" and document["warnings"] == []
    )
    assert document["preprocessing"]["mean"] == [0.5, 0.5, 0.5]


def test_plain_weights_convert_and_are_their_own_reference(folder: Path, program: Program) -> None:
    call = ["convert", "--checkpoint", folder / "pets.ckpt", *DEIT, "--precision", "fp32", "--preprocessing", "clip"]
    code, out, err = program(*call, "--labels", folder / "pictures", "--out", folder / "out")
    assert code == 0, err
    assert "CLIP's mean and std (from --preprocessing clip)" in flat(out)
    (model,) = (folder / "out").glob("*.pte")
    assert open_artifact(model).manifest.class_names == list(NAMES)
    # The manifest says of plain weights what they do not.
    report = document_of(program, "parity", model, "--checkpoint", folder / "pets.ckpt", "--data", folder / "pictures")
    assert report["passed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "imagenet"), "names 1000 classes, the head of pets.ckpt has 3 outputs"),
        (("--preprocessing", "imagnet"), "is not a file or one of imagenet, inception, clip"),
        (("--backbone", "deit_tiny_distilled_patch16_224"), "it has a distillation token, which they have not"),
    ],
)
def test_what_does_not_fit_is_one_line(options: tuple[str, str], message: str, folder: Path, program: Program) -> None:
    call = ("evaluate", folder / "pets.ckpt", *DEIT, "--data", folder / "pictures", *options)
    assert message in refusal(program, *call)


def test_labels_need_weights_of_ones_own(folder: Path, program: Program) -> None:
    call = ("convert", "--max-gmacs", "1", "--labels", "imagenet", "--out", folder / "none")
    assert "give them with --checkpoint" in refusal(program, *call)


def test_checkpoints_describes_them(folder: Path, program: Program) -> None:
    code, out, _ = program("checkpoints", folder / "pets.ckpt")
    assert code == 0 and "pets.ckpt does not name its 3 classes" in flat(out) and "classes 3" in flat(out)


def test_one_output_is_no_classifier(folder: Path, program: Program) -> None:
    state = tiny_tofe("deit_tiny_patch16_224", classes=1).backbone.state_dict()
    torch.save({key.removeprefix("vit."): value for key, value in state.items()}, folder / "one.pth")
    line = refusal(program, "convert", "--checkpoint", folder / "one.pth", *DEIT, "--out", folder / "none")
    assert "one: has one output" in line and "--output embedding" in line
    call = ["reduce", "--weights", folder / "one.pth", *DEIT, "--images", folder / "pictures", "--share", "0.8"]
    assert "one: has one output" in refusal(program, *call, "--out", folder / "none.safetensors")
