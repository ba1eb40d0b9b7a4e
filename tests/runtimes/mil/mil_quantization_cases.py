"""Cases of quantized activations and compressed constants, against loops over the definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
from mil_elementwise_cases import Maker, floats, pick, sizes
from mil_programs import Case, case, coremltools

Rng = np.random.Generator


def typed(array: np.ndarray, name: str) -> np.ndarray:
    """An array that coremltools takes for one of a sub-byte type."""
    coremltools()
    from coremltools.converters.mil.mil import types

    return array.astype(types.nptype_from_builtin(types.string_to_builtin(name)))


def _codes(rng: Rng, name: str, *shape: int) -> np.ndarray:
    bits = int(name.removeprefix("u").removeprefix("int"))
    low = 0 if name.startswith("u") else -(1 << (bits - 1))
    return rng.integers(low, low + (1 << bits), shape)


def _packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers in bytes, lowest bits first: one long number in base 2."""
    total = sum(int(number) << (index * bits) for index, number in enumerate(numbers.reshape(-1)))
    return np.frombuffer(total.to_bytes((numbers.size * bits + 7) // 8, "little"), np.uint8)


def _quantize(rng: Rng) -> Case:
    x, kind = floats(rng, *sizes(rng, 3), low=-30, high=30), pick(rng, "int8", "uint8")
    x = np.round(x * 2) / 2  # halves, too
    axis = pick(rng, None, 0, -2)
    count = () if axis is None else (x.shape[axis],)
    scale: Any = np.float32(2.0) ** rng.integers(-3, 2, count)
    zero = rng.integers(0, 20, count).astype(kind)
    spread = [slice(None) if axis is not None and index == axis % 3 else None for index in range(3)]
    along = (lambda each: each) if axis is None else (lambda each: each[tuple(spread)])
    limits = np.iinfo(kind)
    constants: dict[str, Any] = {"scale": scale.astype(np.float32) if axis is not None else np.float32(scale)}
    codes = np.round(x / along(scale))
    if rng.random() < 0.7:
        constants["zero_point"] = zero if axis is not None else zero[()]
        codes = codes + along(zero.astype(np.int32))
    if axis is not None:
        constants["axis"] = axis
    return case("quantize", {"input": x}, np.clip(codes, limits.min, limits.max), 17, **constants, output_dtype=kind)


def _dequantize(rng: Rng) -> Case:
    kind = pick(rng, "int8", "uint8")
    codes = _codes(rng, kind, *sizes(rng, 3)).astype(kind)
    axis = int(rng.integers(-3, 3))
    scale, zero = floats(rng, codes.shape[axis]), _codes(rng, kind, codes.shape[axis]).astype(kind)
    expected = np.moveaxis((np.moveaxis(codes, axis, -1).astype(np.float64) - zero) * scale, -1, axis)
    return case("dequantize", {"input": codes}, expected, 17, scale=scale, zero_point=zero, axis=axis)


def _affine(rng: Rng) -> Case:
    codes, axis = rng.integers(-128, 128, (4, 5, 3)).astype(np.int8), int(rng.integers(-3, 3))
    scale: Any
    zero: Any
    if rng.random() < 0.3:
        scale, zero = np.array(0.25, np.float32), np.array(-7, np.int8)
        expected = (codes.astype(np.float64) - zero) * scale
    else:
        scale, zero = floats(rng, codes.shape[axis]), rng.integers(-9, 9, codes.shape[axis]).astype(np.int8)
        expected = np.moveaxis((np.moveaxis(codes, axis, -1).astype(np.float64) - zero) * scale, -1, axis)
    return case(
        "constexpr_affine_dequantize",
        {},
        expected,
        16,
        quantized_data=codes,
        scale=scale,
        zero_point=zero,
        axis=np.int32(axis),
    )


def _blockwise(rng: Rng) -> Case:
    kind = pick(rng, "int4", "uint4", "int8", "uint8")
    blocks = sizes(rng, 3, 3)
    times = sizes(rng, 3, 3)
    codes = _codes(rng, kind, *(block * size for block, size in zip(blocks, times)))
    scale, offset = floats(rng, *blocks), _codes(rng, kind, *blocks)
    use_offset = rng.random() < 0.5
    expected = np.zeros(codes.shape)
    for at in np.ndindex(codes.shape):
        block = tuple(index // size for index, size in zip(at, times))
        expected[at] = (codes[at] - (offset[block] if use_offset else 0)) * scale[block]
    optional: dict[str, Any] = {"offset": typed(offset, kind)} if use_offset else {}
    return case("constexpr_blockwise_shift_scale", {}, expected, 18, data=typed(codes, kind), scale=scale, **optional)


def _lut_packed(rng: Rng) -> Case:
    bits, shape = pick(rng, 1, 2, 4, 6, 8), sizes(rng, 3, 6)
    table, codes = floats(rng, 1 << bits), rng.integers(0, 1 << bits, shape)
    return case(
        "constexpr_lut_to_dense",
        {},
        table[codes],
        16,
        17,
        indices=_packed(codes, bits),
        lut=table,
        shape=np.array(shape, np.uint32),
    )


def _lut_tables(rng: Rng) -> tuple[int, list[int], np.ndarray, np.ndarray, int]:
    bits, blocks, times = pick(rng, 1, 2, 3, 4, 6, 8), sizes(rng, 2, 2), sizes(rng, 2, 4)
    codes = rng.integers(0, 1 << bits, [block * size for block, size in zip(blocks, times)])
    vector = pick(rng, 1, 1, 2, 3)
    return bits, times, codes, floats(rng, *blocks, 1 << bits, vector), vector


def _looked_up(codes: np.ndarray, tables: np.ndarray, times: list[int], vector: int, axis: int) -> np.ndarray:
    shape = [size * (vector if index == axis else 1) for index, size in enumerate(codes.shape)]
    expected = np.zeros(shape)
    for at in np.ndindex(*shape):
        source = tuple(index // vector if dimension == axis else index for dimension, index in enumerate(at))
        block = tuple(index // size for index, size in zip(source, times))
        expected[at] = tables[(*block, codes[source], at[axis] % vector)]
    return expected


def _lut_blocks(rng: Rng) -> Case:
    bits, times, codes, tables, vector = _lut_tables(rng)
    axis = int(rng.integers(0, 2))
    optional: dict[str, Any] = {"vector_axis": np.int32(axis)} if vector > 1 else {}
    return case(
        "constexpr_lut_to_dense",
        {},
        _looked_up(codes, tables, times, vector, axis),
        18,
        indices=typed(codes, f"uint{bits}"),
        lut=tables,
        **optional,
    )


def _sparse_packed(rng: Rng) -> Case:
    shape = sizes(rng, 3, 6)
    mask = rng.random(shape) < 0.4
    mask.flat[0] = True
    expected = np.where(mask, floats(rng, *shape), 0)
    return case(
        "constexpr_sparse_to_dense",
        {},
        expected,
        16,
        17,
        nonzero_data=expected[mask],
        mask=_packed(mask, 1),
        shape=np.array(shape, np.uint32),
    )


def _sparse(rng: Rng) -> Case:
    shape = sizes(rng, 3, 6)
    mask = rng.random(shape) < 0.4
    mask.flat[0] = True
    expected = np.where(mask, floats(rng, *shape), 0)
    return case("constexpr_sparse_to_dense", {}, expected, 18, nonzero_data=expected[mask], mask=typed(mask, "uint1"))


def _lut_sparse(rng: Rng) -> Case:
    bits, times, codes, tables, vector = _lut_tables(rng)
    axis = int(rng.integers(0, 2))
    mask = rng.random(codes.shape) < 0.5
    mask.flat[0] = True
    wide = np.repeat(mask, vector, axis)
    optional: dict[str, Any] = {"vector_axis": np.int32(axis)} if vector > 1 else {}
    return case(
        "constexpr_lut_to_sparse",
        {},
        np.where(wide, _looked_up(codes, tables, times, vector, axis), 0),
        18,
        indices_mask=typed(mask, "uint1"),
        indices_nonzero_data=typed(codes[mask], f"uint{bits}"),
        lut=tables,
        **optional,
    )


def _sparse_blockwise(rng: Rng) -> Case:
    rows, columns = sizes(rng, 2, 6)
    mask = rng.random((rows, columns)) < 0.5
    mask.flat[0] = True
    codes, scale, offset = _codes(rng, "int8", rows, columns), floats(rng, 1, columns), _codes(rng, "int8", 1, columns)
    dense = (codes - offset) * scale
    return case(
        "constexpr_sparse_blockwise_shift_scale",
        {},
        np.where(mask, dense, 0),
        18,
        data_mask=typed(mask, "uint1"),
        nonzero_data=codes[mask].astype(np.int8),
        scale=scale,
        offset=offset.astype(np.int8),
    )


def _constexpr_cast(rng: Rng) -> Case:
    half = floats(rng, *sizes(rng, 3)).astype(np.float16)
    return case("constexpr_cast", {}, half, 16, source_val=half, output_dtype="fp32")


QUANTIZATION_CASES: dict[str, Maker] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _blockwise,
    "constexpr_cast": _constexpr_cast,
    "constexpr_lut_to_dense": _lut_blocks,
    "constexpr_lut_to_dense (packed)": _lut_packed,
    "constexpr_lut_to_sparse": _lut_sparse,
    "constexpr_sparse_blockwise_shift_scale": _sparse_blockwise,
    "constexpr_sparse_to_dense": _sparse,
    "constexpr_sparse_to_dense (packed)": _sparse_packed,
    "dequantize": _dequantize,
    "quantize": _quantize,
}
