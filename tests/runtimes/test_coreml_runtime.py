"""Artifacts for Core ML run by the executor: what they predict, what is refused, and what an app reads of a package."""

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TinyModel, refused
from coreml_stub import pretend

from tofe_edge.converters.pipeline import convert
from tofe_edge.converters.request import Calibration, ConvertRequest
from tofe_edge.errors import DeviceError, InputError
from tofe_edge.evaluation.parity import compare
from tofe_edge.evaluation.reference import load_reference
from tofe_edge.io.artifact import Artifact, Manifest, open_artifact, write_manifest
from tofe_edge.io.files import write_content
from tofe_edge.io.preprocessing import normalize
from tofe_edge.io.targets import FP32_GATES, INT8_GATES, find_target
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.runtimes import coreml
from tofe_edge.runtimes.coreml_checks import check_interface
from tofe_edge.runtimes.loading import open_model


def pictures(checkpoint: Checkpoint | Manifest, count: int = 24) -> list[np.ndarray]:
    """Model inputs made of whole pixels, as every image gives them."""
    spec, generator = checkpoint.preprocessing, np.random.default_rng(0)
    size = (spec.image_size, spec.image_size, 3)
    return [normalize(generator.integers(0, 256, size, np.uint8), spec)[None] for _ in range(count)]


@pytest.fixture(scope="module")
def image_artifact(tiny_model: TinyModel) -> Artifact:
    return open_artifact(tiny_model("--target", "coreml"))


@pytest.fixture(scope="module")
def tensor_artifact(tiny_model: TinyModel) -> Artifact:
    return open_artifact(tiny_model("--target", "coreml", "--option", "io=tensor", "--selection", "topk"))


@pytest.mark.parametrize("io", ["image", "tensor"])
def test_fp32_equals_the_reference(tiny_checkpoint: Checkpoint, request: pytest.FixtureRequest, io: str) -> None:
    artifact: Artifact = request.getfixturevalue(f"{io}_artifact")
    manifest = artifact.manifest
    assert (manifest.io, manifest.backend, manifest.deployment_target) == (io, "coreml", "iOS17")
    model, reference = open_model(artifact, 1), load_reference(tiny_checkpoint, "batch", "cpu")
    inputs = pictures(tiny_checkpoint)
    found = [model(pixels) for pixels in inputs]
    result = compare([reference(pixels) for pixels in inputs], found, None, FP32_GATES)
    assert result.passed, result.failures
    assert result.kept_overlap == (1.0, 1.0, 1.0)


