"""Classifiers with image inputs, and packages with several functions: what apps get."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import refused
from mil_programs import convert_module, coremltools
from torch import nn

from tofe_edge.io.quiet import quiet, swallow_native_stderr
from tofe_edge.runtimes.mil import Feature, Program, load_program, open_package

SIZE = (6, 9)
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
PIXELS = PICTURE.transpose(2, 0, 1)[None].astype(np.float32)
LABELS = ["cat", "dog", "fish", "bird"]


class Classifier(nn.Module):
    """Probabilities; every channel and position counts."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(channels * SIZE[0] * SIZE[1], len(LABELS))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = self.linear(image.reshape(1, -1) / 255).softmax(-1)
        return probabilities


def _classifier(channels: int = 3) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Classifier(channels).eval()


def _saved(path: Path, color: str, labels: list[Any], channels: int = 3) -> Program:
    ct = coremltools()
    shape = (1, channels, *SIZE)
    layout = getattr(ct.colorlayout, {"GRAY": "GRAYSCALE"}.get(color, color))
    model = convert_module(
        _classifier(channels),
        torch.zeros(shape),
        inputs=[ct.ImageType(name="image", shape=shape, color_layout=layout)],
        classifier_config=ct.ClassifierConfig(labels),
    )
    model.author, model.license, model.version, model.short_description = "an author", "MIT", "1.2", "a classifier"
    model.user_defined_metadata["key"] = "value"
    model.save(str(path))
    return load_program(open_package(path))


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return _saved(tmp_path_factory.mktemp("images") / "rgb.mlpackage", "RGB", LABELS)


def _assert_classified(program: Program, image: np.ndarray, pixels: np.ndarray, labels: list[Any]) -> None:
    with torch.no_grad():
        expected = _classifier(pixels.shape[1])(torch.from_numpy(pixels))[0].numpy()
    outputs = program.run({"image": image})
    assert outputs["classLabel"] == labels[int(expected.argmax())]
    scores = outputs["classLabel_probs"]
    assert isinstance(scores, dict) and list(scores) == labels
    np.testing.assert_allclose(list(scores.values()), expected, 1e-5, 1e-6)


def test_signature(rgb: Program) -> None:
    assert rgb.function.inputs == (Feature("image", "image", "fp32", (1, 3, *SIZE)),)
    assert [(each.name, each.kind) for each in rgb.function.outputs] == [
        ("classLabel", "text"),
        ("classLabel_probs", "dictionary"),
    ]
    said = rgb.package.metadata
    described = (said.author, said.license, said.version, said.short_description, said.user_defined["key"])
    assert described == ("an author", "MIT", "1.2", "a classifier", "value")


def test_pictures_and_tensors(rgb: Program) -> None:
    for image in (PICTURE, PIXELS, PIXELS.astype(np.uint8)):
        _assert_classified(rgb, image, PIXELS, LABELS)


@pytest.mark.parametrize(("color", "channels"), [("BGR", 3), ("GRAY", 1)])
def test_other_colours_are_refused(tmp_path: Path, color: str, channels: int) -> None:
    path = tmp_path / "other.mlpackage"
    assert "'image' is not an RGB image" in refused(path, lambda: _saved(path, color, LABELS, channels))


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    program = _saved(tmp_path / "numbers.mlpackage", "RGB", [7, 3, 900, 12])
    _assert_classified(program, PICTURE, PIXELS, [7, 3, 900, 12])


@pytest.mark.parametrize(
    "image",
    [PICTURE.astype(np.float32), PICTURE[:5], PIXELS / 255 - 1, PIXELS * 2, PIXELS.astype(np.int32), PIXELS * np.nan],
)
def test_pictures_that_do_not_fit(rgb: Program, image: np.ndarray) -> None:
    message = refused(rgb.package.path, lambda: rgb.run({"image": image}))
    assert "takes 'image' image, uint8 (6, 9, 3) RGB or float32 (1, 3, 6, 9) RGB" in message


def test_several_functions(tmp_path: Path) -> None:
    ct = coremltools()
    for name, factor in (("half", 0.5), ("double", 2.0)):
        module = nn.Linear(16, 16)
        with torch.no_grad():
            module.weight.copy_(torch.eye(16) * factor)
            module.bias.fill_(1)
        convert_module(module, torch.zeros(1, 16), 18).save(str(tmp_path / f"{name}.mlpackage"))
    both = ct.utils.MultiFunctionDescriptor()
    for name in ("half", "double"):
        both.add_function(str(tmp_path / f"{name}.mlpackage"), "main", name)
    both.default_function_name = "double"
    path = tmp_path / "both.mlpackage"
    with quiet(), swallow_native_stderr():
        ct.utils.save_multifunction(both, str(path))
    package = open_package(path)
    assert set(package.functions) == {"half", "double"} and package.default_function == "double"
    x = np.arange(16, dtype=np.float32)[None]
    choices: list[tuple[str | None, float]] = [(None, 2), ("double", 2), ("half", 0.5)]
    for choice, factor in choices:
        program = load_program(package, choice)
        (given,), (output,) = program.function.inputs, program.run({program.function.inputs[0].name: x}).values()
        assert given.shape == (1, 16) and np.array_equal(np.asarray(output), x * factor + 1)
