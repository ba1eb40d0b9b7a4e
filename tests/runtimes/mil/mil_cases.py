"""Cases of every operator: random shapes and parameters, and results by numpy, scipy or loops over the definition."""

from collections.abc import Callable
from typing import Any

import numpy as np
from mil_programs import Case, case, typed
from numpy.lib.stride_tricks import sliding_window_view
from scipy import special  # type: ignore[import-untyped]

Rng = np.random.Generator
Maker = Callable[[Rng], Case]


def floats(rng: Rng, *shape: int, low: float = -3.0, high: float = 3.0) -> np.ndarray:
    """Uniform float32."""
    return rng.uniform(low, high, shape).astype(np.float32)


def sizes(rng: Rng, rank: int, high: int = 5) -> list[int]:
    """Random sizes of dimensions, 1 included."""
    return [int(size) for size in rng.integers(1, high + 1, rank)]


def pick(rng: Rng, *choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _flip(rng: Rng) -> bool:
    return bool(rng.random() < 0.5)


# Elementwise


def _unary(name: str, oracle: Callable[[Any], Any]) -> Maker:
    def make(rng: Rng) -> Case:
        x = floats(rng, *sizes(rng, int(rng.integers(1, 5))))
        return case(name, {"x": x}, oracle(x.astype(np.float64)))

    return make


def _binary(name: str, oracle: Callable[[Any, Any], Any], kind: str = "any") -> Maker:
    def make(rng: Rng) -> Case:
        shape = sizes(rng, 3)
        broadcast = [size if rng.random() < 0.6 else 1 for size in shape][int(rng.integers(0, 3)) :]
        x, y = (np.round(rng.uniform(-4, 4, each) * 4) / 4 for each in (shape, broadcast))
        if kind == "divisor":
            y = np.where(y == 0, 1, y)
        form = np.int32 if kind == "any" and rng.random() < 0.4 else np.float32
        x, y = x.astype(form), y.astype(form)
        wide = np.int64 if form is np.int32 else np.float64
        return case(name, {"x": x, "y": y}, oracle(x.astype(wide), y.astype(wide)))

    return make


def _cast(rng: Rng) -> Case:
    x, to = floats(rng, *sizes(rng, 3), low=-90, high=90), pick(rng, "int32", "fp32", "bool", "fp16")
    form: Any = {"int32": np.int32, "fp32": np.float32, "bool": np.bool_, "fp16": np.float16}[to]
    if to == "bool":
        x = np.round(x / 90).astype(np.float32)
    return case("cast", {"x": x}, x.astype(form), dtype=to)


def _gelu(rng: Rng) -> Case:
    x, mode = floats(rng, *sizes(rng, 3), low=-5, high=5), pick(rng, "EXACT", "TANH_APPROXIMATION")
    wide = x.astype(np.float64)
    tanh = 0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    return case("gelu", {"x": x}, wide * special.ndtr(wide) if mode == "EXACT" else tanh, mode=mode)


def _shifted(operator: str, oracle: Callable[[Any], Any]) -> Maker:
    """An operator that adds its epsilon to positive inputs first."""

    def make(rng: Rng) -> Case:
        x = np.abs(floats(rng, *sizes(rng, 3))) + np.float32(0.1)
        return case(operator, {"x": x}, oracle(x.astype(np.float64) + 0.25), epsilon=0.25)

    return make


def _select(rng: Rng) -> Case:
    shape = sizes(rng, 3)
    condition, a, b = rng.random(shape) < 0.5, floats(rng, *shape), floats(rng, *shape)
    return case("select", {"cond": condition, "a": a, "b": b}, np.where(condition, a, b))


def _softmax(rng: Rng) -> Case:
    x, axis = floats(rng, *sizes(rng, 3), low=-9, high=9), int(rng.integers(-3, 3))
    return case("softmax", {"x": x}, special.softmax(x.astype(np.float64), axis), axis=axis)


# Reduction and order


def _reduction(name: str, oracle: Callable[..., Any]) -> Maker:
    def make(rng: Rng) -> Case:
        x, axes, keep = floats(rng, *sizes(rng, 4)), pick(rng, [0], [-1], [1, 2], [-1, 0], None), _flip(rng)
        constants: dict[str, Any] = {"keep_dims": keep} if axes is None else {"axes": axes, "keep_dims": keep}
        over = None if axes is None else tuple(axes)
        return case(name, {"x": x}, oracle(x.astype(np.float64), axis=over, keepdims=keep), **constants)

    return make


def _topk(rng: Rng) -> Case:
    x = rng.integers(0, 5, sizes(rng, 3, 7)).astype(np.float32)  # with ties: the lower index comes first
    axis, ascending = int(rng.integers(-3, 3)), _flip(rng)
    k = int(rng.integers(1, x.shape[axis] + 1))
    indices = np.argsort(x if ascending else -x, axis, kind="stable").take(range(k), axis)
    expected = [np.take_along_axis(x, indices, axis), indices]
    constants: dict[str, Any] = {"k": k, "axis": axis, "ascending": ascending}
    form = pick(rng, "plain", "values", "uint16")
    if form == "values":
        return case("topk", {"x": x}, expected[:1], 16, **constants, return_indices=False)
    if form == "uint16":
        return case("topk", {"x": x}, expected, 17, **constants, output_indices_dtype="uint16")
    return case("topk", {"x": x}, expected, **constants)


# Products


def _linear(rng: Rng) -> Case:
    x, outputs = floats(rng, *sizes(rng, 3)), int(rng.integers(1, 6))
    weight, bias = floats(rng, outputs, x.shape[-1]), floats(rng, outputs)
    if _flip(rng):
        return case("linear", {"x": x}, x @ weight.T + bias, weight=weight, bias=bias)
    return case("linear", {"x": x}, x @ weight.T, weight=weight)


def _matmul(rng: Rng) -> Case:
    rows, inner, columns, batch = sizes(rng, 4)
    x, y = floats(rng, batch, 2, rows, inner), floats(rng, 2, inner, columns)
    expected, turn_x, turn_y = x @ y, _flip(rng), _flip(rng)
    x, y = (np.ascontiguousarray(each.swapaxes(-1, -2)) if turn else each for each, turn in ((x, turn_x), (y, turn_y)))
    return case("matmul", {"x": x, "y": y}, expected, transpose_x=turn_x, transpose_y=turn_y)


def _padding(rng: Rng, dimensions: int) -> tuple[list[tuple[int, int]], dict[str, Any]]:
    """Elements before and after each spatial dimension, and the operator's parameters."""
    if _flip(rng):
        return [(0, 0)] * dimensions, {"pad_type": "valid"}
    sides = [(int(size), int(size)) for size in rng.integers(0, 3, dimensions)]
    return sides, {"pad_type": "custom", "pad": [each for side in sides for each in side]}


def _windows(x: np.ndarray, kernel: list[int], strides: list[int], dilations: list[int], sides: Any) -> Any:
    """``(N, C, *positions, *kernel)``."""
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *sides])
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations)]
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    return sliding_window_view(padded, extents, tuple(range(2, x.ndim)))[(slice(None), slice(None), *steps)]


