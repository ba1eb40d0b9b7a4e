"""What stands beside weights says their net, classes and preprocessing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tofe_edge.errors import InputError
from tofe_edge.io.configs import describe_preprocessing, preprocessing_keys, read_config_beside, read_preprocessing
from tofe_edge.io.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

HALF = (0.5, 0.5, 0.5)
VIT = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
DINOV2 = {
    "do_resize": True, "size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
    "resample": 3, "do_normalize": True, "image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD), "rescale_factor": 1 / 255,
}  # fmt: skip
OLD_CLIP = {"size": 224, "do_center_crop": True, "crop_size": 224, "resample": 3}
TIMM = {
    "architecture": "vit_small_patch16_224.augreg",
    "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "interpolation": "bicubic"},
}


@pytest.mark.parametrize(
    ("content", "expected", "notes"),
    [
        (VIT, {"mean": HALF, "std": HALF, "interpolation": "bilinear", "crop_pct": 1.0}, 1),
        (DINOV2, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bicubic", "crop_pct": 0.875}, 0),
        (OLD_CLIP, {"interpolation": "bicubic", "crop_pct": 1.0}, 0),
        (TIMM, {"mean": HALF, "std": HALF, "crop_pct": 0.9, "interpolation": "bicubic"}, 0),
        ({"mean": 0.5, "std": 0.5}, {"mean": HALF, "std": HALF}, 0),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}, 0),
        ({"interpolation": "InterpolationMode.BILINEAR"}, {"interpolation": "bilinear"}, 0),
        ({"crop_mode": "squash", "crop_pct": 1}, {"crop_pct": 1.0}, 1),
        ({"else": 1}, {}, 0),
    ],
)
def test_preprocessing_of_other_programs(content: dict[str, Any], expected: dict[str, Any], notes: int) -> None:
    keys, said = preprocessing_keys(content)
    assert keys == expected and len(said) == notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mean": [0.5, 0.5]}, "mean .* is not three numbers"),
        ({"std": "0.5"}, "std .* is not three numbers"),
        ({"resample": 1}, "interpolation 1 is not supported"),
        ({"interpolation": "lanczos"}, "'lanczos' is not supported"),
        ({"crop_pct": 2}, "crop_pct 2 is not a number from"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0 is not 1/255"),
    ],
)
def test_preprocessing_that_cannot_be_done_is_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=message) as caught:
        read_preprocessing(str(path))
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "text"), [("own.json", '{"std": 0.25}'), ("own.yaml", "std: 0.25"), ("own.yml", "std: 0.25")]
)
def test_a_file_of_ones_own(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_preprocessing(str(tmp_path / name)) == ({"std": (0.25, 0.25, 0.25)}, ())


@pytest.mark.parametrize(
    ("text", "message"), [("{", "cannot be read"), ("[1]", "is not an object"), ('{"epochs": 3}', "gives none of mean")]
)
def test_files_that_say_nothing_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_preprocessing(str(tmp_path / "own.json"))


def test_a_choice_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file or one of imagenet, inception, clip"):
        read_preprocessing("imagnet")


def test_files_beside_the_weights(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    assert read_config_beside(weights).preprocessing == {}
    config = {"id2label": {"0": "cat", "1": "dog"}, "hidden_act": "quick_gelu", "num_attention_heads": 12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(DINOV2))
    found = read_config_beside(weights)
    assert (found.architecture, found.activation, found.heads) == (None, "quick_gelu", 12)
    assert found.classes is not None and found.classes.names == ("cat", "dog")
    assert (found.preprocessing_file, found.preprocessing["crop_pct"]) == ("preprocessor_config.json", 0.875)


def test_timms_config_and_arguments(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    found = read_config_beside(tmp_path / "model.safetensors")
    assert (found.architecture, found.preprocessing_file) == ("vit_small_patch16_224.augreg", "config.json")
    (tmp_path / "config.json").unlink()
    (tmp_path / "args.yaml").write_text("model: deit_tiny_patch16_224\nnum_classes: 5\nmean: null\ncrop_pct: 0.95\n")
    found = read_config_beside(tmp_path / "best.pth.tar")
    assert (found.architecture, found.preprocessing) == ("deit_tiny_patch16_224", {"crop_pct": 0.95})


@pytest.mark.parametrize("text", ["{", "[1, 2]", "3", '{"name": "package"}'])
def test_a_config_of_something_else_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    found = read_config_beside(tmp_path / "model.safetensors")
    assert (found.architecture, found.classes, found.preprocessing) == (None, None, {})


def test_a_config_that_cannot_be_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"resample": 1}')
    with pytest.raises(InputError, match=re.escape("preprocessor_config.json: interpolation 1 is not supported")):
        read_config_beside(tmp_path / "model.safetensors")


def test_in_words() -> None:
    spec = Preprocessing(224, 0.9, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
    assert describe_preprocessing(spec) == "224 px, crop 0.9, bicubic, ImageNet's mean and std"
    odd = Preprocessing(64, 1.0, "bilinear", (0.1, 0.2, 0.3), HALF, resize="none")
    assert describe_preprocessing(odd) == "64 px, no resize, mean 0.1 0.2 0.3, std 0.5 0.5 0.5"
