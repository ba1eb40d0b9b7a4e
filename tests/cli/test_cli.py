"""The command line through its real entry point: what each command prints, its JSON keys, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from tofe_edge.cli import main
from tofe_edge.evaluation.golden import golden_path_of
from tofe_edge.model import zoo
from tofe_edge.model.backbones import Host, create_host
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.training import run as training_run

PROGRAM = [sys.executable, "-m", "tofe_edge"]
DEADLINE_SECONDS = 300


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The document on stdout, which must hold nothing else."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def program(*arguments: object) -> Finished:
    """Run the program in a process of its own."""
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def out_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli") / "new" / "out"


@pytest.fixture(scope="module")
def converted(out_folder: Path, tiny_checkpoint: Checkpoint) -> Finished:
    return program(
        "convert", "--checkpoint", tiny_checkpoint.path, "--precision", "fp32", "--out", out_folder, "--json"
    )


@pytest.fixture(scope="module")
def model(converted: Finished) -> Path:
    return Path(converted.json()["artifact"])


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoint: Checkpoint) -> Path:
    """A zoo that holds the tiny checkpoint alone, under the name of its header."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    shutil.copy(tiny_checkpoint.path, folder / "tiny.safetensors")
    monkeypatch.setattr(zoo, "_FOLDER", folder)
    return folder


def in_process(capsys: pytest.CaptureFixture[str], *arguments: object) -> Finished:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return Finished(code, captured.out, captured.err)


def test_convert_writes_a_model_its_manifest_and_golden_vectors_and_nothing_else(
    converted: Finished, out_folder: Path, tiny_checkpoint: Checkpoint
) -> None:
    document = converted.json()
    assert converted.err == ""
    assert document.keys() >= {
        "artifact", "manifest", "checkpoint", "token_counts", "gmacs", "size_bytes", "delegates", "fallback_ops",
    }  # fmt: skip
    assert document["checkpoint"] == tiny_checkpoint.name
    assert document["token_counts"] == [9, 5, 3]
    assert document["delegates"] == 4
    assert document["parity"]["passed"] is True
    written = [Path(document["artifact"]), Path(document["manifest"]), golden_path_of(Path(document["artifact"]))]
    assert sorted(out_folder.iterdir()) == sorted(written)
    assert Path(document["artifact"]).stat().st_size == document["size_bytes"]
    manifest = json.loads(Path(document["manifest"]).read_text())
    assert manifest["parity"]["passed"] is True
    assert str(tiny_checkpoint.path.parent) not in json.dumps(manifest)


def test_run_prints_five_classes_for_each_image(model: Path, image_folder: Path) -> None:
    images = sorted(image_folder.rglob("*.png"))[:2]
    done = program("run", model, *images, "--json")
    assert done.err == ""
    document = done.json()
    assert [entry["image"] for entry in document] == [str(path) for path in images]
    for entry in document:
        assert entry["kept"] == [9, 5, 3]
        assert [best.keys() for best in entry["top5"]] == [{"index", "name", "probability"}] * 5
        probabilities = [best["probability"] for best in entry["top5"]]
        assert probabilities == sorted(probabilities, reverse=True) and 0 < sum(probabilities) <= 1
    assert document[0]["top5"] != document[1]["top5"]


def test_profile_reports_latency_and_time_per_stage(model: Path) -> None:
    done = program("profile", model, "--runs", 3, "--threads", 1, "--json")
    assert done.err == ""
    document = done.json()
    assert document["latency_ms"].keys() == {"p50", "p90", "p99", "min"}
    assert document["load_ms"] > 0 and document["runs"] == 3 and document["threads"] == 1
    assert len(document["stages"]) == 4 + 3
    assert all(stage.keys() == {"name", "ms"} for stage in document["stages"])


def test_parity_compares_with_the_checkpoint(model: Path, tiny_checkpoint: Checkpoint) -> None:
    done = program("parity", model, "--checkpoint", tiny_checkpoint.path, "--device", "cpu", "--json")
    assert done.err == ""
    document = done.json()
    assert document.keys() >= {
        "images", "top1_agreement", "top1_reference", "top1_artifact", "snr_db", "kept_overlap", "passed",
    }  # fmt: skip
    assert document["passed"] is True and document["top1_agreement"] == 1
    assert document["images"] == 32 and document["top1_reference"] is None
    assert document["kept_overlap"] == [1, 1, 1]


