"""The MIL operators that the executor knows, by kind.

Each is a function whose parameters are those of the MIL operator, with its defaults. The annotations matter: ``Tensor``
stays a tensor; ``int``, ``float``, ``bool``, ``str`` and tuples of them become Python values before the call; ``list``
takes several values. A function may raise ValueError, RuntimeError and the like for a program that makes no sense.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tofe_edge.runtimes.mil.values import BY_NAME, DataType, unpack

_LARGEST = 1 << 30


def bounded(shape: Sequence[int]) -> list[int]:
    """Return ``shape`` if a tensor of it cannot fill the memory: parameters in a file set the size of some results.

    Raises:
        ValueError: it has over 2**30 elements, or a negative size.
    """
    if min(shape, default=0) < 0 or math.prod(shape) > _LARGEST:
        raise ValueError(f"a tensor of shape {list(shape)} cannot be made")
    return list(shape)


# Elementwise


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def operator(x: Tensor) -> Tensor:
        return function(x)

    return operator


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def operator(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return operator


def cast(x: Tensor, dtype: str) -> Tensor:
    """Convert to another type; conversion to an integer type cuts fractions off."""
    return x.to(BY_NAME[dtype].held)


def log(x: Tensor, epsilon: float = 0.0) -> Tensor:
    """The natural logarithm of x plus epsilon."""
    return torch.log(x + epsilon)


def rsqrt(x: Tensor, epsilon: float = 0.0) -> Tensor:
    """The reciprocal of the square root of x plus epsilon."""
    return torch.rsqrt(x + epsilon)


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """x times the cumulative distribution of the Gaussian, exact or approximated by tanh."""
    return F.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Softmax along an axis."""
    return x.softmax(axis)


# Reduction and order; without axes all axes are reduced


_Axes = tuple[int, ...] | list[int]


