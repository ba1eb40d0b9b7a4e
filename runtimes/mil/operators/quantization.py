"""Quantized activations and compressed constants.

``constexpr_*`` operators come in two forms under one name: that of iOS 16, with packed bytes and a shape, and that of
iOS 18, with tensors of sub-byte types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tofe_edge.runtimes.mil.datatypes import BY_NAME, DataType, unpack


def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """round(x / scale) + zero point, within the range of the type; halves go to the even neighbour."""
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
    """(q - zero point) * scale, each for the tensor or for each index of an axis."""
    return dequantize(quantized_data, scale, zero_point, axis)


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """(q - offset) * scale; one of each for a block, whose sizes follow from the shapes."""
    codes = data.float()
    if offset is not None:
        codes = codes - _spread(offset.float(), data.shape)
    return codes * _spread(scale.float(), data.shape)


def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: tuple[int, ...] | None = None, vector_axis: int | None = None
) -> Tensor:
    """Look indices up in a table.

    iOS 16: ``indices`` are packed bytes, ``lut`` is ``(entries,)``, ``shape`` that of the result. iOS 18: ``lut`` is
    ``(*blocks, entries, vector)``, with a table for each block of indices; vectors lie along ``vector_axis``.
    """
    if shape is not None:
        bits = (lut.numel() - 1).bit_length()
        kind = DataType(f"uint{bits}", bits, np.uint8, torch.uint8)
        codes = unpack(indices.numpy(), kind, math.prod(shape))
        return lut[torch.from_numpy(codes).long()].reshape(shape)
    blocks = lut.shape[: indices.dim()]
    places = [
        (torch.arange(size) // _times(size, count)).reshape(-1, *[1] * (indices.dim() - axis - 1))
        for axis, (size, count) in enumerate(zip(indices.shape, blocks))
    ]
    vectors = lut[(*places, indices.long())]
    if vectors.shape[-1] == 1:
        return vectors[..., 0]
    if vector_axis is None:
        raise ValueError("a table of vectors needs vector_axis")
    axis = vector_axis % indices.dim()
    return vectors.movedim(-1, axis + 1).flatten(axis, axis + 1)


def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """Put elements where the mask has ones, zeros elsewhere. iOS 16 packs the mask and gives a shape."""
    if shape is not None:
        bits = unpack(mask.numpy(), BY_NAME["uint1"], math.prod(shape))
        mask = torch.from_numpy(bits).reshape(shape)
    taken = mask != 0
    if int(taken.sum()) != nonzero_data.numel():
        raise ValueError(f"{nonzero_data.numel()} elements for a mask with {int(taken.sum())} ones")
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[taken] = nonzero_data
    return dense


def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """Look the indices of a sparse tensor up: mask and elements of the result, which is sparse too."""
    indices = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask)
    mask = indices_mask
    if lut.shape[-1] > 1 and vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], vector_axis)
    return mask, constexpr_lut_to_dense(indices, lut, None, vector_axis)[mask != 0]


def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`constexpr_blockwise_shift_scale` of a sparse tensor: mask and elements of the result."""
    dense = constexpr_sparse_to_dense(nonzero_data, data_mask)
    return data_mask, constexpr_blockwise_shift_scale(dense, scale, offset)[data_mask != 0]


def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """To another type."""
    return source_val.to(BY_NAME[output_dtype].held)


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
            blocks = blocks.repeat_interleave(_times(size, count), axis)
    return blocks


def _times(size: int, count: int) -> int:
    if count == 0 or size % count:
        raise ValueError(f"{count} blocks do not divide {size} elements")
    return size // count


QUANTIZATION: Mapping[str, Callable[..., Any]] = {
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
    "constexpr_cast": constexpr_cast,
    "constexpr_lut_to_dense": constexpr_lut_to_dense,
    "constexpr_lut_to_sparse": constexpr_lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": constexpr_sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": constexpr_sparse_to_dense,
    "dequantize": dequantize,
    "quantize": quantize,
}
"""Operator -> function."""