def test_parity_on_labelled_images_reports_both_accuracies(
    model: Path, tiny_checkpoint: Checkpoint, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (image_folder / "0" / "broken.png").write_bytes(b"")
    done = in_process(
        capsys, "parity", model, "--checkpoint", tiny_checkpoint.path, "--data", image_folder, "--device", "cpu", "--json"
    )  # fmt: skip
    document = done.json()
    assert document["images"] == 6 and document["unreadable"] == [str(image_folder / "0" / "broken.png")]
    assert document["top1_reference"] == document["top1_artifact"]
    assert 0 <= document["top1_reference"] <= 1


def test_evaluate_reports_accuracy(
    tiny_checkpoint: Checkpoint, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = in_process(
        capsys, "evaluate", tiny_checkpoint.path, "--data", image_folder, "--limit", 4, "--device", "cpu", "--json"
    ).json()
    assert document.keys() >= {"top1", "top5", "images", "gmacs"}
    assert document["images"] == 4 and document["mode"] == "batch"
    assert document["gmacs"] == pytest.approx(tiny_checkpoint.gmacs, abs=1e-4)


def test_train_writes_a_checkpoint(
    tmp_path: Path,
    image_folder: Path,
    tiny_overrides: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def tiny(name: str, pretrained: bool = False, stages: tuple[int, ...] | None = None) -> Host:
        return create_host(name, tiny_overrides, pretrained, stages)

    monkeypatch.setattr(training_run, "create_host", tiny)
    weights, out = tmp_path / "dense.safetensors", tmp_path / "trained" / "net.safetensors"
    dense = create_host("deit_tiny_patch16_224", tiny_overrides).state_dict()
    save_file({key.removeprefix("vit."): value for key, value in dense.items()}, weights)
    done = in_process(
        capsys, "train", "--weights", weights, "--data", f"{image_folder}:2", "--target-gmacs", 0.002, "--epochs", 1,
        "--fixed-epochs", 0.5, "--batch-size", 4, "--held-out", 2, "--device", "cpu", "--out", out, "--json",
    )  # fmt: skip
    document = done.json()
    assert document.keys() == {"checkpoint", "token_counts", "gmacs", "accuracy", "training"}
    assert document["checkpoint"] == str(out) and out.is_file()
    assert document["training"]["data"] == ["images x2"] and document["training"]["steps"] == 2
    assert document["accuracy"] is None


@pytest.mark.usefixtures("shipped")
def test_select_names_the_choice_and_why(capsys: pytest.CaptureFixture[str], tiny_checkpoint: Checkpoint) -> None:
    document = in_process(capsys, "select", "--profile", "jetson_orin", "--json").json()
    assert document.keys() >= {"checkpoint", "token_counts", "gmacs", "budget_gmacs"}
    assert document["checkpoint"] == tiny_checkpoint.name
    assert document["budget_gmacs"] > document["gmacs"]
    assert document["budget_source"] == "profile jetson_orin"


@pytest.mark.usefixtures("shipped")
def test_checkpoints_lists_what_is_shipped(capsys: pytest.CaptureFixture[str], tiny_checkpoint: Checkpoint) -> None:
    (listed,) = in_process(capsys, "checkpoints", "--json").json()
    assert listed["name"] == "tiny" and listed["token_counts"] == [9, 5, 3]
    assert listed["sha256"] == tiny_checkpoint.sha256()
    table = in_process(capsys, "checkpoints")
    assert table.code == 0 and "tiny" in table.out and "9,5,3" in table.out and "70.5 % on noise" in table.out


def test_checkpoints_shows_one_file(capsys: pytest.CaptureFixture[str], tiny_checkpoint: Checkpoint) -> None:
    document = in_process(capsys, "checkpoints", tiny_checkpoint.path, "--json").json()
    assert document["accuracy"]["top1"] == 70.5 and document["backbone"] == "deit_tiny_patch16_224"


def test_profiles_lists_the_shipped_devices() -> None:
    names = [profile["name"] for profile in program("profiles", "--json").json()]
    assert "jetson_orin" in names and names == sorted(names)


@pytest.mark.parametrize("kind", ["CMYK", "16 bit", "large", "animated"])
def test_unusual_images_are_classified(
    kind: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    image, path = Image.fromarray(colours), tmp_path / "image.jpg"
    if kind == "CMYK":
        image.convert("CMYK").save(path)
    elif kind == "16 bit":
        Image.fromarray(colours[..., 0].astype(np.uint16) * 257).save(path := tmp_path / "image.png")
    elif kind == "large":
        image.resize((6000, 4000)).save(path)
    else:
        image.save(path := tmp_path / "image.gif", save_all=True, append_images=[image.rotate(90)])
    (entry,) = in_process(capsys, "run", model, path, "--json").json()
    assert len(entry["top5"]) == 5


def test_an_exif_rotated_image_is_classified_as_the_upright_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    document = in_process(capsys, "run", model, tmp_path / "upright.png", tmp_path / "turned.png", "--json").json()
    assert document[0]["top5"] == document[1]["top5"]


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a process")
def test_ctrl_c_ends_convert_with_one_line_and_an_empty_folder(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen(
        [*PROGRAM, "convert", "--checkpoint", str(tiny_checkpoint.path), "--precision", "fp32", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Whoever runs the tests in the background may have SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not any(out.iterdir()):
            assert process.poll() is None, "it ended before it could be interrupted"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        try:
            stdout, stderr = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            # Where a library catches everything around one of its imports, the interrupt is lost; one presses again.
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
    # A shell reads 130 either way: CPython ends itself by SIGINT where the interrupt landed in an exec()ed string,
    # as imports run some, even if it was handled.
    assert process.returncode in (130, -signal.SIGINT)
    assert stdout == ""
    assert stderr == "tofe-edge: interrupted\n"
    assert list(out.iterdir()) == []