def _reduction(function: Callable[[Tensor, _Axes, bool], Tensor]) -> Callable[..., Tensor]:
    def operator(x: Tensor, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
        return function(x, list(range(x.dim())) if axes is None else axes, keep_dims)

    return operator


def _mean(x: Tensor, axes: _Axes, keep: bool) -> Tensor:
    return (x if x.is_floating_point() else x.float()).mean(axes, keepdim=keep)


def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensor | tuple[Tensor, Tensor]:
    """The k largest (``ascending``: smallest) elements, sorted, and their indices.

    Among equal elements the lower index comes first. If ``sort`` is false, MIL allows any order.
    """
    values, indices = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    values, indices = values.narrow(axis, 0, k), indices.narrow(axis, 0, k)
    return (values, indices) if return_indices else values


# Products


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b with W ``(out, in)``."""
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Product of the last two dimensions; the others broadcast."""
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    """Convolution of ``(N, C, *D)`` with ``(out, C / groups, *K)``."""
    dimensions = x.dim() - 2
    strides, dilations = strides or (1,) * dimensions, dilations or (1,) * dimensions
    if pad_type not in ("valid", "custom"):
        raise ValueError(f"pad_type {pad_type!r} is not supported, only 'valid' and 'custom'")
    sides = (0,) * (2 * dimensions) if pad_type == "valid" or not pad else pad
    if sides[::2] != sides[1::2]:
        raise ValueError(f"pad {list(sides)} is not supported, only the same before and after")
    padding = sides[::2]
    bounded([*x.shape[:2], *(size + 2 * more for size, more in zip(x.shape[2:], padding, strict=True))])
    return {1: F.conv1d, 2: F.conv2d}[dimensions](x, weight, bias, strides, padding, dilations, groups)


# Normalization


def layer_norm(
    x: Tensor,
    axes: tuple[int, ...] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalise over ``axes`` (all by default); gamma and beta have the sizes of those axes."""
    rank = x.dim()
    over = sorted(axis % rank for axis in (range(rank) if axes is None else axes))
    if over == list(range(rank - len(over), rank)):
        return F.layer_norm(x, x.shape[over[0] :], gamma, beta, epsilon)
    centred = x - x.mean(over, keepdim=True)
    variance = centred.square().mean(over, keepdim=True)
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    return _scaled(centred * torch.rsqrt(variance + epsilon), gamma, beta, shape)


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None, shape: Sequence[int]) -> Tensor:
    if gamma is not None:
        x = x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


# Shape


def concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """Join along an axis, one after the other or in turns."""
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].dim()
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


def expand_dims(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Add dimensions of size 1, at the positions that they have in the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """New shape; -1 takes what is left, 0 the size of the same dimension counted from the last (1 before the first)."""
    missing = len(shape) - x.dim()
    return x.reshape([size or (x.shape[axis - missing] if axis >= missing else 1) for axis, size in enumerate(shape)])


def slice_by_index(
    x: Tensor,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Tensor:
    """``x[begin:end:stride]`` as in Python, strides positive; masks: from the start, to the end, a single index."""
    nowhere = (False,) * x.dim()
    from_start, to_end, single = begin_mask or nowhere, end_mask or nowhere, squeeze_mask or nowhere
    taken: list[int | slice] = []
    for axis in range(x.dim()):
        first = 0 if from_start[axis] else begin[axis]
        last = None if to_end[axis] else end[axis]
        taken.append(first if single[axis] else slice(first, last, stride[axis] if stride else 1))
    return x[tuple(taken)]


def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: tuple[int, ...] | None = None
) -> tuple[Tensor, ...]:
    """Cut along an axis into parts of given sizes or of the same size."""
    if split_sizes is None:
        if not num_splits or x.shape[axis] % num_splits:
            raise ValueError(f"{x.shape[axis]} elements cannot be split into {num_splits} parts")
        split_sizes = (x.shape[axis] // num_splits,) * num_splits
    return tuple(x.split(split_sizes, axis))


def squeeze(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Drop dimensions of size 1."""
    return x.squeeze() if axes is None else x.squeeze(axes)


def transpose(x: Tensor, perm: tuple[int, ...]) -> Tensor:
    """Permute dimensions."""
    return x.permute(perm)


# Indexing


def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """``x[..., indices, ...]`` along an axis; negative indices count from the end."""
    if batch_dims:
        raise ValueError("batch_dims is not supported")
    axis %= x.dim()
    shape = [*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]]
    return x.index_select(axis, _positive(indices, x.shape[axis]).reshape(-1)).reshape(shape)


def _positive(indices: Tensor, size: int) -> Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a if cond, else b, per element."""
    return torch.where(cond.bool(), a, b)


def classify(probabilities: Tensor, classes: list[Any]) -> tuple[Any, dict[Any, float]]:
    """The label with the largest number, and label -> number."""
    numbers = probabilities.reshape(-1).tolist()
    if len(numbers) != len(classes):
        raise ValueError(f"{len(classes)} labels for {len(numbers)} numbers")
    return classes[int(probabilities.reshape(-1).argmax())], dict(zip(classes, numbers))


# Quantized activations, and compressed constants. ``constexpr_lut_to_dense`` has two forms under one name: that of
# iOS 16, with packed bytes and a shape, and that of iOS 18, with tensors of sub-byte types.


def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """round(x / scale) + zero point, limited to the range of the type; halves go to the even neighbour."""
    kind = BY_NAME[output_dtype]
    low = -(1 << (kind.bits - 1)) if kind.signed else 0
    codes = torch.round(input / _along(scale, input, axis))
    if zero_point is not None:
        codes = codes + _along(zero_point, input, axis)
    return codes.clamp(low, low + (1 << kind.bits) - 1)


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    """(q - zero point) * scale."""
    codes = input.float()
    if zero_point is not None:
        codes = codes - _along(zero_point, input, axis)
    return codes * _along(scale, input, axis)


def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """(q - zero point) * scale, one of each per tensor or per index of an axis."""
    return dequantize(quantized_data, scale, zero_point, axis)


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """(q - offset) * scale, one of each per block; the shapes give the sizes of the blocks."""
    codes = data.float()
    if offset is not None:
        codes = codes - _spread(offset.float(), data.shape)
    return codes * _spread(scale.float(), data.shape)


def constexpr_lut_to_dense(indices: Tensor, lut: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """Look indices up in a table.

    iOS 16: ``indices`` are packed bytes, ``lut`` is ``(entries,)``, ``shape`` that of the result. iOS 18: ``lut`` is
    ``(*blocks, entries, 1)``, one table per block of indices.
    """
    if shape is not None:
        bits = (lut.numel() - 1).bit_length()
        kind = DataType(f"uint{bits}", bits, np.uint8, torch.uint8)
        codes = unpack(indices.numpy(), kind, math.prod(shape))
        return lut[torch.from_numpy(codes).long()].reshape(shape)
    if lut.shape[-1] != 1:
        raise ValueError("tables of vectors are not supported")
    places = [
        (torch.arange(size) // _block(size, count)).reshape(-1, *[1] * (indices.dim() - axis - 1))
        for axis, (size, count) in enumerate(zip(indices.shape, lut.shape))
    ]
    return lut[(*places, indices.long())][..., 0]


def _along(parameter: Tensor, x: Tensor, axis: int | None) -> Tensor:
    """A scalar, or a vector laid along an axis of ``x``."""
    if parameter.dim() == 0 or axis is None:
        return parameter.float()
    axis %= x.dim()
    return parameter.float().reshape(*[1] * axis, -1, *[1] * (x.dim() - axis - 1))


def _spread(blocks: Tensor, shape: Sequence[int]) -> Tensor:
    if blocks.dim() != len(shape):
        raise ValueError(f"blocks of {list(blocks.shape)} do not divide {list(shape)}")
    for axis, size in enumerate(shape):
        count = blocks.shape[axis]
        if count not in (1, size):
            blocks = blocks.repeat_interleave(_block(size, count), axis)
    return blocks


def _block(size: int, count: int) -> int:
    if count == 0 or size % count:
        raise ValueError(f"{count} blocks do not divide {size} elements")
    return size // count


def _named(*functions: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    return {function.__name__: function for function in functions}


_SHAPE = _named(
    concat,
    expand_dims,
    reshape,
    slice_by_index,
    split,
    squeeze,
    transpose,
)

OPERATORS_BY_KIND: Mapping[str, Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        "elementwise": {
            "add": _binary(torch.add),
            "equal": _binary(torch.eq),
            "exp": _unary(torch.exp),
            "sigmoid": _unary(torch.sigmoid),
            "silu": _unary(F.silu),
            "greater": _binary(torch.gt),
            "greater_equal": _binary(torch.ge),
            "identity": _unary(lambda x: x),
            "maximum": _binary(torch.maximum),
            "mul": _binary(torch.mul),
            "real_div": _binary(torch.true_divide),
            "relu": _unary(torch.relu),
            "sub": _binary(torch.sub),
            **_named(cast, gelu, log, rsqrt, select, softmax),
        },
        "reduction and order": {
            "reduce_max": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
            "reduce_mean": _reduction(_mean),
            "reduce_sum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
            "topk": topk,
        },
        "products": _named(conv, linear, matmul),
        "normalization": _named(layer_norm),
        "shape": _SHAPE,
        "indexing": _named(classify, gather),
        "quantization and compressed constants": _named(
            constexpr_affine_dequantize, constexpr_blockwise_shift_scale, constexpr_lut_to_dense, dequantize, quantize
        ),
    }
)

OPERATORS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {name: function for table in OPERATORS_BY_KIND.values() for name, function in table.items()}
)
"""MIL operator -> function; ``const`` is not an operator but a value."""

EXACT = frozenset(_SHAPE) | {
    "gather",
    "identity",
    "maximum",
    "reduce_max",
    "relu",
    "select",
    "topk",
}
"""Operators that only move elements: a result of the inputs' type needs no rounding."""
