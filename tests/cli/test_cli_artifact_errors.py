"""Bad models, manifests and images given to ``run``, ``profile``, ``parity`` and ``evaluate``: one line, exit code 2 or 3."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import manifest_for
from PIL import Image

from tofe_edge.cli import main
from tofe_edge.io.artifact import manifest_path_of, write_manifest
from tofe_edge.model.checkpoint import Checkpoint

PROGRAM_BYTES = b"\0\0\0\0ET12" + bytes(4096)
"""Has ExecuTorch's magic and is no program."""

Fails = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run the program and return its one line on stderr, without the prefix."""

    def run(*arguments: object, code: int = 2) -> str:
        found = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert found == code
        assert captured.out == ""
        assert captured.err.startswith("tofe-edge: error: ") and captured.err.count("\n") == 1
        return captured.err.removeprefix("tofe-edge: error: ").rstrip()

    return run


@pytest.fixture
def model(tmp_path: Path, tiny_checkpoint: Checkpoint) -> Path:
    """A file whose manifest vouches for it. Nothing runs it before everything else has been checked."""
    path = tmp_path / "model.pte"
    path.write_bytes(PROGRAM_BYTES)
    write_manifest(path, manifest_for(tiny_checkpoint, path.name, PROGRAM_BYTES))
    return path


@pytest.fixture
def image(image_folder: Path) -> Path:
    return image_folder / "0" / "0.png"


def command_line(command: str, model: Path, image: Path) -> list[object]:
    return {"run": ["run", model, image], "profile": ["profile", model], "parity": ["parity", model]}[command]  # type: ignore[return-value]


def edit(path: Path, **changes: object) -> None:
    manifest = manifest_path_of(path)
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: path.unlink(), "no such model file; `tofe-edge convert` makes one"),
    "no manifest": (lambda path: manifest_path_of(path).unlink(), "its manifest model.json is missing"),
    "one bit flipped": (flip_a_bit, "its checksum is not the manifest's"),
    "cut short": (lambda path: path.write_bytes(PROGRAM_BYTES[:-1]), "cut short or the manifest is stale"),
    "newer file": (lambda path: path.write_bytes(PROGRAM_BYTES + b"more"), "cut short or the manifest is stale"),
    "empty manifest": (lambda path: manifest_path_of(path).write_bytes(b""), "model.json: cannot be read as JSON"),
    "binary manifest": (lambda path: manifest_path_of(path).write_bytes(b"\xff\xfe"), "cannot be read as JSON"),
    "manifest of another version": (lambda path: edit(path, schema=99), "manifest schema 99 is not 3"),
    "manifest with an unknown key": (lambda path: edit(path, extra=1), "manifest key 'extra' is unknown"),
    "manifest with a wrong type": (
        lambda path: edit(path, size_bytes="9"),
        "manifest key 'size_bytes' has the wrong type",
    ),
    "manifest with a wrong preprocessing": (lambda path: edit(path, preprocessing={}), "preprocessing: key"),
    "Core ML model": (lambda path: edit(path, target="coreml"), "is of a model for coreml"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
@pytest.mark.parametrize("command", ["run", "profile", "parity"])
def test_a_bad_model_is_refused(
    fails: Fails, model: Path, image: Path, tiny_checkpoint: Checkpoint, command: str, kind: str
) -> None:
    spoil, message = BAD_MODELS[kind]
    spoil(model)
    arguments = command_line(command, model, image)
    if command == "parity":
        arguments += ["--checkpoint", tiny_checkpoint.path]
    line = fails(*arguments)
    assert message in line and "model." in line


@pytest.mark.parametrize("command", ["run", "profile"])
def test_a_program_that_the_runtime_cannot_load_is_exit_code_3(model: Path, image: Path, command: str) -> None:
    """In a process of its own: the native library's complaints must not join the one line."""
    arguments = [sys.executable, "-m", "tofe_edge", *map(str, command_line(command, model, image))]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"tofe-edge: error: {model}: ExecuTorch cannot load it")
    assert done.stderr.count("\n") == 1


def turn_into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("no image"), "is not an image this program reads"),
    "zero bytes": (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    "missing": (lambda path: path.unlink(), "does not exist; check the path"),
    "folder": (turn_into_a_folder, "is a folder; give an image file"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:300]), "is damaged or truncated"),
    "float pixels": (lambda path: Image.new("F", (9, 9)).save(path, "TIFF"), "holds floating point pixels"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_is_refused_even_among_good_ones(fails: Fails, model: Path, image_folder: Path, kind: str) -> None:
    good, bad = image_folder / "1" / "1.png", image_folder / "0" / "0.png"
    spoil, message = BAD_IMAGES[kind]
    spoil(bad)
    line = fails("run", model, good, bad)
    assert message in line and str(bad) in line


@pytest.mark.parametrize(
    ("data", "message"),
    [("missing", "missing: does not exist"), ("images/0/0.png", "is not a folder"), ("empty", "holds no image")],
)
@pytest.mark.usefixtures("image_folder")
def test_a_folder_of_images_that_is_none_is_refused(
    fails: Fails, model: Path, tiny_checkpoint: Checkpoint, tmp_path: Path, data: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert message in fails("evaluate", tiny_checkpoint.path, "--data", tmp_path / data)
    assert message in fails("parity", model, "--checkpoint", tiny_checkpoint.path, "--data", tmp_path / data)


def test_folders_that_are_no_classes_are_refused(fails: Fails, tiny_checkpoint: Checkpoint, image_folder: Path) -> None:
    (image_folder / "0").rename(image_folder / "cat")
    line = fails("evaluate", tiny_checkpoint.path, "--data", image_folder)
    assert "'cat' is not a class id of this model (such as 0); expected FOLDER/<class id>/<image>" in line


def test_a_folder_of_unreadable_images_alone_is_refused(
    fails: Fails, tiny_checkpoint: Checkpoint, image_folder: Path
) -> None:
    for path in image_folder.rglob("*.png"):
        path.write_bytes(b"x")
    assert "none of its 6 images can be used" in fails("evaluate", tiny_checkpoint.path, "--data", image_folder)


def test_evaluate_without_images_is_refused(fails: Fails, tiny_checkpoint: Checkpoint) -> None:
    assert "evaluate needs labelled images: --data DIR" in fails("evaluate", tiny_checkpoint.path)


@pytest.mark.parametrize("mode", ["batch", "instance"])
def test_a_dense_checkpoint_has_no_token_modes(
    fails: Fails, tiny_dense_checkpoint: Checkpoint, image_folder: Path, mode: str
) -> None:
    line = fails("evaluate", tiny_dense_checkpoint.path, "--data", image_folder, "--mode", mode)
    assert "is a dense model without token selectors; use --mode dense" in line


def test_parity_with_another_checkpoint_is_refused(
    fails: Fails, model: Path, tiny_dense_checkpoint: Checkpoint
) -> None:
    line = fails("parity", model, "--checkpoint", tiny_dense_checkpoint.path)
    assert "is not the checkpoint that" in line and "('tiny')" in line


def test_parity_of_a_checkpoint_that_is_not_shipped_asks_for_its_file(fails: Fails, model: Path) -> None:
    assert "which is not shipped; name its file with --checkpoint" in fails("parity", model)


def test_debug_shows_the_traceback(model: Path) -> None:
    from tofe_edge.errors import InputError

    with pytest.raises(InputError, match="does not exist"):
        main(["run", str(model), "no.png", "--debug"])
