"""``tofe-edge package --platform apple`` with models that run: made, checked, kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TinyModel

from tofe_edge.cli import main
from tofe_edge.io.artifact import open_artifact
from tofe_edge.io.files import fingerprint_of

KINDS = {
    "coreml": ("--target", "coreml", "--elastic", "0.0016", "--option", "deployment_target=iOS18"),
    "executorch": ("--elastic", "0.0016", "--batch", "2"),
}


@pytest.fixture(scope="module", params=["coreml", "executorch"])
def model(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Path:
    return tiny_model(*KINDS[request.param])


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(model, tmp_path_factory.mktemp("bundle"))


def package(model: Path, out: Path) -> Path:
    assert main(["package", str(model), "--platform", "apple", "--out", str(out)]) == 0
    (bundle,) = out.iterdir()
    return bundle


def test_the_model_inside_passes_its_self_test(bundle: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["package", "--check", str(bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and found["platform"] == "apple" and found["self_test"]["ran"]
    assert list(found["self_test"]["methods"]) == list(open_artifact(model).manifest.methods)
    assert all(one["passed"] for one in found["self_test"]["methods"].values())


def test_a_copy_of_the_model_inside_is_the_model(bundle: Path, model: Path) -> None:
    inside = open_artifact(bundle / "Sources" / "Classifier" / "Model" / model.name)
    assert inside.manifest == open_artifact(model).manifest


def test_the_same_call_gives_the_same_bytes(bundle: Path, model: Path, tmp_path: Path) -> None:
    assert fingerprint_of(package(model, tmp_path)) == fingerprint_of(bundle)


def test_what_is_there_is_kept(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["package", str(model), "--platform", "apple", "--out", str(tmp_path)]
    assert main(call) == 0
    assert main(call) == 2
    assert "--force replaces an earlier bundle" in capsys.readouterr().err
    assert main([*call, "--force"]) == 0
    (readme,) = tmp_path.glob("*/README.md")
    readme.write_text("mine")
    assert main([*call, "--force"]) == 2
    assert readme.read_text() == "mine"


@pytest.mark.parametrize("name", ["../up", "a b", "blüte", "x" * 300, "1st", ""])
def test_names_that_cannot_name_a_package_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    call = ["package", str(model), "--platform", "apple", "--out", str(tmp_path), "--name", name]
    assert main(call) == 2
    error = capsys.readouterr().err
    assert "cannot name a package" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