def _conv(rng: Rng) -> Case:
    dimensions, groups = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    channels, outputs = groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 3))
    kernel, strides, dilations = ([int(each) for each in rng.integers(1, 3, dimensions)] for _ in range(3))
    x = floats(rng, 2, channels, *rng.integers(7, 10, dimensions))
    weight, bias = floats(rng, outputs, channels // groups, *kernel), floats(rng, outputs)
    sides, parameters = _padding(rng, dimensions)
    windows = _windows(x, kernel, strides, dilations, sides)
    places, taps = "hw"[:dimensions], "kl"[:dimensions]
    parts = [
        np.einsum(f"nc{places}{taps},oc{taps}->no{places}", part, filters)
        for part, filters in zip(np.split(windows, groups, 1), np.split(weight, groups, 0))
    ]
    expected = np.concatenate(parts, 1) + bias.reshape(1, -1, *[1] * dimensions)
    parameters |= {"weight": weight, "bias": bias, "strides": strides, "dilations": dilations, "groups": groups}
    return case("conv", {"x": x}, expected, 16, **parameters)


# Normalization


def _layer_norm(rng: Rng) -> Case:
    x, axes = floats(rng, 2, 3, 4, 5), pick(rng, [-1], [1], [2, 3], [1, 3], [-1, 1])
    over = tuple(sorted(axis % 4 for axis in axes))
    shape, spread = [x.shape[axis] for axis in over], [x.shape[axis] if axis in over else 1 for axis in range(4)]
    centred = x.astype(np.float64) - x.astype(np.float64).mean(over, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(over, keepdims=True) + 1e-3)
    scale: dict[str, Any] = {"gamma": floats(rng, *shape), "beta": floats(rng, *shape)} if _flip(rng) else {}
    if scale:
        expected = expected * scale["gamma"].reshape(spread) + scale["beta"].reshape(spread)
    return case("layer_norm", {"x": x}, expected, axes=axes, epsilon=np.float32(1e-3), **scale)


# Shape and indexing


def _concat(rng: Rng) -> Case:
    shape, axis, values, interleave = sizes(rng, 3), int(rng.integers(-3, 3)), [], _flip(rng)
    for _ in range(3):
        shape[axis] = shape[axis] if interleave else int(rng.integers(1, 4))
        values.append(floats(rng, *shape))
    expected = np.concatenate(values, axis)
    if interleave:
        in_turns = [3 * size if index == axis % 3 else size for index, size in enumerate(shape)]
        expected = np.stack(values, axis % 3 + 1).reshape(in_turns)
    return case("concat", {"values": list(values)}, expected, axis=axis, interleave=interleave)


def _expand_dims(rng: Rng) -> Case:
    x, axes = floats(rng, *sizes(rng, 2)), pick(rng, [0], [1, 3], [-1], [0, -1], [2, 3])
    return case("expand_dims", {"x": x}, np.expand_dims(x, tuple(axes)), axes=axes)


def _reshape(rng: Rng) -> Case:
    x = floats(rng, 2, 3, 4)
    shape = pick(rng, [6, -1], [0, -1, 2], [24], [-1, 0, 0], [2, 3, 2, 2])
    expected = {(0, -1, 2): (2, 6, 2), (-1, 0, 0): (2, 3, 4)}.get(tuple(shape), tuple(shape))
    return case("reshape", {"x": x}, x.reshape(expected), shape=shape)


def _reshape_from_the_right(rng: Rng) -> Case:
    x = floats(rng, 2, 50)
    return case("reshape", {"x": x}, x.reshape(1, 1, 2, 50), 17, shape=[1, 0, -1, 0])


def _slice_by_index(rng: Rng) -> Case:
    x = floats(rng, *rng.integers(3, 7, 3))
    begin, end, stride, masks, slices = [], [], [], [], []
    for size in x.shape:
        first, last = sorted(int(each) for each in rng.choice(size + 1, 2, replace=False))
        step, (from_start, to_end, single) = int(rng.integers(1, 3)), (bool(each) for each in rng.random(3) < 0.3)
        if single:
            from_start, step, first = False, 1, int(rng.integers(-size, size))
        elif first > 0 and rng.random() < 0.3:
            first -= size
        begin.append(first)
        end.append(last)
        stride.append(step)
        masks.append((from_start, to_end, single))
        slices.append(first if single else slice(None if from_start else first, None if to_end else last, step))
    names: dict[str, Any] = dict(zip(("begin_mask", "end_mask", "squeeze_mask"), zip(*masks)))
    return case("slice_by_index", {"x": x}, x[tuple(slices)], begin=begin, end=end, stride=stride, **names)


def _split(rng: Rng) -> Case:
    x = floats(rng, 2, 6, 3)
    if _flip(rng):
        return case("split", {"x": x}, np.split(x, 3, 1), num_splits=3, axis=1)
    return case("split", {"x": x}, np.split(x, [1, 3], -2), split_sizes=[1, 2, 3], axis=-2)


def _squeeze(rng: Rng) -> Case:
    x, axes = floats(rng, 1, 3, 1, 2), pick(rng, None, [0], [2], [0, -2])
    if axes is None:
        return case("squeeze", {"x": x}, np.squeeze(x))
    return case("squeeze", {"x": x}, np.squeeze(x, tuple(axes)), axes=axes)


def _transpose(rng: Rng) -> Case:
    x, order = floats(rng, *sizes(rng, 4)), rng.permutation(4)
    return case("transpose", {"x": x}, x.transpose(order), perm=order.tolist())


def _gather(rng: Rng) -> Case:
    x, axis = floats(rng, *sizes(rng, 3)), int(rng.integers(-3, 3))
    low = -x.shape[axis] if _flip(rng) else 0
    indices = rng.integers(low, x.shape[axis], sizes(rng, int(rng.integers(1, 3)))).astype(np.int32)
    return case("gather", {"x": x, "indices": indices}, np.take(x, indices, axis), axis=axis)


# Quantization and compressed constants


def _codes(rng: Rng, name: str, *shape: int) -> np.ndarray:
    bits = int(name.removeprefix("u").removeprefix("int"))
    low = 0 if name.startswith("u") else -(1 << (bits - 1))
    return rng.integers(low, low + (1 << bits), shape)


def _quantize(rng: Rng) -> Case:
    x, kind, axis = floats(rng, *sizes(rng, 3), low=-30, high=30), pick(rng, "int8", "uint8"), pick(rng, None, 0, -2)
    x = np.round(x * 2) / 2  # halves, too
    count = () if axis is None else (x.shape[axis],)
    scale = np.asarray(np.float32(2.0) ** rng.integers(-3, 2, count), np.float32)
    zero = np.asarray(rng.integers(0, 20, count)).astype(kind)
    along = [1] * 3
    if axis is not None:
        along[axis] = -1
    codes = np.round(x / scale.reshape(along))
    constants: dict[str, Any] = {"scale": scale[()]} if axis is None else {"scale": scale, "axis": axis}
    if rng.random() < 0.7:
        constants["zero_point"] = zero[()]
        codes = codes + zero.astype(np.int32).reshape(along)
    limits = np.iinfo(kind)
    return case("quantize", {"input": x}, np.clip(codes, limits.min, limits.max), 17, **constants, output_dtype=kind)


def _dequantized(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis((np.moveaxis(codes, axis, -1).astype(np.float64) - zero) * scale, -1, axis)


def _dequantize(rng: Rng) -> Case:
    kind, axis = pick(rng, "int8", "uint8"), int(rng.integers(-3, 3))
    codes = _codes(rng, kind, *sizes(rng, 3)).astype(kind)
    scale, zero = floats(rng, codes.shape[axis]), _codes(rng, kind, codes.shape[axis]).astype(kind)
    expected = _dequantized(codes, scale, zero, axis)
    return case("dequantize", {"input": codes}, expected, 17, scale=scale, zero_point=zero, axis=axis)


def _affine(rng: Rng) -> Case:
    codes, axis = rng.integers(-128, 128, (4, 5, 3)).astype(np.int8), int(rng.integers(-3, 3))
    count = () if rng.random() < 0.3 else codes.shape[axis]
    scale, zero = np.asarray(rng.uniform(-3, 3, count), np.float32), np.asarray(rng.integers(-9, 9, count), np.int8)
    parameters: dict[str, Any] = {"quantized_data": codes, "scale": scale, "zero_point": zero, "axis": np.int32(axis)}
    return case("constexpr_affine_dequantize", {}, _dequantized(codes, scale, zero, axis), 16, **parameters)


def _blockwise(rng: Rng) -> Case:
    kind, blocks, times = pick(rng, "int4", "uint4", "int8", "uint8"), sizes(rng, 3, 3), sizes(rng, 3, 3)
    codes = _codes(rng, kind, *(block * size for block, size in zip(blocks, times)))
    scale, offset, use_offset = floats(rng, *blocks), _codes(rng, kind, *blocks), _flip(rng)
    expected = np.zeros(codes.shape)
    for at in np.ndindex(codes.shape):
        block = tuple(index // size for index, size in zip(at, times))
        expected[at] = (codes[at] - (offset[block] if use_offset else 0)) * scale[block]
    optional: dict[str, Any] = {"offset": typed(offset, kind)} if use_offset else {}
    return case("constexpr_blockwise_shift_scale", {}, expected, 18, data=typed(codes, kind), scale=scale, **optional)


def _lut_packed(rng: Rng) -> Case:
    bits, shape = pick(rng, 1, 2, 4, 6, 8), sizes(rng, 3, 6)
    table, codes = floats(rng, 1 << bits), rng.integers(0, 1 << bits, shape)
    # One long number in base 2, lowest bits first.
    total = sum(int(number) << (index * bits) for index, number in enumerate(codes.reshape(-1)))
    packed = np.frombuffer(total.to_bytes((codes.size * bits + 7) // 8, "little"), np.uint8)
    parameters: dict[str, Any] = {"indices": packed, "lut": table, "shape": np.array(shape, np.uint32)}
    return case("constexpr_lut_to_dense", {}, table[codes], 16, 17, **parameters)


def _lut_blocks(rng: Rng) -> Case:
    bits, blocks, times = pick(rng, 1, 2, 3, 4, 6, 8), sizes(rng, 2, 2), sizes(rng, 2, 4)
    codes = rng.integers(0, 1 << bits, [block * size for block, size in zip(blocks, times)])
    tables, expected = floats(rng, *blocks, 1 << bits, 1), np.zeros(codes.shape)
    for at in np.ndindex(*codes.shape):
        expected[at] = tables[(*(index // size for index, size in zip(at, times)), codes[at], 0)]
    return case("constexpr_lut_to_dense", {}, expected, 18, indices=typed(codes, f"uint{bits}"), lut=tables)


CASES: dict[str, dict[str, Maker]] = {
    "elementwise": {
        "add": _binary("add", np.add),
        "cast": _cast,
        "equal": _binary("equal", np.equal),
        "exp": _unary("exp", np.exp),
        "gelu": _gelu,
        "greater": _binary("greater", np.greater),
        "greater_equal": _binary("greater_equal", np.greater_equal),
        "identity": _unary("identity", lambda x: x),
        "log": _shifted("log", np.log),
        "maximum": _binary("maximum", np.maximum),
        "mul": _binary("mul", np.multiply),
        "real_div": _binary("real_div", np.true_divide, "divisor"),
        "rsqrt": _shifted("rsqrt", lambda x: 1 / np.sqrt(x)),
        "relu": _unary("relu", lambda x: np.maximum(x, 0)),
        "sigmoid": _unary("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        "silu": _unary("silu", lambda x: x / (1 + np.exp(-x))),
        "select": _select,
        "softmax": _softmax,
        "sub": _binary("sub", np.subtract),
    },
    "reduction and order": {
        "reduce_max": _reduction("reduce_max", np.max),
        "reduce_mean": _reduction("reduce_mean", np.mean),
        "reduce_sum": _reduction("reduce_sum", np.sum),
        "topk": _topk,
    },
    "products": {"conv": _conv, "linear": _linear, "matmul": _matmul},
    "normalization": {"layer_norm": _layer_norm},
    "shape": {
        "concat": _concat,
        "expand_dims": _expand_dims,
        "reshape": _reshape,
        "reshape (zeros from the right)": _reshape_from_the_right,
        "slice_by_index": _slice_by_index,
        "split": _split,
        "squeeze": _squeeze,
        "transpose": _transpose,
    },
    "indexing": {"gather": _gather},
    "quantization and compressed constants": {
        "constexpr_affine_dequantize": _affine,
        "constexpr_blockwise_shift_scale": _blockwise,
        "constexpr_lut_to_dense": _lut_blocks,
        "constexpr_lut_to_dense (packed)": _lut_packed,
        "dequantize": _dequantize,
        "quantize": _quantize,
    },
}
"""Kind of operator -> label, which begins with the operators' names -> case."""
