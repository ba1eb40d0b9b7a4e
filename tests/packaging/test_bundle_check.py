"""``package --check``: what was changed, added, removed or never fitted is found."""

import errno
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import flip, signed_again
from golden_files import pretend, runs
from packaged_models import packaged, pretend_model

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.evaluation.golden import GoldenSet, replay
from tofe_edge.evaluation.parity import Parity
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.io.artifact import Artifact
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.packaging.android import PLATFORM as ANDROID
from tofe_edge.packaging.archive import unpack
from tofe_edge.packaging.check import BundleCheck, check_bundle
from tofe_edge.packaging.place import place
from tofe_edge.packaging.platform import Options
from tofe_edge.packaging.provenance import PROVENANCE, FileSum

ASSETS = "src/main/assets/"


def asset(bundle: Path, name: str) -> Path:
    """A file of the model in the bundle."""
    (path,) = (bundle / ASSETS).rglob(name)
    return path


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Path:
    model = packaged(pretend_model(tiny_checkpoint, tmp_path_factory.mktemp("model")))
    return place(ANDROID.build(model, Options(source=True)), tmp_path_factory.mktemp("out"), force=False)


@pytest.fixture
def bundle(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / packed.name))


def failures(bundle: Path) -> tuple[str, ...]:
    """What is wrong; the self-test must not have been run."""

    def never(artifact: Artifact, golden: GoldenSet) -> Mapping[str, Parity]:
        raise AssertionError("a bundle that is not what was packaged is not run")

    found = check_bundle(bundle, never)
    assert not found.passed and found.self_test is None
    return found.failures


def vouch(bundle: Path, change: Callable[[dict[str, Any]], object] = lambda document: None) -> None:
    """Make the sums in ``provenance.json`` those of the files, as somebody who forges a bundle would."""
    path = bundle / PROVENANCE
    document = json.loads(path.read_text())
    files = {name: file for name, file in unpack(bundle).files.items() if name != PROVENANCE}
    document["files"] = {name: asdict(FileSum.of(file)) for name, file in files.items()}
    change(document)
    path.write_text(json.dumps(signed_again(document)))


def test_what_was_packaged_passes_and_its_model_is_run(bundle: Path) -> None:
    found = check_bundle(bundle, runs)
    assert found.passed and found.platform == "android" and found.self_test is not None
    assert list(found.self_test) == ["forward", "forward_5_3_2"]
    document = json.loads(json.dumps(found.to_json()))
    assert document["passed"] and document["failures"] == [] and document["self_test"]["ran"]
    assert document["self_test"]["methods"]["forward"]["images"] == 4


def test_a_machine_without_a_runtime_for_the_model_says_so_and_passes(bundle: Path) -> None:
    def absent(artifact: Artifact, golden: GoldenSet) -> Mapping[str, Parity]:
        raise DeviceError(f"{artifact.path}: no runtime")

    found = check_bundle(bundle, absent)
    assert found == BundleCheck("android", (), None, "model.pte: no runtime")
    assert found.to_json()["self_test"] == {"ran": False, "reason": "model.pte: no runtime", "methods": {}}


def test_a_model_that_computes_something_else_fails(bundle: Path) -> None:
    def negated(pixels: np.ndarray) -> Prediction:
        prediction = pretend("forward")(pixels)
        return replace(prediction, output=-prediction.logits)

    def wrong(artifact: Artifact, golden: GoldenSet) -> Mapping[str, Parity]:
        return {"forward": replay(golden, negated, "forward")}

    found = check_bundle(bundle, wrong)
    assert not found.passed and found.failures[0].startswith("self-test, method forward: logits SNR -6.0 dB is under")


def test_a_flipped_byte_in_any_file_is_reported(bundle: Path) -> None:
    files = [name for name in unpack(bundle).files if name != PROVENANCE]
    for name in files:
        content = (bundle / name).read_bytes()
        flip(bundle / name)
        assert failures(bundle) == (f"{name} is not what was packaged: its checksum differs",)
        (bundle / name).write_bytes(content)
    assert len(files) > 25 and check_bundle(bundle, runs).passed


