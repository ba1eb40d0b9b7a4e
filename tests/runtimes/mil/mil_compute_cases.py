"""Cases of products, windows and normalisations: sums written out in numpy, PyTorch where it has the same operator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mil_elementwise_cases import Maker, floats, pick, sizes
from mil_programs import Case, case
from numpy.lib.stride_tricks import sliding_window_view
from scipy import special  # type: ignore[import-untyped]

Rng = np.random.Generator
Pads = list[tuple[int, int]]


def _linear(rng: Rng) -> Case:
    x, outputs = floats(rng, *sizes(rng, 3)), int(rng.integers(1, 6))
    weight, bias = floats(rng, outputs, x.shape[-1]), floats(rng, outputs)
    if rng.random() < 0.5:
        return case("linear", {"x": x}, x @ weight.T + bias, weight=weight, bias=bias)
    return case("linear", {"x": x}, x @ weight.T, weight=weight)


def _matmul(rng: Rng) -> Case:
    rows, inner, columns, batch = sizes(rng, 4)
    x, y = floats(rng, batch, 2, rows, inner), floats(rng, 2, inner, columns)
    expected = x @ y
    turn_x, turn_y = (bool(each) for each in rng.random(2) < 0.5)
    x, y = (np.ascontiguousarray(each.swapaxes(-1, -2)) if turn else each for each, turn in ((x, turn_x), (y, turn_y)))
    return case("matmul", {"x": x, "y": y}, expected, transpose_x=turn_x, transpose_y=turn_y)


def _einsum(rng: Rng) -> Case:
    batch, channels, height, width = sizes(rng, 4)
    x, y = floats(rng, batch, channels, height, width), floats(rng, batch, width, height, 3)
    expected = np.matmul(x.transpose(0, 2, 1, 3), y.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    return case("einsum", {"values": [x, y]}, expected, equation="nchw,nwhr->nchr")  # coremltools writes no other


def _attention(rng: Rng) -> Case:
    batch, heads, queries, keys = sizes(rng, 4)
    query, key, value = (
        floats(rng, batch, heads, queries, 4),
        floats(rng, batch, heads, keys, 4),
        floats(rng, batch, heads, keys, 3),
    )
    given = {"query": query, "key": key, "value": value}
    scores = np.einsum("bhqd,bhkd->bhqk", query, key) / 2
    form = pick(rng, "none", "float", "bool")
    if form == "float":
        given["attn_mask"] = floats(rng, queries, keys)
        scores = scores + given["attn_mask"]
    elif form == "bool":
        allowed = rng.random((queries, keys)) < 0.6
        allowed[:, 0] = True
        given["attn_mask"] = allowed
        scores = np.where(allowed, scores, -np.inf)
    expected = special.softmax(scores, -1) @ value
    return case("scaled_dot_product_attention", given, expected, 18)


def _padding(
    rng: Rng, x: np.ndarray, kernel: list[int], strides: list[int], ios16: bool
) -> tuple[Pads, dict[str, Any]]:
    """A random kind of padding: before and after each spatial dimension, and the operator's parameters."""
    kind = pick(rng, "valid", "custom", "same", *(["same_lower"] if ios16 else []))
    if kind == "valid":
        return [(0, 0)] * len(kernel), {"pad_type": kind}
    if kind == "custom":
        sides = [(int(a), int(b)) for a, b in rng.integers(0, 2, (len(kernel), 2))]
        return sides, {"pad_type": kind, "pad": [each for side in sides for each in side]}
    sides = []
    for size, extent, stride in zip(x.shape[2:], kernel, strides):
        total = max(0, (math.ceil(size / stride) - 1) * stride + extent - size)
        small, large = math.floor(total / 2), math.ceil(total / 2)
        sides.append((small, large) if kind == "same" else (large, small))
    return sides, {"pad_type": kind}


def _windows(
    x: np.ndarray, kernel: list[int], strides: list[int], dilations: list[int], pads: Pads, fill: float
) -> np.ndarray:
    """``(N, C, *positions, *kernel)``."""
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads], constant_values=fill)
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations)]
    view = sliding_window_view(padded, extents, tuple(range(2, x.ndim)))
    steps = [slice(None, None, stride) for stride in strides]
    return view[(slice(None), slice(None), *steps, *(slice(None, None, dilation) for dilation in dilations))]


