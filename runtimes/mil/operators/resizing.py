"""Resizing of the last dimensions, by the grids of points that MIL defines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tofe_edge.runtimes.mil.operators.shape import bounded


def grid(size: int, wanted: int, sampling_mode: str) -> Tensor:
    """Positions ``(wanted,)`` in ``0..size - 1`` where the result is sampled.

    Source: coremltools' documentation of ``resize_bilinear``.
    """
    steps = torch.arange(wanted, dtype=torch.float64)
    if sampling_mode == "ALIGN_CORNERS" and wanted == 1:
        points = steps + (size - 1) / 2
    elif sampling_mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        points = steps * ((size - 1) / max(wanted - 1, 1))
    elif sampling_mode == "DEFAULT":
        points = steps * (size / wanted)
    elif sampling_mode == "OFFSET_CORNERS":
        points = (steps + 0.5) * (max(1, size - 1) / wanted)
    elif sampling_mode == "UNALIGN_CORNERS":
        points = (steps + 0.5) * (size / wanted) - 0.5
    else:
        raise ValueError(f"unknown sampling_mode {sampling_mode!r}")
    return points.clamp(0, size - 1)


def _linear(x: Tensor, axis: int, wanted: int, sampling_mode: str) -> Tensor:
    _check(x, axis, wanted)
    points = grid(x.shape[axis], wanted, sampling_mode)
    left = points.floor().long()
    right = (left + 1).clamp_max(x.shape[axis] - 1)
    part = (points - left).to(x.dtype).reshape(-1, *[1] * (-axis - 1))
    return torch.lerp(x.index_select(axis, left), x.index_select(axis, right), part)


def _nearest(x: Tensor, axis: int, wanted: int) -> Tensor:
    _check(x, axis, wanted)
    size = x.shape[axis]
    # In whole numbers: 5 * (3 / 5) is below 3 in floating point.
    return x.index_select(axis, torch.arange(wanted) * size // wanted)


def _check(x: Tensor, axis: int, wanted: int) -> None:
    bounded([*x.shape[:axis], wanted, *x.shape[x.dim() + axis + 1 :]])


def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Linear interpolation to a given size."""
    rows = _linear(x, -2, target_size_height, sampling_mode)
    return _linear(rows, -1, target_size_width, sampling_mode)


def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """The element at floor(i * size / wanted)."""
    return _nearest(_nearest(x, -2, target_size_height), -1, target_size_width)


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    """As :func:`resize_nearest_neighbor`, to floor(size * factor)."""
    height, width = x.shape[-2:]
    return resize_nearest_neighbor(x, math.floor(height * scale_factor_height), math.floor(width * scale_factor_width))


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Linear interpolation to floor(size * factor); corners on corners, or pixels as areas."""
    if align_corners:
        mode = "STRICT_ALIGN_CORNERS"
    else:
        mode = "DEFAULT" if half_pixel_centers is False else "UNALIGN_CORNERS"
    height, width = x.shape[-2:]
    return resize_bilinear(x, math.floor(height * scale_factor_height), math.floor(width * scale_factor_width), mode)


def resize(
    x: Tensor,
    shape: tuple[int, ...],
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Resize the last ``resized_dims`` dimensions to the last sizes of ``shape``; 0 leaves a dimension as it is."""
    for axis in range(-resized_dims, 0):
        wanted = shape[axis] or x.shape[axis]
        if interpolation_mode == "LINEAR":
            x = _linear(x, axis, wanted, sampling_mode)
        elif interpolation_mode == "NEAREST_NEIGHBOR" and sampling_mode == "DEFAULT":
            x = _nearest(x, axis, wanted)
        else:
            raise ValueError(f"{interpolation_mode} with {sampling_mode} is not supported")
    return x


RESIZING: Mapping[str, Callable[..., Any]] = {
    "resize": resize,
    "resize_bilinear": resize_bilinear,
    "resize_nearest_neighbor": resize_nearest_neighbor,
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}
"""Operator -> function."""
