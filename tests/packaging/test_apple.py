"""``tofe-edge package --platform apple`` with models that run: made, checked, kept."""

from pathlib import Path

import pytest
from conftest import Program, TinyModel, document_of

from tofe_edge.io.artifact import open_artifact

KINDS = {
    "coreml": ("--target", "coreml", "--elastic", "0.0016", "--option", "deployment_target=iOS18"),
    "executorch": ("--elastic", "0.0016", "--batch", "2"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_inside_is_the_model_and_passes(
    kind: str, tiny_model: TinyModel, tmp_path: Path, program: Program
) -> None:
    model = tiny_model(*KINDS[kind])
    assert program("package", model, "--platform", "apple", "--out", tmp_path)[0] == 0
    (bundle,) = tmp_path.iterdir()
    found = document_of(program, "package", "--check", bundle)
    assert found["passed"] and found["platform"] == "apple" and found["self_test"]["ran"]
    manifest = open_artifact(model).manifest
    assert list(found["self_test"]["methods"]) == list(manifest.methods)
    assert all(one["passed"] for one in found["self_test"]["methods"].values())
    assert open_artifact(bundle / "Sources" / "Classifier" / "Model" / model.name).manifest == manifest
