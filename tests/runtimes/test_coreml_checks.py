"""What an app reads of a Core ML package, held to the manifest and to the logits."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import TinyModel, refused

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.artifact import Artifact, open_artifact
from tofe_edge.io.preprocessing import normalize
from tofe_edge.runtimes import coreml
from tofe_edge.runtimes.coreml_checks import check_interface

NAMES = [str(number) for number in range(10)]
ELEVEN = [*NAMES, "10"]


@pytest.fixture(scope="module")
def artifact(tiny_model: TinyModel) -> Artifact:
    """A classifier of images."""
    return open_artifact(tiny_model("--target", "coreml"))


def picture(artifact: Artifact) -> np.ndarray:
    spec = artifact.manifest.preprocessing
    noise = np.random.default_rng(0).integers(0, 256, (spec.image_size, spec.image_size, 3), np.uint8)
    return normalize(noise, spec)[None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ELEVEN, "class_ids": ELEVEN}, r"logits has the shape \[1, 10\], not \[1, 11\]"),
        ({"class_names": ["0", "2", "1", *NAMES[3:]]}, "it calls class 1 '1', not '2'"),
        ({"token_counts": [9, 5, 4]}, r"tokenOrder3 has the shape \[1, 3\], not \[1, 4\]"),
        ({"token_counts": [9, 3]}, "it has the output 'tokenOrder3'"),
        ({"token_counts": [9, 5, 4, 3]}, "it lacks the output 'tokenOrder4'"),
        ({"token_counts": None}, "it has the output 'tokenOrder1'"),
        ({"patch_tokens": 17}, r"tokenOrder1 has the shape \[1, 16\], not \[1, 17\]"),
        ({"io": "tensor"}, r"it takes 'image: RGB image \[1, 3, 64, 64\]', not 'image: tensor \[1, 3, 64, 64\]'"),
    ],
)
def test_a_manifest_of_another_package_is_refused(artifact: Artifact, changes: dict[str, Any], message: str) -> None:
    other = replace(artifact, manifest=replace(artifact.manifest, **changes))
    line = refused(artifact.path, lambda: coreml.load(other))
    assert "its manifest and the package differ (" in line and line.endswith("); convert the model again")
    with pytest.raises(InputError, match=message):
        coreml.load(other)


def test_labels_may_have_the_class_identifier_behind_them(artifact: Artifact) -> None:
    labels = tuple(f"{name} (n{name})" for name in NAMES)
    manifest = replace(artifact.manifest, class_ids=[f"n{name}" for name in NAMES])
    other = replace(artifact, manifest=manifest)
    model = coreml.load(other)
    check_interface(other, model.method, replace(model._loaded, labels=labels))
    with pytest.raises(InputError, match=r"it calls class 9 '9 \(n8\)', not '9'"):
        check_interface(other, model.method, replace(model._loaded, labels=(*labels[:9], "9 (n8)")))


def rotated(outputs: Mapping[str, Any]) -> dict[str, float]:
    probabilities = outputs["classLabel_probs"]
    return dict(zip(probabilities, [*list(probabilities.values())[1:], next(iter(probabilities.values()))]))


def worst(outputs: Mapping[str, Any]) -> str:
    return str(min(outputs["classLabel_probs"], key=outputs["classLabel_probs"].get))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("classLabel_probs", rotated, r"contradicts itself \(classLabel_probs gives class \d '\d' "),
        ("classLabel_probs", lambda outputs: {}, "classLabel_probs gives class 0 '0' nan, but its logits 0"),
        ("classLabel", lambda outputs: "nothing", "classLabel is 'nothing', but its logits are best for class"),
        ("classLabel", worst, r"classLabel is '\d', but its logits are best for class \d '\d'"),
        ("tokenOrder1", lambda outputs: outputs["tokenOrder1"] + 1, "tokenOrder1 does not list 16 of the 16 patches"),
        ("tokenOrder2", lambda outputs: outputs["tokenOrder2"] - 1, "tokenOrder2 does not list 16 of the 16 patches"),
        ("tokenOrder3", lambda outputs: outputs["tokenOrder3"] * np.nan, "tokenOrder3 does not list 3 of the 16"),
        ("tokenOrder3", lambda outputs: outputs["tokenOrder3"][:, :2], "tokenOrder3 does not list 3 of the 16"),
    ],
)
def test_outputs_that_contradict_each_other_are_refused(
    artifact: Artifact, name: str, spoil: Callable[[Mapping[str, Any]], object], message: str
) -> None:
    model = coreml.load(artifact, executor=True)

    def engine(pixels: np.ndarray) -> dict[str, Any]:
        outputs = model._loaded.engine(pixels)
        return {**outputs, name: spoil(outputs)}

    spoilt = replace(model, _loaded=replace(model._loaded, engine=engine))
    pixels = picture(artifact)
    refused(artifact.path, lambda: spoilt(pixels))
    with pytest.raises(InputError, match=message):
        spoilt(pixels)


def test_an_output_that_core_ml_does_not_give_is_a_device_error(artifact: Artifact) -> None:
    model = coreml.load(artifact, executor=True)
    silent = replace(model, _loaded=replace(model._loaded, engine=lambda pixels: {}))
    with pytest.raises(DeviceError, match="gave no tokenOrder1"):
        silent(picture(artifact))
