"""Operators on sliding windows: pooling; and the padding that convolutions share with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tofe_edge.runtimes.mil.operators.shape import bounded

_MAX: Mapping[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: Mapping[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}

Pads = list[tuple[int, int]]
"""Elements before and after, for each spatial dimension."""


def pads(
    pad_type: str, pad: Sequence[int] | None, shape: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> Pads:
    """What MIL's ``pad_type`` means for an input ``(N, C, *D)``; ``kernel`` has the dilated sizes.

    ``same`` gives ceil(size / stride) windows; what cannot be shared evenly goes to the end, with ``same_lower`` to
    the start.
    """
    sizes = shape[2:]
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        given = pad or [0] * (2 * len(sizes))
        return [(given[2 * axis], given[2 * axis + 1]) for axis in range(len(sizes))]
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"unknown pad_type {pad_type!r}")
    around = []
    for size, extent, stride in zip(sizes, kernel, strides):
        total = max(0, (math.ceil(size / stride) - 1) * stride + extent - size)
        less, more = total // 2, total - total // 2
        around.append((less, more) if pad_type == "same" else (more, less))
    return around


def with_pads(x: Tensor, around: Pads, value: float) -> Tensor:
    """Pad the spatial dimensions with a value."""
    flat = [size for sides in reversed(around) for size in sides]
    if not any(flat):
        return x
    bounded([*x.shape[:2], *(size + before + after for size, (before, after) in zip(x.shape[2:], around))])
    return F.pad(x, flat, value=value)


def _overhang(around: Pads, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> Pads:
    """What ``ceil_mode`` lets the last window stick out at the end."""
    sticking = []
    for (before, after), size, extent, stride in zip(around, sizes, kernel, strides):
        padded = size + before + after
        windows = (padded - extent + stride - 1) // stride + 1
        # A window that would begin in the padding behind the input is left out.
        if before + after > 0 and (windows - 1) * stride >= size + (before + after) / 2:
            windows -= 1
        sticking.append((0, max(0, (windows - 1) * stride + extent - padded)))
    return sticking


def max_pool(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    pad_type: str,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Largest element of each window; padding never wins."""
    strides = strides or (1,) * len(kernel_sizes)
    around = pads(pad_type, pad, x.shape, kernel_sizes, strides)
    over = _overhang(around, x.shape[2:], kernel_sizes, strides) if ceil_mode else []
    x = with_pads(with_pads(x, around, -torch.inf), over, -torch.inf)
    return _MAX[len(kernel_sizes)](x, kernel_sizes, strides)


def avg_pool(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    pad_type: str,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Mean of each window. Padding counts as zeros unless excluded; what ``ceil_mode`` adds never counts."""
    strides = strides or (1,) * len(kernel_sizes)
    around = pads(pad_type, pad, x.shape, kernel_sizes, strides)
    over = _overhang(around, x.shape[2:], kernel_sizes, strides) if ceil_mode else []
    mean = _AVERAGE[len(kernel_sizes)]
    counted = with_pads(torch.ones_like(x[:1, :1]), around, float(not exclude_padding_from_average))
    share = mean(with_pads(counted, over, 0.0), kernel_sizes, strides)
    return mean(with_pads(with_pads(x, around, 0.0), over, 0.0), kernel_sizes, strides) / share


def l2_pool(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    pad_type: str,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Square root of the sum of squares of each window."""
    strides = strides or (1,) * len(kernel_sizes)
    around = pads(pad_type, pad, x.shape, kernel_sizes, strides)
    over = _overhang(around, x.shape[2:], kernel_sizes, strides) if ceil_mode else []
    squares = with_pads(with_pads(x.square(), around, 0.0), over, 0.0)
    return (_AVERAGE[len(kernel_sizes)](squares, kernel_sizes, strides) * math.prod(kernel_sizes)).sqrt()


WINDOW: Mapping[str, Callable[..., Any]] = {"avg_pool": avg_pool, "l2_pool": l2_pool, "max_pool": max_pool}
"""Operator -> function."""
