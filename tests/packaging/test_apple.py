"""``tofe-edge package --platform apple`` with models that run: made, checked, kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TinyModel

from tofe_edge.cli import main
from tofe_edge.io.artifact import open_artifact

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