def test_missing_added_and_executable_files_are_reported(bundle: Path) -> None:
    model = asset(bundle, "model.pte")
    model.unlink()
    (bundle / "added.txt").touch()
    (bundle / "README.md").chmod(0o755)
    assert set(failures(bundle)) == {
        f"{model.relative_to(bundle).as_posix()} is missing",
        "added.txt was added",
        "README.md is executable, unlike when it was packaged",
    }


def test_a_damaged_provenance_is_reported(bundle: Path) -> None:
    for content in (b"{", b"\xff", b"[" * 100000, b"[]", None):
        if content is None:
            (bundle / PROVENANCE).unlink()
            message = "has no provenance.json; it is not a bundle"
        else:
            (bundle / PROVENANCE).write_bytes(content)
            message = "is not the provenance of a bundle" if content == b"[]" else "cannot be read as JSON"
        (line,) = failures(bundle)
        assert message in line


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("platform", "amiga", "platform 'amiga' is not one of"),
        ("platform", 1, "key 'platform' has the wrong type"),
        ("name", "../x", "cannot name a package"),
        ("schema", 3, "schema 3 is not 2"),
        ("files", [], "key 'files' has the wrong type"),
        ("files", {"../x": {"sha256": "", "size_bytes": 0, "executable": False}}, "not a safe file name"),
        ("files", {"x": {"sha256": 1}}, "key 'files.x.size_bytes' is missing"),
        ("manifest", {}, "model.pte: no such model file"),
        ("variant", "aar", "it has 0 .aar files"),
        ("variant", "new", "says 'new', but this is a folder"),
    ],
)
def test_a_forged_provenance_is_reported(bundle: Path, key: str, value: Any, message: str) -> None:
    vouch(bundle, lambda document: document.update({key: value}))
    assert any(message in line for line in failures(bundle))


@pytest.mark.parametrize("change", [{"top1": 99.9}, {"top1": 0.0}])
def test_a_figure_that_nobody_vouches_for_is_reported(bundle: Path, change: dict[str, float]) -> None:
    path = bundle / PROVENANCE
    document = json.loads(path.read_text())
    document["weights"]["accuracy"] = change
    path.write_text(json.dumps(document))
    (line,) = failures(bundle)
    assert (
        line == "provenance.json: digest is not that of its content: it was damaged or changed; package the model again"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.pte", b"no program!", "model.pte: has 11 bytes where its manifest says 10"),
        ("model.json", b"{}", "model.json: manifest schema None is not"),
        ("0.png", b"png", "its checksum is not that in golden.json"),
    ],
)
def test_a_forger_of_sums_meets_the_metadata(bundle: Path, name: str, content: bytes, message: str) -> None:
    path = bundle / name
    (path if path.exists() else asset(bundle, name)).write_bytes(content)
    vouch(bundle)
    found = failures(bundle)
    assert any(message in line for line in found) and all("/tmp" not in line for line in found)


def test_code_behind_a_name_of_macos_is_reported(bundle: Path) -> None:
    (bundle / "._Evil.kt").write_text("object Evil")
    assert failures(bundle) == ("._Evil.kt was added",)


def test_no_room_for_temporary_files_is_not_the_bundles_fault(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(bundle / "README.md"))
    with pytest.raises(InputError, match=r"a temporary folder cannot be written .*; free some space or set TMPDIR"):
        check_bundle(bundle, runs)
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise InputError("x: cannot be written") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tofe_edge.packaging.place.write_bytes", full)
    with pytest.raises(InputError, match=r"No space left on device.*; free some space or set TMPDIR"):
        check_bundle(bundle, runs)


def test_paths_that_no_file_can_have_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read .File name too long"):
        check_bundle(tmp_path / ("x" * 300), runs)
    with pytest.raises(InputError, match=r"^'[^\n]*a\\nb': there is no such bundle"):
        check_bundle(tmp_path / "a\nb", runs)


@pytest.mark.parametrize("name", ["cat\ndog", "cat\u2028dog", "", "\x1b[31m"])
def test_class_names_of_many_lines_are_refused(tmp_path: Path, tiny_checkpoint: Checkpoint, name: str) -> None:
    artifact = pretend_model(tiny_checkpoint, tmp_path)
    names = [name, *artifact.manifest.class_names[1:]]
    with pytest.raises(InputError, match=r"does not fit on a line of labels\.txt"):
        packaged(replace(artifact, manifest=replace(artifact.manifest, class_names=names)))