def test_int8_by_calibration_on_pixels_passes_its_gates(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    inputs = pictures(tiny_checkpoint)
    calibration = Calibration(tuple(torch.from_numpy(pixels) for pixels in inputs[:8]), None)
    target = find_target("coreml")
    request = ConvertRequest(tiny_checkpoint, target, "int8", None, "tiny.mlpackage", "weights", selection="rank")
    options = target.options_from({"deployment_target": "iOS17", "io": "image"})
    conversion = convert(replace(request, calibration=calibration, options=options))
    write_content(tmp_path / "tiny.mlpackage", conversion.content)
    artifact = write_manifest(tmp_path / "tiny.mlpackage", conversion.manifest)
    assert all(name.startswith("selectors.") for name in artifact.manifest.fp32_layers)
    model, reference = open_model(artifact, 1), load_reference(tiny_checkpoint, "batch", "cpu")
    found = [model(pixels) for pixels in inputs]
    result = compare([reference(pixels) for pixels in inputs], found, None, INT8_GATES)
    assert result.snr_db > 10, result


@pytest.fixture(scope="module")
def elastic_package(tiny_model: TinyModel) -> Artifact:
    return open_artifact(tiny_model("--target", "coreml", "--elastic", "0.0016", "--option", "deployment_target=iOS18"))


def test_every_method_equals_its_reference(elastic_package: Artifact, tiny_checkpoint: Checkpoint) -> None:
    assert len(elastic_package.manifest.methods) == 2
    pixels = pictures(tiny_checkpoint, 1)[0]
    for name, method in elastic_package.manifest.methods.items():
        assert method.token_counts is not None
        counts = TokenCounts(tuple(method.token_counts))
        reference = load_reference(tiny_checkpoint, "batch", "cpu", counts=counts)
        found, wanted = open_model(elastic_package, 1, name)(pixels), reference(pixels)
        assert np.allclose(found.logits, wanted.logits, atol=1e-4)
        assert [set(a) for a in found.kept] == [set(b) for b in wanted.kept]


def test_a_wrong_input_is_refused(image_artifact: Artifact) -> None:
    model = open_model(image_artifact, 1)
    wrong: list[Any] = [np.zeros((1, 3, 32, 32), np.float32), np.zeros((1, 3, 64, 64), np.float64)]
    for pixels in wrong:
        with pytest.raises(InputError, match=r"takes float32 \(1, 3, 64, 64\)"):
            model(pixels)


def test_an_unknown_method_is_refused(elastic_package: Artifact) -> None:
    with pytest.raises(InputError, match="has no method 'backward'; it has forward, forward_"):
        open_model(elastic_package, 1, "backward")


def test_a_damaged_package_is_refused_and_leftovers_are_no_damage(image_artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / image_artifact.path.name
    shutil.copytree(image_artifact.path, path)
    shutil.copy(image_artifact.manifest_path, tmp_path)
    (path / "Data" / ".DS_Store").write_bytes(b"1")
    assert open_artifact(path).manifest == image_artifact.manifest
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    content = weights.read_bytes()
    for damaged, message in (
        (content[:-1], "bytes where its manifest says"),
        (content[:-1] + bytes([content[-1] ^ 1]), "its checksum is not the manifest's"),
    ):
        weights.write_bytes(damaged)
        assert message in refused(path, lambda: open_artifact(path))


def test_a_model_for_xnnpack_is_not_loaded_as_a_package(elastic_artifact: Artifact) -> None:
    with pytest.raises(InputError, match="is a model for xnnpack, not for Core ML"):
        coreml.load(elastic_artifact)


@pytest.mark.skipif(sys.platform == "darwin", reason="there it is loaded")
def test_core_ml_itself_is_refused_where_there_is_none(image_artifact: Artifact) -> None:
    with pytest.raises(DeviceError, match="Core ML runs on macOS alone"):
        coreml.load(image_artifact, executor=False)


@pytest.mark.parametrize("kind", ["image_artifact", "tensor_artifact", "elastic_package"])
def test_core_ml_gets_the_executors_picture(
    kind: str, request: pytest.FixtureRequest, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise: no picture is its own mirror image, and no channel another one."""
    artifact: Artifact = request.getfixturevalue(kind)
    pretend(monkeypatch)
    pixels = pictures(tiny_checkpoint, 1)[0]
    for name in artifact.manifest.methods:
        by_core_ml, by_executor = (coreml.load(artifact, name, executor=executor) for executor in (False, True))
        assert (by_core_ml.engine, by_executor.engine) == (coreml.CORE_ML, coreml.EXECUTOR)
        found, wanted = by_core_ml(pixels), by_executor(pixels)
        assert np.array_equal(found.logits, wanted.logits)
        assert len(found.kept) == 3 and all(map(np.array_equal, found.kept, wanted.kept))


NAMES = [f"class {number}" for number in range(10)]
ELEVEN = [*NAMES, "class 10"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ELEVEN, "class_ids": ELEVEN}, r"logits has the shape \[1, 10\], not \[1, 11\]"),
        ({"class_names": [NAMES[0], NAMES[2], NAMES[1], *NAMES[3:]]}, "it calls class 1 'class 1', not 'class 2'"),
        ({"token_counts": [9, 5, 4]}, r"tokenOrder3 has the shape \[1, 3\], not \[1, 4\]"),
        ({"token_counts": [9, 3]}, "it has the output 'tokenOrder3'"),
        ({"token_counts": [9, 5, 4, 3]}, "it lacks the output 'tokenOrder4'"),
        ({"token_counts": None}, "it has the output 'tokenOrder1'"),
        ({"patch_tokens": 17}, r"tokenOrder1 has the shape \[1, 16\], not \[1, 17\]"),
        ({"io": "tensor"}, r"it takes 'image: RGB image \[1, 3, 64, 64\]', not 'image: tensor \[1, 3, 64, 64\]'"),
    ],
)
def test_a_manifest_of_another_package_is_refused(
    image_artifact: Artifact, changes: dict[str, Any], message: str
) -> None:
    other = replace(image_artifact, manifest=replace(image_artifact.manifest, **changes))
    line = refused(image_artifact.path, lambda: coreml.load(other))
    assert "its manifest and the package differ (" in line and line.endswith("); convert the model again")
    with pytest.raises(InputError, match=message):
        coreml.load(other)


def test_labels_may_have_the_class_identifier_behind_them(image_artifact: Artifact) -> None:
    labels = tuple(f"{name} (n{number})" for number, name in enumerate(NAMES))
    manifest = replace(image_artifact.manifest, class_ids=[f"n{number}" for number in range(10)])
    other = replace(image_artifact, manifest=manifest)
    model = coreml.load(other)
    check_interface(other, model.method, replace(model._loaded, labels=labels))
    with pytest.raises(InputError, match=r"it calls class 9 'class 9 \(n8\)', not 'class 9'"):
        check_interface(other, model.method, replace(model._loaded, labels=(*labels[:9], "class 9 (n8)")))


def rotated(outputs: Mapping[str, Any]) -> dict[str, float]:
    probabilities = outputs["classLabel_probs"]
    return dict(zip(probabilities, [*list(probabilities.values())[1:], next(iter(probabilities.values()))]))


def worst(outputs: Mapping[str, Any]) -> str:
    return str(min(outputs["classLabel_probs"], key=outputs["classLabel_probs"].get))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("classLabel_probs", rotated, r"contradicts itself \(classLabel_probs gives class \d 'class \d' "),
        ("classLabel_probs", lambda outputs: {}, "classLabel_probs gives class 0 'class 0' nan, but its logits 0"),
        ("classLabel", lambda outputs: "nothing", "classLabel is 'nothing', but its logits are best for class"),
        ("classLabel", worst, r"classLabel is 'class \d', but its logits are best for class \d 'class \d'"),
        ("tokenOrder1", lambda outputs: outputs["tokenOrder1"] + 1, "tokenOrder1 does not list 16 of the 16 patches"),
        ("tokenOrder2", lambda outputs: outputs["tokenOrder2"] - 1, "tokenOrder2 does not list 16 of the 16 patches"),
        ("tokenOrder3", lambda outputs: outputs["tokenOrder3"] * np.nan, "tokenOrder3 does not list 3 of the 16"),
        ("tokenOrder3", lambda outputs: outputs["tokenOrder3"][:, :2], "tokenOrder3 does not list 3 of the 16"),
    ],
)
def test_outputs_that_contradict_each_other_are_refused(
    image_artifact: Artifact, name: str, spoil: Callable[[Mapping[str, Any]], object], message: str
) -> None:
    model = coreml.load(image_artifact, executor=True)

    def engine(pixels: np.ndarray) -> dict[str, Any]:
        outputs = model._loaded.engine(pixels)
        return {**outputs, name: spoil(outputs)}

    spoilt = replace(model, _loaded=replace(model._loaded, engine=engine))
    pixels = pictures(image_artifact.manifest, 1)[0]
    refused(image_artifact.path, lambda: spoilt(pixels))
    with pytest.raises(InputError, match=message):
        spoilt(pixels)


def test_an_output_that_core_ml_does_not_give_is_a_device_error(image_artifact: Artifact) -> None:
    model = coreml.load(image_artifact, executor=True)
    silent = replace(model, _loaded=replace(model._loaded, engine=lambda pixels: {}))
    with pytest.raises(DeviceError, match="gave no tokenOrder1"):
        silent(pictures(image_artifact.manifest, 1)[0])
