"""Operators that take or place elements by index. Negative indices count from the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tofe_edge.runtimes.mil.operators.shape import bounded


def _positive(indices: Tensor, size: int) -> Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """``x[..., indices, ...]`` along an axis; the first ``batch_dims`` dimensions of both belong together."""
    axis %= x.dim()
    chosen = _positive(indices, x.shape[axis])
    shape = [*x.shape[:axis], *indices.shape[batch_dims:], *x.shape[axis + 1 :]]
    if batch_dims == 0:
        return x.index_select(axis, chosen.reshape(-1)).reshape(shape)
    batch, outer = math.prod(x.shape[:batch_dims]), math.prod(x.shape[batch_dims:axis])
    inner = math.prod(x.shape[axis + 1 :])
    flat = x.reshape(batch, outer, x.shape[axis], inner)
    places = chosen.reshape(batch, 1, -1, 1).expand(-1, outer, -1, inner)
    return flat.gather(2, places).reshape(shape)


def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """As ``numpy.take_along_axis``."""
    return x.gather(axis, _positive(indices, x.shape[axis]))


def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Elements or slices at the positions in the last dimension of ``indices``."""
    batch = x.shape[:batch_dims]
    depth = indices.shape[-1]
    flat = x.reshape(math.prod(batch), *x.shape[batch_dims:])
    places = indices.reshape(flat.shape[0], -1, depth)
    position = (
        torch.arange(flat.shape[0])[:, None].expand(-1, places.shape[1]),
        *(_positive(places[..., axis], flat.shape[axis + 1]) for axis in range(depth)),
    )
    return flat[position].reshape(*batch, *indices.shape[batch_dims:-1], *flat.shape[depth + 1 :])


def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """``data`` with ``updates`` placed along an axis; ``mode`` says how they meet what is there."""
    places = _positive(indices, data.shape[axis])
    if mode == "update":
        return data.scatter(axis, places, updates)
    if mode in ("add", "sub"):
        return data.scatter_add(axis, places, updates if mode == "add" else -updates)
    reduce = {"mul": "prod", "div": "prod", "max": "amax", "min": "amin"}[mode]
    if mode == "div":
        return data / torch.ones_like(data).scatter_reduce(axis, places, updates, reduce)
    return data.scatter_reduce(axis, places, updates, reduce)


def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """The reverse of :func:`gather`: slices of ``updates`` go to ``indices`` of ``data`` along an axis."""
    axis %= data.dim()
    flat = updates.reshape(*data.shape[:axis], indices.numel(), *data.shape[axis + 1 :])
    places = indices.reshape(*[1] * axis, -1, *[1] * (data.dim() - axis - 1)).expand(flat.shape)
    return scatter_along_axis(data, places, flat, axis, mode)


def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """The reverse of :func:`gather_nd`."""
    depth = indices.shape[-1]
    places = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for axis in range(depth):
        places = places * data.shape[axis] + _positive(indices[..., axis], data.shape[axis])
    flat = data.reshape(math.prod(data.shape[:depth]), -1)
    rows = updates.reshape(places.numel(), flat.shape[1])
    return scatter(flat, places.reshape(-1), rows, 0, mode).reshape(data.shape)


def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """``on_value`` (1) at the index and ``off_value`` (0) elsewhere, along a new axis."""
    axis %= indices.dim() + 1
    bounded([*indices.shape, one_hot_vector_size])
    classes = torch.arange(one_hot_vector_size).reshape(-1, *[1] * (indices.dim() - axis))
    hit = _positive(indices, one_hot_vector_size).unsqueeze(axis) == classes
    on = torch.tensor(1) if on_value is None else on_value
    off = torch.tensor(0) if off_value is None else off_value
    return torch.where(hit, on, off)


def non_zero(x: Tensor) -> Tensor:
    """Positions ``(found, rank)`` of all elements that are not zero."""
    return x.nonzero()


def classify(probabilities: Tensor, classes: list[Any]) -> tuple[Any, dict[Any, float]]:
    """The label with the largest number, and label -> number."""
    numbers = probabilities.reshape(-1).tolist()
    if len(numbers) != len(classes):
        raise ValueError(f"{len(classes)} labels for {len(numbers)} numbers")
    return classes[int(probabilities.reshape(-1).argmax())], dict(zip(classes, numbers))


INDEXING: Mapping[str, Callable[..., Any]] = {
    "classify": classify,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "non_zero": non_zero,
    "one_hot": one_hot,
    "scatter": scatter,
    "scatter_along_axis": scatter_along_axis,
    "scatter_nd": scatter_nd,
}
"""Operator -> function."""
