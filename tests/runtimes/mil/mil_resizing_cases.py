"""Cases of resizing, against PyTorch where it has the same and the documented grids elsewhere."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from mil_elementwise_cases import Maker, floats, pick, sizes
from mil_programs import Case, case

Rng = np.random.Generator


def _grid(size: int, wanted: int, mode: str) -> np.ndarray:
    """The grids of coremltools' documentation, point by point."""
    points = []
    for index in range(wanted):
        if mode == "ALIGN_CORNERS" and wanted == 1:
            point = (size - 1) / 2
        elif mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
            point = index * (size - 1) / (wanted - 1) if wanted > 1 else 0.0
        elif mode == "DEFAULT":
            point = index * (size - size / wanted) / (wanted - 1) if wanted > 1 else 0.0
        elif mode == "OFFSET_CORNERS":
            delta = max(1, size - 1) / wanted
            point = 0.5 * delta + index * delta
        else:
            point = index * size / wanted + 0.5 * size / wanted - 0.5
        points.append(min(size - 1, max(0.0, point)))
    return np.array(points)


def _interpolated(x: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    for axis, wanted in ((-2, height), (-1, width)):
        points, size = _grid(x.shape[axis], wanted, mode), x.shape[axis]
        lines = np.moveaxis(x, axis, -1).reshape(-1, size)
        sampled = np.stack([np.interp(points, np.arange(size), line) for line in lines])
        others = np.moveaxis(x, axis, -1).shape[:-1]
        x = np.moveaxis(sampled.reshape(*others, wanted), -1, axis)
    return x


_MODES = ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def _resize_bilinear(rng: Rng) -> Case:
    x, (height, width), mode = floats(rng, *sizes(rng, 4, 6)), sizes(rng, 2, 9), pick(rng, *_MODES)
    return case(
        "resize_bilinear",
        {"x": x},
        _interpolated(x, height, width, mode),
        target_size_height=height,
        target_size_width=width,
        sampling_mode=mode,
    )


def _resize(rng: Rng) -> Case:
    x, (height, width) = floats(rng, *sizes(rng, 4, 6)), sizes(rng, 2, 9)
    if rng.random() < 0.3:
        expected = F.interpolate(torch.from_numpy(x), (height, width), mode="nearest").numpy()
        interpolation, mode = "NEAREST_NEIGHBOR", "DEFAULT"
    else:
        interpolation, mode = "LINEAR", pick(rng, *_MODES)
        expected = _interpolated(x, height, width, mode)
    return case(
        "resize",
        {"x": x},
        expected,
        17,
        shape=[1, height, width],
        resized_dims=np.uint32(2),
        interpolation_mode=interpolation,
        sampling_mode=mode,
    )


def _resize_nearest_neighbor(rng: Rng) -> Case:
    x, (height, width) = floats(rng, *sizes(rng, 4, 6)), sizes(rng, 2, 9)
    expected = F.interpolate(torch.from_numpy(x), (height, width), mode="nearest").numpy()
    return case("resize_nearest_neighbor", {"x": x}, expected, target_size_height=height, target_size_width=width)


def _upsample_nearest_neighbor(rng: Rng) -> Case:
    x, (rows, columns) = floats(rng, *sizes(rng, 4)), sizes(rng, 2, 3)
    return case(
        "upsample_nearest_neighbor",
        {"x": x},
        x.repeat(rows, -2).repeat(columns, -1),
        scale_factor_height=rows,
        scale_factor_width=columns,
    )


def _upsample_bilinear(rng: Rng) -> Case:
    x, (rows, columns), corners = floats(rng, *sizes(rng, 4)), sizes(rng, 2, 3), bool(rng.random() < 0.5)
    size = (x.shape[2] * rows, x.shape[3] * columns)
    expected = F.interpolate(torch.from_numpy(x), size, mode="bilinear", align_corners=corners).numpy()
    return case(
        "upsample_bilinear",
        {"x": x},
        expected,
        scale_factor_height=rows,
        scale_factor_width=columns,
        align_corners=corners,
    )


RESIZING_CASES: dict[str, Maker] = {
    "resize": _resize,
    "resize_bilinear": _resize_bilinear,
    "resize_nearest_neighbor": _resize_nearest_neighbor,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _upsample_nearest_neighbor,
}
