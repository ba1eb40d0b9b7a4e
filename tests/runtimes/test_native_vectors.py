"""The native runner and models that give no classes: golden vectors, numbers of a picture, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TinyModel, edit_json
from native_builds import Built

from tofe_edge.evaluation.golden import DOCUMENT, golden_path_of
from tofe_edge.io.artifact import manifest_path_of, open_artifact
from tofe_edge.io.inputs import load_image
from tofe_edge.runtimes.loading import open_model

pytestmark = pytest.mark.toolchain

EMBEDDING = ("--output", "embedding", "--normalize")
FEATURES = ("--output", "features", "--elastic", "0.0016")


@pytest.fixture(params=[EMBEDDING, FEATURES], ids=lambda options: options[1])
def model(request: pytest.FixtureRequest, tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A copy to damage."""
    made = tiny_model(*request.param)
    return Path(shutil.copytree(made.parent, tmp_path / "copied")) / made.name


def test_golden_vectors_pass_and_wrong_ones_fail(host: Built, model: Path) -> None:
    call = (str(model), "--self-test", str(golden_path_of(model)))
    done = host(*call)
    assert done.returncode == 0 and json.loads(done.stdout)["passed"], done.stderr
    output = open_artifact(model).manifest.output

    def turned(document: Any) -> None:
        document["vectors"][0][output] = [-value for value in document["vectors"][0][output]]

    edit_json(golden_path_of(model) / DOCUMENT, turned)
    done = host(*call)
    assert done.returncode == 6 and f"method forward: {output} SNR " in done.stderr
    edit_json(golden_path_of(model) / DOCUMENT, lambda document: document["vectors"][0].update({output: [1.0]}))
    assert f"its {output} values are not as many as the model's" in host.refused(3, *call)


def test_numbers_of_a_picture_are_those_of_python(host: Built, model: Path) -> None:
    picture, artifact = golden_path_of(model) / "1.png", open_artifact(model)
    wanted = open_model(artifact, 1)(load_image(picture, artifact.manifest.preprocessing)).output.ravel()
    for count in (5, 100_000):
        done = host(str(model), "--image", str(picture), "--values", str(count))
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(json.loads(done.stdout)["values"], wanted[:count], atol=2e-6)
    assert "--top names classes" in host.refused(2, str(model), "--image", str(picture), "--top", "5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "tokens"}, "output must be logits, embedding or features"),
        ({"output_shape": [7, 7, 7]}, "output_shape is not that of "),
        ({"output_shape": [0]}, "output_shape"),
        ({"output": "logits"}, "class_names and class_ids must be of equal length and not empty"),
        ({"class_names": ["cat"]}, "class_names and class_ids must be of equal length"),
    ],
)
def test_manifests_that_contradict_themselves_are_refused(
    host: Built, model: Path, change: dict[str, Any], message: str
) -> None:
    edit_json(manifest_path_of(model), lambda document: document.update(change))
    assert message in host.refused(3, str(model))


def test_a_manifest_of_another_shape_is_refused(host: Built, model: Path) -> None:
    shape = open_artifact(model).manifest.shape
    edit_json(manifest_path_of(model), lambda document: document.update(output_shape=[*shape[:-1], 47]))
    picture = str(golden_path_of(model) / "1.png")
    assert "gives other outputs than this manifest says" in host.refused(
        3, str(model), "--image", picture, "--values", "1"
    )
