"""Products: matrices, convolutions, attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tofe_edge.runtimes.mil.operators.shape import bounded
from tofe_edge.runtimes.mil.operators.window import pads, with_pads

_CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: Mapping[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b with W ``(out, in)``."""
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Product of the last two dimensions, others broadcast."""
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def einsum(values: list[Tensor], equation: str) -> Tensor:
    """Einstein's sum over letters that the result lacks."""
    result: Tensor = torch.einsum(equation, *values)
    return result


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(Q Kᵀ / sqrt(d) + mask) V; a boolean mask is true where a key takes part."""
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype is torch.bool else scores + attn_mask
    attended: Tensor = scores.softmax(-1) @ value
    return attended


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
    kernel = [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations)]
    around = pads(pad_type, pad, x.shape, kernel, strides)
    bounded([*x.shape[:2], *(size + before + after for size, (before, after) in zip(x.shape[2:], around))])
    if all(before == after for before, after in around):
        padding: list[int] = [before for before, _ in around]
    else:
        x, padding = with_pads(x, around, 0.0), [0] * dimensions
    return _CONVOLUTIONS[dimensions](x, weight, bias, strides, padding, dilations, groups)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    strides: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution of ``(N, C, *D)`` with ``(C, out / groups, *K)``: all contributions, then cut.

    ``custom`` cuts ``pad``; ``same`` cuts to D times stride, from both ends, one more from the end; a given
    ``output_shape`` decides how long the result is, counted from the cut at the start.
    """
    dimensions = x.dim() - 2
    strides, dilations = strides or (1,) * dimensions, dilations or (1,) * dimensions
    extents = [(kernel - 1) * dilation + 1 for kernel, dilation in zip(weight.shape[2:], dilations)]
    bounded([x.shape[0], weight.shape[1], *((n - 1) * s + k for n, s, k in zip(x.shape[2:], strides, extents))])
    full = _TRANSPOSED[dimensions](x, weight, None, strides, 0, 0, groups, dilations)
    for axis in range(dimensions):
        size, before, after = full.shape[axis + 2], 0, 0
        if pad_type == "custom" and pad is not None:
            before, after = pad[2 * axis], pad[2 * axis + 1]
        length = size - before - after
        if output_shape is not None:
            length = output_shape[axis + 2 if len(output_shape) == x.dim() else axis]
        elif pad_type.startswith("same"):
            length = x.shape[axis + 2] * strides[axis]
        if pad_type.startswith("same"):
            surplus = max(size - length, 0)
            before = surplus // 2 if pad_type == "same" else surplus - surplus // 2
        if before + length > size:
            full = with_pads(
                full, [(0, before + length - size if axis == other else 0) for other in range(dimensions)], 0.0
            )
        full = full.narrow(axis + 2, before, length)
    return full if bias is None else full + bias.reshape(1, -1, *[1] * dimensions)


LINEAR: Mapping[str, Callable[..., Any]] = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "einsum": einsum,
    "linear": linear,
    "matmul": matmul,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}
"""Operator -> function."""
