"""What callers give a program: names, shapes and types checked, pictures laid out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tofe_edge.errors import InputError
from tofe_edge.runtimes.mil.datatypes import BY_NAME, hold
from tofe_edge.runtimes.mil.manifest import shown
from tofe_edge.runtimes.mil.signature import Feature


def read_inputs(
    features: tuple[Feature, ...], inputs: Mapping[str, np.ndarray], half: bool, where: str
) -> dict[str, torch.Tensor]:
    """The inputs as the executor holds them; ``half``: round what is declared fp16.

    Raises:
        InputError: a name, shape or type is not what the program takes.
    """
    wanted = {feature.name: feature for feature in features}
    if set(inputs) != set(wanted):
        raise InputError(
            f"{where}: takes the inputs {', '.join(map(_expected, features)) or 'none'}, not {shown(sorted(map(str, inputs)))}"
        )
    return {name: _read(feature, inputs[name], half, where) for name, feature in wanted.items()}


def _read(feature: Feature, given: Any, half: bool, where: str) -> torch.Tensor:
    if not isinstance(given, np.ndarray):
        raise InputError(f"{where}: takes {_expected(feature)} as a numpy array, not {type(given).__name__}")
    array = _picture(feature, given) if feature.kind == "image" else given
    kind = BY_NAME[feature.dtype]
    # Core ML converts float32 for models with half precision inputs, too.
    fits = array.dtype == kind.array or (kind.name in ("fp16", "fp32") and array.dtype in (np.float16, np.float32))
    if array.shape != feature.shape or not fits:
        raise InputError(f"{where}: takes {_expected(feature)}, not {given.dtype} {given.shape}")
    if feature.kind == "image" and array.size and not (array.min() >= 0 and array.max() <= 255):
        raise InputError(f"{where}: takes {_expected(feature)} with values from 0 to 255; do not normalise it")
    if kind.name == "fp16" and half:
        array = array.astype(np.float16)
    return hold(array, kind)


def _picture(feature: Feature, given: np.ndarray) -> np.ndarray:
    """Bytes ``(H, W, 3)`` or ``(H, W)`` as ``(1, C, H, W)`` in the order of the model; others as they are."""
    if given.dtype != np.uint8:
        return given
    if given.ndim == 3 and given.shape[2] == 3 and feature.color != "GRAY":
        channels = given[..., ::-1] if feature.color == "BGR" else given
        return channels.transpose(2, 0, 1)[None].astype(np.float32)
    if given.ndim == 2 and feature.color == "GRAY":
        return given[None, None].astype(np.float32)
    return given.astype(np.float32)


def _expected(feature: Feature) -> str:
    if feature.kind != "image":
        return f"{shown(feature.name)} {feature.dtype} {feature.shape}"
    height, width = feature.shape[-2:]
    picture = f"({height}, {width})" if feature.color == "GRAY" else f"({height}, {width}, 3) RGB"
    return f"{shown(feature.name)} image, uint8 {picture} or float32 {feature.shape} {feature.color}"
