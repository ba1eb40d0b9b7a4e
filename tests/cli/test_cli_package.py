"""``tofe-edge package`` through its real entry point: bundles of a converted model, their check, and hostile input."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Program, document_of, edit_json, flip, refusal

from tofe_edge.io.artifact import manifest_path_of
from tofe_edge.model.checkpoint import Checkpoint


@pytest.fixture
def model(two_budgets_copy: Path) -> Path:
    return two_budgets_copy


def package(program: Program, model: Path, out: Path, *arguments: object) -> dict[str, Any]:
    """``--source``, which needs no compiler; the document of ``--json``."""
    call = ("package", model, "--platform", "android", "--source", "--out", out, *arguments)
    document: dict[str, Any] = document_of(program, *call)
    return document


def renamed(model: Path, stem: str) -> Path:
    """The model, its manifest and golden vectors under another name."""
    for path in (model, manifest_path_of(model), model.with_suffix(".golden")):
        path.rename(path.with_name(f"{stem}{path.suffix}"))
    return model.with_name(f"{stem}{model.suffix}")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_bundle_is_written_and_its_check_runs_every_method(model: Path, program: Program, tmp_path: Path) -> None:
    document = package(program, model, tmp_path / "out")
    bundle = Path(document["bundle"])
    assert bundle == tmp_path / "out" / f"{model.stem}-android-source" and bundle.is_dir()
    assert (document["platform"], document["form"], document["written"]) == ("android", "folder", [str(bundle)])
    files = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    assert document["files"] == sorted(files)
    assert document["size_bytes"] == sum(path.stat().st_size for path in files.values())
    code, out, _ = program("package", "--check", bundle)
    assert code == 0
    lines = out.splitlines()
    assert sum("the same to the bit, passed" in line for line in lines) == 2
    assert lines[-1] == f"check of {bundle} passed"


def test_a_bundle_for_another_device_than_the_model_is_told(model: Path, program: Program, tmp_path: Path) -> None:
    edit_json(manifest_path_of(model), lambda manifest: manifest.update(profile="intel_n100"))
    code, _, err = program("package", model, "--platform", "android", "--source", "--out", tmp_path / "out")
    assert (
        code == 0
        and "was made for intel_n100 (Mini PC with Intel Processor N100), and the bundle is for android" in err
    )


def test_a_check_of_a_damaged_bundle_is_exit_code_1(model: Path, program: Program, tmp_path: Path) -> None:
    bundle = Path(package(program, model, tmp_path / "out")["bundle"])
    (asset,) = bundle.rglob("*.pte")
    flip(asset, at=100)
    code, out, _ = program("package", "--check", bundle, "--json")
    document = json.loads(out)
    assert (code, document["passed"], document["self_test"]["ran"]) == (1, False, False)
    (line,) = document["failures"]
    assert line == f"{asset.relative_to(bundle).as_posix()} is not what was packaged: its checksum differs"
    code, out, _ = program("package", "--check", bundle)
    assert code == 1 and out.splitlines()[-1].startswith(f"check of {bundle} FAILED")


def test_licence_and_record_of_the_weights_are_taken_along(
    model: Path, program: Program, tmp_path: Path, tiny_checkpoint: Checkpoint, tiny_dense_checkpoint: Checkpoint
) -> None:
    assert package(program, model, tmp_path / "unknown")["weights_licence"] is None
    stated = ("--checkpoint", tiny_checkpoint.path, "--weights-licence", "CC-BY-4.0")
    document = package(program, model, tmp_path / "stated", *stated)
    provenance = json.loads((Path(document["bundle"]) / "provenance.json").read_text())
    assert document["weights_licence"] == "CC-BY-4.0"
    assert provenance["weights"]["training"] == {"epochs": 1}
    assert provenance["manifest"]["checkpoint_sha256"] == tiny_checkpoint.sha256()
    call = ("package", model, "--platform", "android", "--source", "--out", tmp_path / "other")
    message = refusal(program, *call, "--checkpoint", tiny_dense_checkpoint.path)
    assert "the model was not made from it" in message and not (tmp_path / "other").exists()


@pytest.mark.parametrize("stem", ["a b", "é", "-x", "1x", "a'; rm x", "a$(x)", "a" * 200, ".x", "con"])
def test_names_that_cannot_name_a_package_are_refused(model: Path, program: Program, tmp_path: Path, stem: str) -> None:
    hostile = renamed(model, stem)
    call = ("package", hostile, "--platform", "android", "--source", "--out", tmp_path / "out")
    assert "cannot name a package" in refusal(program, *call)
    assert "--name: " in refusal(program, *call[:1], model.with_name(hostile.name), *call[2:], f"--name=../{stem}")
    assert not (tmp_path / "out").exists()
    document = package(program, hostile, tmp_path / "out", "--name", "plain")
    assert any(name.endswith("/plain.pte") for name in document["files"])
    assert not any(name.endswith(f"{stem}.pte") for name in document["files"])
    assert program("package", "--check", document["bundle"])[0] == 0


def test_a_manifest_that_names_another_path_leads_nowhere(model: Path, program: Program, tmp_path: Path) -> None:
    edit_json(manifest_path_of(model), lambda document: document.update(artifact="../../evil.pte"))
    document = package(program, model, tmp_path / "out")
    bundle = Path(document["bundle"])
    assert not any(b"evil" in content for content in snapshot(bundle).values())
    assert program("package", "--check", bundle)[0] == 0


def test_a_stale_manifest_and_missing_parts_are_refused(model: Path, program: Program, tmp_path: Path) -> None:
    call = ("package", model, "--platform", "android", "--source", "--out", tmp_path / "out")
    content = model.read_bytes()
    flip(model)
    assert "its checksum is not the manifest's" in refusal(program, *call)
    model.write_bytes(content + b"x")
    assert "it is cut short or the manifest is stale" in refusal(program, *call)
    model.write_bytes(content)
    shutil.rmtree(model.with_suffix(".golden"))
    assert "there are no golden vectors" in refusal(program, *call)
    manifest_path_of(model).unlink()
    assert "its manifest" in refusal(program, *call)
    model.unlink()
    assert "no such model file" in refusal(program, *call)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "package needs a MODEL and --platform, or --check BUNDLE"),
        (("x.pte",), "package needs --platform: android"),
        (("x.pte", "--check", "y"), "--check takes a bundle and no other option"),
        (("--check", "y", "--force"), "--check takes a bundle and no other option"),
        (("--check", "y", "--checkpoint", "c"), "--check takes a bundle and no other option"),
        (("--check", "y", "--weights-licence", ""), "--check takes a bundle and no other option"),
        (("--check", "y", "--package-name", ""), "--check takes a bundle and no other option"),
        (("x.pte", "--platform", "linux", "--run-program"), "--run-program goes with --check"),
        (("--check", "no-such-bundle"), "no-such-bundle: there is no such bundle"),
    ],
)
def test_wrong_calls_are_refused(program: Program, arguments: tuple[str, ...], message: str) -> None:
    assert message in refusal(program, "package", *arguments)
