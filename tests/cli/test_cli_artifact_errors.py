"""Bad models, manifests, images and data given to ``run``, ``profile``, ``parity`` and ``evaluate``: one line, exit code 2 or 3."""

import subprocess
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
from conftest import Program, edit_json, manifest_for, refusal
from PIL import Image

from tofe_edge.cli import main
from tofe_edge.errors import InputError
from tofe_edge.io.artifact import manifest_path_of, write_manifest
from tofe_edge.model.checkpoint import Checkpoint

PROGRAM_BYTES = b"\0\0\0\0ET12" + bytes(4096)
"""Has ExecuTorch's magic and is not a program."""


@pytest.fixture
def model(tmp_path: Path, tiny_checkpoint: Checkpoint) -> Path:
    """A file whose manifest vouches for it. Nothing runs it before everything else has been checked."""
    path = tmp_path / "model.pte"
    path.write_bytes(PROGRAM_BYTES)
    write_manifest(path, manifest_for(tiny_checkpoint, path.name, PROGRAM_BYTES))
    return path


def edit(path: Path, **changes: object) -> None:
    edit_json(manifest_path_of(path), lambda document: document.update(changes))


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: path.unlink(), "no such model file; `tofe-edge convert` makes one"),
    "no manifest": (lambda path: manifest_path_of(path).unlink(), "its manifest model.json is missing"),
    "one bit flipped": (
        lambda path: path.write_bytes(PROGRAM_BYTES[:1000] + b"\1" + PROGRAM_BYTES[1001:]),
        "its checksum is not the manifest's",
    ),
    "cut short": (lambda path: path.write_bytes(PROGRAM_BYTES[:-1]), "cut short or the manifest is stale"),
    "empty manifest": (lambda path: manifest_path_of(path).write_bytes(b""), "model.json: cannot be read as JSON"),
    "manifest of another version": (lambda path: edit(path, schema=99), "manifest schema 99 is not 4"),
    "manifest with an unknown key": (lambda path: edit(path, extra=1), "'extra'"),
    "package that is a file": (lambda path: edit(path, target="coreml"), "is of a model for coreml"),
}


@pytest.mark.parametrize(
    ("command", "kind"), zip(cycle(["run", "profile", "parity"]), [*BAD_MODELS, "one bit flipped"])
)
def test_a_bad_model_is_refused(program: Program, model: Path, command: str, kind: str) -> None:
    spoil, message = BAD_MODELS[kind]
    spoil(model)
    line = refusal(program, command, model, *(["a.png"] if command == "run" else []))
    assert message in line and "model." in line


@pytest.mark.parametrize("command", ["run", "profile"])
def test_a_program_that_the_runtime_cannot_load_is_exit_code_3(model: Path, image_folder: Path, command: str) -> None:
    """In a process of its own: the native library's complaints must not join the one line."""
    images = [str(image_folder / "0" / "0.png")] if command == "run" else []
    arguments = [sys.executable, "-m", "tofe_edge", command, str(model), *images]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"tofe-edge: error: {model}: ExecuTorch cannot load it")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_text("no image"), "is not an image this program reads"),
        (lambda path: path.unlink(), "does not exist; check the path"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "is damaged or truncated"),
        (lambda path: Image.new("F", (9, 9)).save(path, "TIFF"), "holds floating point pixels"),
    ],
)
def test_a_bad_image_is_named(
    program: Program, model: Path, image_folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    bad = image_folder / "0" / "0.png"
    spoil(bad)
    line = refusal(program, "run", model, bad)
    assert message in line and str(bad) in line


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("missing", "missing: does not exist"),
        ("images/0/0.png", "is not a folder"),
        ("empty", "holds no image"),
        ("renamed", "'cat' is not a class id of this model (such as 0); expected FOLDER/<class id>/<image>"),
        ("unreadable", "none of its 2 images can be used"),
    ],
)
@pytest.mark.usefixtures("image_folder")
def test_data_that_cannot_be_used_are_refused(
    program: Program, model: Path, weights: Path, tmp_path: Path, data: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "renamed" / "cat").mkdir(parents=True)
    for name in ("renamed/cat/0.png", "unreadable/0/0.png", "unreadable/1/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert message in refusal(program, "evaluate", weights, "--data", tmp_path / data)
    if data != "unreadable":  # which is found out when the model runs
        call = ("parity", model, "--checkpoint", weights)
        assert message in refusal(program, *call, "--data", tmp_path / data)


def test_checkpoints_and_options_that_do_not_fit_are_refused(
    program: Program, model: Path, weights: Path, tiny_dense_checkpoint: Checkpoint, image_folder: Path
) -> None:
    assert "evaluate needs labelled images: --data DIR" in refusal(program, "evaluate", weights)
    for mode in ("batch", "instance"):
        line = refusal(program, "evaluate", tiny_dense_checkpoint.path, "--data", image_folder, "--mode", mode)
        assert "is a dense model without token selectors; use --mode dense" in line
    line = refusal(program, "parity", model, "--checkpoint", tiny_dense_checkpoint.path)
    assert "is not the checkpoint that" in line and "('tiny')" in line
    assert "which is not shipped; name its file with --checkpoint" in refusal(program, "parity", model)


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(InputError, match="no such model file"):
        main(["profile", "no.pte", "--debug"])
