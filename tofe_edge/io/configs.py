"""What stands beside weights: config.json of timm or transformers, preprocessor_config.json, args.yaml of timm's training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tofe_edge.errors import InputError, first_line, naming, quoted
from tofe_edge.io.documents import parse_json
from tofe_edge.io.labels import Classes, classes_in
from tofe_edge.io.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

_MEANS_STDS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
USUAL_PREPROCESSING = tuple(_MEANS_STDS)
"""Pairs of mean and standard deviation that published nets use."""

_PILLOW = {2: "bilinear", 3: "bicubic"}
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Config:
    """What a folder says about the weights in it; what it does not say is ``None``.

    Attributes:
        architecture: timm's name of the net.
        activation: transformers' name of the MLP's function.
        heads: of attention.
        classes: names of its classes.
        preprocessing: keys of :class:`Preprocessing` that it gives.
        preprocessing_file: which file gave them.
        notes: what could not be taken over as it is.
    """

    architecture: str | None = None
    activation: str | None = None
    heads: int | None = None
    classes: Classes | None = None
    classes_file: str = ""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    preprocessing_file: str = ""
    notes: tuple[str, ...] = ()


def read_config_beside(weights: Path) -> Config:
    """What the files beside the weights say. A file that is not of this kind says nothing.

    Raises:
        InputError: a file that is of this kind has a value that cannot be.
    """
    found = Config()
    for name in ("args.yaml", "config.json", "preprocessor_config.json"):
        path = weights.parent / name
        content = _document(path, strict=False) if path.is_file() and path.stat().st_size < _MOST_BYTES else None
        if not isinstance(content, Mapping) or "tofe_edge" in content:
            continue
        with naming(path):
            found = _with(found, content, name)
    return found


def _with(found: Config, content: Mapping[str, Any], name: str) -> Config:
    if name == "config.json":
        vision = content.get("vision_config")
        inner: Mapping[str, Any] = vision if isinstance(vision, Mapping) else content
        classes = classes_in(content)
        found = replace(
            found,
            architecture=_text(content.get("architecture")),
            activation=_text(inner.get("hidden_act")),
            heads=inner["num_attention_heads"] if isinstance(inner.get("num_attention_heads"), int) else None,
            classes=classes,
            classes_file=name if classes else "",
        )
        if not isinstance(content.get("pretrained_cfg"), Mapping):
            return found
    elif name == "args.yaml":
        if "model" not in content or "num_classes" not in content:
            return found
        found = replace(found, architecture=_text(content.get("model")))
    keys, notes = preprocessing_keys(content)
    if not keys:
        return found
    return replace(found, preprocessing=keys, preprocessing_file=name, notes=notes)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def read_preprocessing(choice: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What ``--preprocessing`` gives: keys of :class:`Preprocessing`, and what could not be taken over.

    Args:
        choice: ``imagenet``, ``inception``, ``clip`` (mean and standard deviation), or a JSON or YAML file with any of
            ``mean``, ``std``, ``crop_pct``, ``interpolation``; or transformers' or timm's own.

    Raises:
        InputError: it is neither, or the file cannot be read.
    """
    if choice in _MEANS_STDS:
        mean, std = _MEANS_STDS[choice]
        return {"mean": mean, "std": std}, ()
    path = Path(choice)
    if not path.is_file():
        raise InputError(f"--preprocessing {choice}: is not a file or one of {', '.join(USUAL_PREPROCESSING)}")
    content = _document(path, strict=True)
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: is not an object with mean, std, crop_pct or interpolation")
    with naming(path):
        keys, notes = preprocessing_keys(content)
    if not keys:
        raise InputError(f"{path}: gives none of mean, std, crop_pct and interpolation")
    return keys, notes


