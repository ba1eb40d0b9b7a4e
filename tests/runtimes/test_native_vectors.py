"""The native runner and models that give no classes: golden vectors, numbers of a picture, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TinyModel, edit_json
from native_builds import Built

from tofe_edge.evaluation.golden import DOCUMENT, golden_path_of
from tofe_edge.io.artifact import manifest_path_of, open_artifact
from tofe_edge.io.images import read_image
from tofe_edge.io.inputs import load_image
from tofe_edge.io.preprocessing import preprocess
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


CLIENT = """
import ctypes, json, sys
library, model, pixels, width, height = ctypes.CDLL(sys.argv[1]), ctypes.c_void_p(), open(sys.argv[3], "rb").read(), *map(int, sys.argv[4:])
library.tofe_output.restype = library.tofe_last_error.restype = ctypes.c_char_p
library.tofe_value_count.restype = library.tofe_vector_size.restype = ctypes.c_size_t
assert library.tofe_open(sys.argv[2].encode(), None, None, 1, ctypes.byref(model)) == 0
count, size = library.tofe_value_count(model), library.tofe_vector_size(model)
values, best, places = (ctypes.c_float * count)(), (ctypes.c_float * 2)(), ctypes.c_uint32(1)
image = (pixels, width, height, ctypes.c_size_t(3 * width))
refused = [
    library.tofe_classify_rgb(model, *image, best, ctypes.byref(places)),
    library.tofe_last_error().decode(),
    library.tofe_values_rgb(model, *image, values, ctypes.c_size_t(count + 1)),
    library.tofe_values_rgb(None, *image, values, ctypes.c_size_t(count)),
    library.tofe_values_rgb(model, None, *image[1:], values, ctypes.c_size_t(count)),
]
assert library.tofe_values_rgb(model, *image, values, ctypes.c_size_t(count)) == 0
nothing = (library.tofe_output(None), library.tofe_value_count(None), library.tofe_vector_size(None))
print(json.dumps([library.tofe_output(model).decode(), library.tofe_class_count(model), size, list(values), refused, nothing]))
"""
"""In a process of its own, which has no other ExecuTorch."""


def test_libtofe_gives_vectors_and_no_classes(host: Built, model: Path, tmp_path: Path) -> None:
    picture, artifact = read_image(golden_path_of(model) / "2.png"), open_artifact(model)
    (tmp_path / "pixels").write_bytes(picture.tobytes())
    library = host.binary.parent / "lib" / "libtofe.so"
    words = [library, model, tmp_path / "pixels", picture.width, picture.height]
    done = subprocess.run([sys.executable, "-c", CLIENT, *map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    output, classes, size, values, refused, nothing = json.loads(done.stdout)
    manifest = artifact.manifest
    assert (output, classes, size) == (manifest.output, 0, manifest.shape[-1]) and nothing == [None, 0, 0]
    wanted = open_model(artifact, 1)(preprocess(picture, manifest.preprocessing)).output
    np.testing.assert_allclose(values, wanted.ravel(), atol=1e-6)
    assert refused == [2, "tofe_classify_rgb: the model gives no logits; call tofe_values_rgb", 2, 2, 2]


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
