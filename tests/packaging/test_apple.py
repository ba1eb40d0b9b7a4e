"""``tofe-edge package --platform apple`` with models that run: made, checked, kept."""

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


@pytest.mark.parametrize("kind", KINDS)
def test_bundles_pass(kind: str, tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(*KINDS[kind])
    assert main(["package", str(model), "--platform", "apple", "--out", str(tmp_path)]) == 0
    (bundle,) = tmp_path.iterdir()
    capsys.readouterr()
    assert main(["package", "--check", str(bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and found["platform"] == "apple" and found["self_test"]["ran"]
    manifest = open_artifact(model).manifest
    assert list(found["self_test"]["methods"]) == list(manifest.methods)
    assert all(one["passed"] for one in found["self_test"]["methods"].values())
    assert open_artifact(bundle / "Sources" / "Classifier" / "Model" / model.name).manifest == manifest
