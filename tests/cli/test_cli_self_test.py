"""``convert`` writes golden vectors, ``run --self-test`` replays them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import Program, TinyModel, manifest_for, refusal
from test_golden import edit, spoilt_weight

from tofe_edge.cli import main
from tofe_edge.evaluation.golden import DOCUMENT, golden_path_of
from tofe_edge.evaluation.parity import GATES
from tofe_edge.io.artifact import manifest_path_of, open_artifact, write_manifest
from tofe_edge.io.files import fingerprint, fingerprint_of
from tofe_edge.model.checkpoint import Checkpoint

PARITY_KEYS = {"images", "top1_agreement", "snr_db", "psnr_db", "kept_overlap", "near_ties", "passed", "failures"}


def convert(checkpoint: Checkpoint, out: Path, *arguments: object) -> Path:
    call = ["convert", "--checkpoint", checkpoint.path, "--precision", "fp32", "--out", out, *arguments]
    assert main(list(map(str, call))) == 0
    (folder,) = out.glob("*.golden")
    (model,) = (path for path in out.iterdir() if path not in (folder, manifest_path_of(folder)))
    return model


@pytest.fixture(scope="module")
def converted(tiny_model: TinyModel) -> Path:
    """fp32, two budgets."""
    return tiny_model("--elastic", "0.0016")


@pytest.fixture
def model(converted: Path, tmp_path: Path) -> Path:
    """The same, copied to another place: model, manifest and golden vectors."""
    return Path(shutil.copytree(converted.parent, tmp_path / "copied")) / converted.name


def vouch(model: Path) -> None:
    """Make the manifest agree with a file that was changed."""
    manifest = json.loads(manifest_path_of(model).read_text())
    manifest_path_of(model).write_text(json.dumps({**manifest, **asdict(fingerprint_of(model))}))


def test_a_copy_passes_with_a_line_a_method(model: Path, program: Program) -> None:
    first, second = open_artifact(model).manifest.methods
    code, out, _ = program("run", model, "--self-test")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines if "the same to the bit" in line] == [first, second]
    assert lines[-1] == f"self-test passed: {model} computes here what it computed where it was converted"


def test_json_has_the_parity_of_each_method(model: Path, program: Program) -> None:
    names = list(open_artifact(model).manifest.methods)
    for options, methods in (([], names), (["--method", names[1]], names[1:]), (["--method", "forward"], names[:1])):
        code, out, _ = program("run", model, "--self-test", "--threads", 2, *options, "--json")
        document: Any = json.loads(out)
        assert code == 0
        assert document.keys() == {"passed", "methods"} and document["passed"] is True
        assert list(document["methods"]) == methods
        for parity in document["methods"].values():
            assert parity.keys() >= PARITY_KEYS
            assert parity["passed"] is True and parity["images"] == 4 and parity["kept_overlap"] == [1, 1, 1]


def test_the_folder_is_the_same_each_time_and_replaced_whole(
    tiny_model: TinyModel, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    first = tiny_model()
    stale = tmp_path / golden_path_of(first).name
    stale.mkdir()
    (stale / "9.png").write_bytes(b"of an older version")
    again = convert(tiny_checkpoint, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in first.parent.iterdir())
    assert sorted(path.name for path in stale.iterdir()) == ["0.png", "1.png", "2.png", "3.png", DOCUMENT]
    assert fingerprint_of(golden_path_of(again)) == fingerprint_of(golden_path_of(first))


def test_a_package_of_core_ml_has_them_too(tiny_model: TinyModel, program: Program) -> None:
    package = tiny_model("--target", "coreml")
    assert package.is_dir()
    code, out, _ = program("run", package, "--self-test", "--json")
    assert code == 0 and json.loads(out)["methods"].keys() == {"forward"}


def test_a_wrong_weight_fails_even_if_all_checksums_vouch_for_it(model: Path, program: Program) -> None:
    spoilt = spoilt_weight(model.read_bytes())
    model.write_bytes(spoilt)
    assert "its checksum is not the manifest's" in refusal(program, "run", model, "--self-test")
    vouch(model)
    line = refusal(program, "run", model, "--self-test")
    assert line.startswith(f"{golden_path_of(model) / DOCUMENT}: it is of another model file than {model.name}; copy")
    edit(golden_path_of(model), lambda document: document.update(artifact_sha256=fingerprint(spoilt).sha256))
    code, out, _ = program("run", model, "--self-test")
    assert code == 1
    assert "FAILED: logits SNR" in out and f"is under {GATES['fp32'].min_snr_db:.0f} dB" in out
    assert out.splitlines()[-1].startswith(f"self-test FAILED: {model} computes something else here")
    code, out, _ = program("run", model, "--self-test", "--json")
    document: Any = json.loads(out)
    assert code == 1 and document["passed"] is False
    assert all(parity["failures"] for parity in document["methods"].values())


def test_golden_vectors_of_another_model_are_refused(
    model: Path, tiny_dense_checkpoint: Checkpoint, tmp_path: Path, program: Program
) -> None:
    other = convert(tiny_dense_checkpoint, tmp_path / "other")
    assert program("run", other, "--self-test")[0] == 0
    shutil.rmtree(golden_path_of(model))
    shutil.copytree(golden_path_of(other), golden_path_of(model))
    assert "it is of another model file than" in refusal(program, "run", model, "--self-test")


def test_swapped_pictures_are_refused(model: Path, program: Program) -> None:
    folder = golden_path_of(model)
    (folder / "0.png").rename(folder / "9.png")
    (folder / "1.png").rename(folder / "0.png")
    (folder / "9.png").rename(folder / "1.png")
    line = refusal(program, "run", model, "--self-test")
    assert (
        line == f"{folder / '0.png'}: its checksum is not that in {DOCUMENT}; it is damaged or swapped: copy it again"
    )


def test_without_the_folder_it_says_what_to_do(model: Path, program: Program) -> None:
    shutil.rmtree(golden_path_of(model))
    assert refusal(program, "run", model, "--self-test") == (
        f"{golden_path_of(model)}: there are no golden vectors of {model.name} (no {DOCUMENT}); copy the folder along, or "
        "convert the model again"
    )


def test_images_and_a_self_test_exclude_each_other(model: Path, program: Program) -> None:
    assert refusal(program, "run", model) == "run needs an IMAGE, or --self-test"
    line = refusal(program, "run", model, "a.png", "--self-test")
    assert line == "--self-test takes the model's own images; leave IMAGE out"
    line = refusal(program, "run", model, "--self-test", "--deadline-ms", 5)
    assert line == "--self-test measures no time; leave --deadline-ms out"
    assert "has no method 'none'; it has forward, " in refusal(program, "run", model, "--self-test", "--method", "none")


def test_an_artifact_of_an_older_version_has_none(
    tiny_checkpoint: Checkpoint, tmp_path: Path, program: Program
) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(b"\0\0\0\0ET12")
    write_manifest(path, manifest_for(tiny_checkpoint, path.name, path.read_bytes()))
    assert "there are no golden vectors of model.pte" in refusal(program, "run", path, "--self-test")