def _document(path: Path, strict: bool) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return parse_json(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if strict:
            raise InputError(f"{path}: cannot be read as JSON or YAML ({first_line(error)})") from error
        return None


def preprocessing_keys(content: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The keys of :class:`Preprocessing` in a document of ours, timm's or transformers', and what was left out.

    Raises:
        InputError: a value is not a number or list of three, or a way to interpolate is not supported.
    """
    inner = content.get("pretrained_cfg")
    if isinstance(inner, Mapping):
        content = inner
    notes: list[str] = []
    keys: dict[str, Any] = {}
    normalizes = content.get("do_normalize", True)
    for key, other in (("mean", "image_mean"), ("std", "image_std")):
        value = content.get(key, content.get(other))
        if not normalizes:
            value = [0.0] * 3 if key == "mean" else [1.0] * 3
        if value is not None:
            keys[key] = _triple(value, key)
    scale = content.get("rescale_factor")
    if isinstance(scale, int | float) and abs(scale * 255 - 1) > 1e-3:
        raise InputError(f"rescale_factor {scale} is not 1/255; give mean and std for pixels from 0 to 1")
    interpolation = content.get("interpolation", content.get("resample"))
    if interpolation is not None:
        keys["interpolation"] = _interpolation(interpolation)
    crop = content.get("crop_pct")
    if crop is None:
        crop, note = _crop(content)
        notes += [note] if note else []
    if crop is not None:
        if not isinstance(crop, int | float) or not 0.1 <= crop <= 1:
            raise InputError(f"crop_pct {quoted(crop)} is not a number from 0.1 to 1")
        keys["crop_pct"] = float(crop)
    if content.get("crop_mode", "center") == "squash":
        notes.append(_SQUASHED)
    return keys, tuple(notes)


_SQUASHED = "squeezes pictures to a square there; here their centre is cut out, which differs for long pictures"


def _triple(value: Any, key: str) -> tuple[float, float, float]:
    values = [value] * 3 if isinstance(value, int | float) else value
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise InputError(f"{key} {quoted(value)} is not three numbers, of red, green and blue")
    return (float(values[0]), float(values[1]), float(values[2]))


def _interpolation(value: Any) -> str:
    name = _PILLOW.get(value, "") if isinstance(value, int) else str(value).lower().rpartition(".")[2]
    if name not in _PILLOW.values():
        raise InputError(f"interpolation {quoted(value)} is not supported; choose bicubic or bilinear")
    return name


def _crop(content: Mapping[str, Any]) -> tuple[float | None, str]:
    """The share of the short side that transformers' ``crop_size`` keeps of ``size``."""
    size, crop = content.get("size"), content.get("crop_size")
    if not content.get("do_resize", True) or size is None:
        return None, ""
    cropped = bool(content.get("do_center_crop", False))
    if (isinstance(size, int) and cropped) or (isinstance(size, Mapping) and "shortest_edge" in size):
        short = size["shortest_edge"] if isinstance(size, Mapping) else size
        kept = crop.get("height") if isinstance(crop, Mapping) else crop
        if cropped and isinstance(kept, int) and isinstance(short, int) and 0 < kept <= short:
            return kept / short, ""
        return None, ""
    if (isinstance(size, Mapping) and size.get("height") == size.get("width")) or isinstance(size, int):
        return 1.0, _SQUASHED
    return None, ""


def describe_preprocessing(spec: Preprocessing) -> str:
    """In words: ``224 px, centre 90 % of the short side, bicubic, mean and std of ImageNet``."""
    usual = [name for name, pair in _MEANS_STDS.items() if _near(pair[0], spec.mean) and _near(pair[1], spec.std)]
    of = {"imagenet": "ImageNet's", "inception": "Inception's (0.5)", "clip": "CLIP's"}
    numbers = "mean {}, std {}".format(*(" ".join(f"{one:.4g}" for one in three) for three in (spec.mean, spec.std)))
    colours = f"{of[usual[0]]} mean and std" if usual else numbers
    sizing = "no resize" if spec.resize == "none" else f"crop {spec.crop_pct:.4g}, {spec.interpolation}"
    return f"{spec.image_size} px, {sizing}, {colours}"


def _near(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(abs(a - b) < 5e-4 for a, b in zip(one, other))
