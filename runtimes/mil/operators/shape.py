"""Operators that move elements: shapes, slices, joining, padding, filling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST = 1 << 30


def bounded(shape: Sequence[int]) -> list[int]:
    """``shape``, unless a tensor of it could fill the memory: a file decides how large some results are.

    Raises:
        ValueError: it has over 2**30 elements, or a negative size.
    """
    if min(shape, default=0) < 0 or math.prod(shape) > _LARGEST:
        raise ValueError(f"a tensor of shape {list(shape)} cannot be made")
    return list(shape)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """New shape; -1 takes what is left, 0 the size of the same dimension counted from the last (1 before the first)."""
    missing = len(shape) - x.dim()
    return x.reshape([size or (x.shape[axis - missing] if axis >= missing else 1) for axis, size in enumerate(shape)])


def reshape_like(
    x: Tensor, ref_tensors: list[Tensor], begins: list[int], ends: list[int], end_masks: list[bool]
) -> Tensor:
    """New shape out of parts of the shapes of other tensors."""
    parts = zip(ref_tensors, begins, ends, end_masks)
    return x.reshape([size for ref, begin, end, to_end in parts for size in ref.shape[begin : None if to_end else end]])


def transpose(x: Tensor, perm: tuple[int, ...]) -> Tensor:
    """Permute dimensions."""
    return x.permute(perm)


def concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """Join along an axis, one after the other or in turns."""
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].dim()
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: tuple[int, ...] | None = None
) -> tuple[Tensor, ...]:
    """Cut along an axis into parts of given sizes or of the same size."""
    if split_sizes is None:
        if not num_splits or x.shape[axis] % num_splits:
            raise ValueError(f"{x.shape[axis]} elements cannot be split into {num_splits} parts")
        split_sizes = (x.shape[axis] // num_splits,) * num_splits
    return tuple(x.split(split_sizes, axis))


def stack(values: list[Tensor], axis: int) -> Tensor:
    """Join along a new axis."""
    return torch.stack(values, axis)


def squeeze(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Drop dimensions of size 1."""
    return x.squeeze() if axes is None else x.squeeze(axes)