def _conv(rng: Rng) -> Case:
    dimensions, groups = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    channels, outputs = groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 3))
    kernel, strides, dilations = ([int(each) for each in rng.integers(1, 4, dimensions)] for _ in range(3))
    dilations = [min(each, 2) for each in dilations]
    x = floats(rng, 2, channels, *rng.integers(7, 10, dimensions))
    weight, bias = floats(rng, outputs, channels // groups, *kernel), floats(rng, outputs)
    pads, parameters = _padding(rng, x, [(k - 1) * d + 1 for k, d in zip(kernel, dilations)], strides, True)
    windows = _windows(x, kernel, strides, dilations, pads, 0)
    names = "hw"[:dimensions], "kl"[:dimensions]
    parts = [
        np.einsum(f"nc{names[0]}{names[1]},oc{names[1]}->no{names[0]}", part, filters)
        for part, filters in zip(np.split(windows, groups, 1), np.split(weight, groups, 0))
    ]
    expected = np.concatenate(parts, 1) + bias.reshape(1, -1, *[1] * dimensions)
    return case(
        "conv",
        {"x": x},
        expected,
        16,
        weight=weight,
        bias=bias,
        strides=strides,
        dilations=dilations,
        groups=groups,
        **parameters,
    )


def _conv_transpose(rng: Rng) -> Case:
    groups, size = int(rng.integers(1, 3)), int(rng.integers(3, 6))
    channels, outputs = groups * 2, groups * int(rng.integers(1, 3))
    kernel, strides = int(rng.integers(2, 5)), int(rng.integers(1, 4))
    x, weight = floats(rng, 1, channels, size, size), floats(rng, channels, outputs // groups, kernel, kernel)
    bias = floats(rng, outputs)
    length = (size - 1) * strides + kernel
    full = np.zeros((1, outputs, length, length))
    for group in range(groups):
        inputs = slice(group * 2, group * 2 + 2)
        target = slice(group * outputs // groups, (group + 1) * outputs // groups)
        for row in range(kernel):
            for column in range(kernel):
                product = np.einsum("nchw,co->nohw", x[:, inputs], weight[inputs, :, row, column])
                full[
                    :,
                    target,
                    row : row + (size - 1) * strides + 1 : strides,
                    column : column + (size - 1) * strides + 1 : strides,
                ] += product
    full += bias[:, None, None]
    common: dict[str, Any] = {"weight": weight, "bias": bias, "strides": [strides, strides], "groups": groups}
    if rng.random() < 0.5:
        return case("conv_transpose", {"x": x}, full, **common, pad_type="valid")
    return case("conv_transpose", {"x": x}, full[:, :, 1:, :-1], **common, pad_type="custom", pad=[1, 0, 0, 1])


def _conv_transpose_output(rng: Rng) -> Case:
    """PyTorch's output_padding, which coremltools writes as output_shape."""
    x, weight, bias = floats(rng, 1, 2, 4, 5), floats(rng, 2, 3, 3, 3), floats(rng, 3)
    extra = int(rng.integers(0, 2))
    tensors = [torch.from_numpy(each) for each in (x, weight, bias)]
    expected = F.conv_transpose2d(tensors[0], tensors[1], tensors[2], stride=2, padding=1, output_padding=extra)
    return case(
        "conv_transpose",
        {"x": x},
        expected.numpy(),
        weight=weight,
        bias=bias,
        strides=[2, 2],
        pad_type="custom",
        pad=[1, 1, 1, 1],
        output_shape=list(expected.shape),
    )


def _pool(name: str) -> Maker:
    def make(rng: Rng) -> Case:
        dimensions = int(rng.integers(1, 3))
        kernel = [int(each) for each in rng.integers(2, 4, dimensions)]
        strides = [int(rng.integers(1, size + 1)) for size in kernel]
        x = floats(rng, 2, 3, *rng.integers(5, 9, dimensions))
        pads, parameters = _padding(rng, x, kernel, strides, True)
        windows = _windows(x, kernel, strides, [1] * dimensions, pads, np.nan)
        over = tuple(range(-dimensions, 0))
        if name == "max_pool":
            expected = np.nanmax(windows, over)
        elif name == "l2_pool":
            expected = np.sqrt(np.nansum(windows**2, over))
        else:
            excluded = bool(rng.random() < 0.5)
            parameters["exclude_padding_from_average"] = excluded
            expected = np.nanmean(windows, over) if excluded else np.nan_to_num(windows).mean(over)
        return case(name, {"x": x}, expected, 16, kernel_sizes=kernel, strides=strides, **parameters)

    return make


def _pool_ceil(rng: Rng) -> Case:
    """Against PyTorch's own ceil_mode."""
    kernel, x = int(rng.integers(2, 4)), floats(rng, 1, 2, *rng.integers(5, 10, 2))
    stride, pad = int(rng.integers(1, kernel + 1)), int(rng.integers(0, kernel // 2 + 1))
    common: dict[str, Any] = {
        "kernel_sizes": [kernel] * 2,
        "strides": [stride] * 2,
        "pad_type": "custom",
        "pad": [pad] * 4,
        "ceil_mode": True,
    }
    tensor = torch.from_numpy(x)
    if rng.random() < 0.5:
        return case("max_pool", {"x": x}, F.max_pool2d(tensor, kernel, stride, pad, ceil_mode=True).numpy(), **common)
    excluded = bool(rng.random() < 0.5)
    expected = F.avg_pool2d(tensor, kernel, stride, pad, ceil_mode=True, count_include_pad=not excluded).numpy()
    return case("avg_pool", {"x": x}, expected, exclude_padding_from_average=excluded, **common)


def _scale(rng: Rng, channels: int) -> dict[str, Any]:
    return {"gamma": floats(rng, channels), "beta": floats(rng, channels)} if rng.random() < 0.7 else {}


def _batch_norm(rng: Rng) -> Case:
    x = floats(rng, *sizes(rng, int(rng.integers(3, 5))))
    mean, variance, scale = floats(rng, x.shape[1]), floats(rng, x.shape[1], low=0.1, high=2), _scale(rng, x.shape[1])
    channels = (1, -1, *[1] * (x.ndim - 2))
    expected = (x - mean.reshape(channels)) / np.sqrt(variance.reshape(channels).astype(np.float64) + 1e-3)
    if scale:
        expected = expected * scale["gamma"].reshape(channels) + scale["beta"].reshape(channels)
    return case("batch_norm", {"x": x}, expected, mean=mean, variance=variance, epsilon=np.float32(1e-3), **scale)


def _instance_norm(rng: Rng) -> Case:
    x = floats(rng, 2, 3, *rng.integers(3, 6, 2))
    scale = _scale(rng, 3)
    gamma, beta = (torch.from_numpy(each) for each in scale.values()) if scale else (None, None)
    expected = F.instance_norm(torch.from_numpy(x), None, None, gamma, beta, eps=1e-3)
    return case("instance_norm", {"x": x}, expected.numpy(), epsilon=np.float32(1e-3), **scale)


def _layer_norm(rng: Rng) -> Case:
    x, axes = floats(rng, 2, 3, 4, 5), pick(rng, [-1], [1], [2, 3], [1, 3], [-1, 1])
    over = tuple(sorted(axis % 4 for axis in axes))
    shape = [x.shape[axis] for axis in over]
    wide = x.astype(np.float64)
    centred = wide - wide.mean(over, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(over, keepdims=True) + 1e-3)
    scale: dict[str, Any] = {}
    if rng.random() < 0.7:
        scale = {"gamma": floats(rng, *shape), "beta": floats(rng, *shape)}
        spread = [x.shape[axis] if axis in over else 1 for axis in range(4)]
        expected = expected * scale["gamma"].reshape(spread) + scale["beta"].reshape(spread)
    return case("layer_norm", {"x": x}, expected, axes=axes, epsilon=np.float32(1e-3), **scale)


def _l2_norm(rng: Rng) -> Case:
    x = floats(rng, *sizes(rng, 4))
    norm = np.sqrt((x.astype(np.float64) ** 2).sum((1, 2, 3), keepdims=True) + 1e-3)
    return case("l2_norm", {"x": x}, x / norm, epsilon=np.float32(1e-3))


def _local_response_norm(rng: Rng) -> Case:
    x, size = floats(rng, 2, 7, 3, 4), 3
    squares = np.pad(x.astype(np.float64) ** 2, [(0, 0), (1, 1), (0, 0), (0, 0)])
    neighbours = squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]
    expected = x / (1.5 + 0.3 / size * neighbours) ** 0.6
    return case(
        "local_response_norm",
        {"x": x},
        expected,
        size=size,
        alpha=np.float32(0.3),
        beta=np.float32(0.6),
        k=np.float32(1.5),
    )


PRODUCT_CASES: dict[str, Maker] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "conv_transpose (output shape)": _conv_transpose_output,
    "einsum": _einsum,
    "linear": _linear,
    "matmul": _matmul,
    "scaled_dot_product_attention": _attention,
}

WINDOW_CASES: dict[str, Maker] = {
    "avg_pool": _pool("avg_pool"),
    "l2_pool": _pool("l2_pool"),
    "max_pool": _pool("max_pool"),
    "max_pool, avg_pool (ceil mode)": _pool_ceil,
}

NORMALIZATION_CASES: dict[str, Maker] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "l2_norm": _l2_norm,
    "layer_norm": _layer_norm,
    "local_response_norm": _local_response_norm,
}