def expand_dims(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Add dimensions of size 1, at the positions that they have in the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _ranges(
    x: Tensor,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None,
    masks: Sequence[Sequence[bool] | None],
) -> list[range]:
    """The indices that a slice takes of each dimension; a squeezed dimension gives the one at ``begin``."""
    from_start, to_end, single = ([False] * x.dim() if mask is None else mask for mask in masks)
    taken = []
    for axis, size in enumerate(x.shape):
        if single[axis]:
            first = range(size)[0 if from_start[axis] else begin[axis]]
            taken.append(range(first, first + 1))
        else:
            part = slice(
                None if from_start[axis] else begin[axis],
                None if to_end[axis] else end[axis],
                stride[axis] if stride else 1,
            )
            taken.append(range(size)[part])
    return taken


def slice_by_index(
    x: Tensor,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Tensor:
    """``x[begin:end:stride]`` as Python has it; masks mean from the start, to the end, and a single index."""
    for axis, taken in enumerate(_ranges(x, begin, end, stride, (begin_mask, end_mask, squeeze_mask))):
        if taken.step > 0:
            x = x[(slice(None),) * axis + (slice(taken.start, taken.stop, taken.step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(taken), dtype=torch.int64))
    dropped = [axis for axis, drop in enumerate(squeeze_mask or ()) if drop]
    return x.squeeze(dropped) if dropped else x


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Tensor:
    """``x`` with ``x[begin:end:stride]`` replaced."""
    ranges = _ranges(x, begin, end, stride, (begin_mask, end_mask, squeeze_mask))
    grid = torch.meshgrid(*[torch.tensor(list(taken), dtype=torch.int64) for taken in ranges], indexing="ij")
    changed = x.clone()
    changed[grid] = update.reshape(grid[0].shape)
    return changed


def slice_by_size(x: Tensor, begin: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """``size`` elements from ``begin``; -1 takes the rest."""
    for axis, (first, count) in enumerate(zip(begin, size)):
        first = first % x.shape[axis] if first < 0 else first
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


def tile(x: Tensor, reps: tuple[int, ...]) -> Tensor:
    """Repeat along each dimension."""
    bounded([size * count for size, count in zip(x.shape, reps)])
    return x.repeat(reps)


def pad(x: Tensor, pad: tuple[int, ...], mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """Pad the last dimensions by constants, mirrored elements (without the edge) or the edge's element."""
    around = [(pad[index], pad[index + 1]) for index in range(0, len(pad), 2)]
    around = [(0, 0)] * (x.dim() - len(around)) + around
    bounded([size + before + after for size, (before, after) in zip(x.shape, around)])
    if mode == "constant":
        return F.pad(x, [count for sides in reversed(around) for count in sides], value=constant_val)
    for axis, (before, after) in enumerate(around):
        if before or after:
            x = x.index_select(axis, _padded_indices(x.shape[axis], before, after, mode))
    return x


def _padded_indices(size: int, before: int, after: int, mode: str) -> Tensor:
    positions = torch.arange(-before, size + after)
    if mode == "replicate":
        return positions.clamp(0, size - 1)
    if mode != "reflect" or max(before, after) >= size:
        raise ValueError(f"cannot pad {size} elements by {before} and {after} in mode {mode!r}")
    mirrored = positions.abs()
    return torch.where(mirrored < size, mirrored, 2 * (size - 1) - mirrored)


def crop(x: Tensor, crop_height: tuple[int, ...], crop_width: tuple[int, ...]) -> Tensor:
    """Cut rows and columns off the borders of the last two dimensions."""
    height, width = x.shape[-2:]
    return x[..., crop_height[0] : height - crop_height[1], crop_width[0] : width - crop_width[1]]


def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """Two dimensions: those before the axis and the rest."""
    return x.reshape(math.prod(x.shape[:axis]), -1)


def reverse(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Turn the order round along axes (all by default)."""
    return x.flip(list(range(x.dim())) if axes is None else axes)


def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """Windows along an axis; their elements become a new axis behind it."""
    axis %= x.dim()
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """Channels to pixels; the channels of one result channel are neighbours."""
    return F.pixel_shuffle(x, upscale_factor)


def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """The reverse of :func:`pixel_shuffle`."""
    return F.pixel_unshuffle(x, downscale_factor)


def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Channels to pixels; the channels of one pixel position are neighbours (TensorFlow's order)."""
    batch, _, height, width = x.shape
    blocks = x.reshape(batch, block_size, block_size, -1, height, width).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(batch, -1, height * block_size, width * block_size)


def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """The reverse of :func:`depth_to_space`."""
    batch, depth, height, width = x.shape
    blocks = x.reshape(batch, depth, height // block_size, block_size, width // block_size, block_size)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // block_size, width // block_size)


def fill(shape: tuple[int, ...], value: Tensor | None = None) -> Tensor:
    """A tensor of one value (0)."""
    single = torch.zeros(()) if value is None else value.reshape(())
    return single.expand(bounded(shape)).clone()


def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    """A tensor of one value (0) in the shape of another."""
    return fill(tuple(ref_tensor.shape), value)


def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """start, start + step, ... before end."""
    count = math.ceil((end.item() - start.item()) / step.item())
    return start + step * torch.arange(bounded([max(0, count)])[0], dtype=start.dtype)


def shape(x: Tensor) -> Tensor:
    """Sizes of the dimensions."""
    return torch.tensor(x.shape, dtype=torch.int32)


def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Matrices with zeros outside a band around the diagonal; negative means that the whole side stays."""
    rows, columns = torch.arange(x.shape[-2])[:, None], torch.arange(x.shape[-1])
    keep = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        keep &= rows - columns <= lower
    if upper >= 0:
        keep &= columns - rows <= upper
    return torch.where(keep, x, torch.zeros((), dtype=x.dtype))


SHAPE: Mapping[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        band_part,
        concat,
        crop,
        depth_to_space,
        expand_dims,
        fill,
        fill_like,
        flatten2d,
        pad,
        pixel_shuffle,
        pixel_unshuffle,
        range_1d,
        reshape,
        reshape_like,
        reverse,
        shape,
        slice_by_index,
        slice_by_size,
        slice_update,
        sliding_windows,
        space_to_depth,
        split,
        squeeze,
        stack,
        tile,
        transpose,
    )
}
"""Operator -> function."""
