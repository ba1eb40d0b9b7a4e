"""Cases of operators that move elements, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from mil_elementwise_cases import Maker, floats, pick, sizes
from mil_programs import Case, case

Rng = np.random.Generator


def _band_part(rng: Rng) -> Case:
    x = floats(rng, *sizes(rng, 3, 6))
    lower, upper = (int(each) for each in rng.integers(-1, 4, 2))
    row, column = np.indices(x.shape[-2:])
    keep = ((row - column <= lower) | (lower < 0)) & ((column - row <= upper) | (upper < 0))
    return case("band_part", {"x": x}, np.where(keep, x, 0), lower=lower, upper=upper)


def _concat(rng: Rng) -> Case:
    shape, axis = sizes(rng, 3), int(rng.integers(-3, 3))
    if rng.random() < 0.5:
        values = [floats(rng, *shape) for _ in range(3)]
        expected = np.stack(values, axis % 3 + 1).reshape(
            [size * 3 if index == axis % 3 else size for index, size in enumerate(shape)]
        )
        return case("concat", {"values": list(values)}, expected, axis=axis, interleave=True)
    values = []
    for _ in range(3):
        shape[axis] = int(rng.integers(1, 4))
        values.append(floats(rng, *shape))
    return case("concat", {"values": list(values)}, np.concatenate(values, axis), axis=axis)


def _crop(rng: Rng) -> Case:
    x = floats(rng, 2, 3, 7, 8)
    top, bottom, left, right = (int(each) for each in rng.integers(0, 3, 4))
    return case(
        "crop",
        {"x": x},
        x[..., top : 7 - bottom, left : 8 - right],
        crop_height=[top, bottom],
        crop_width=[left, right],
    )


def _depth_to_space(rng: Rng) -> Case:
    block, batch, depth, height, width = int(rng.integers(2, 4)), *sizes(rng, 4, 3)
    x = floats(rng, batch, depth * block * block, height, width)
    expected = np.zeros((batch, depth, height * block, width * block))
    for row in range(block):
        for column in range(block):
            channels = slice((row * block + column) * depth, (row * block + column + 1) * depth)
            expected[:, :, row::block, column::block] = x[:, channels]
    return case("depth_to_space", {"x": x}, expected, block_size=block)


def _space_to_depth(rng: Rng) -> Case:
    block, batch, depth, height, width = int(rng.integers(2, 4)), *sizes(rng, 4, 3)
    x = floats(rng, batch, depth, height * block, width * block)
    parts = [x[:, :, row::block, column::block] for row in range(block) for column in range(block)]
    return case("space_to_depth", {"x": x}, np.concatenate(parts, 1), block_size=block)


def _pixel_shuffle(rng: Rng) -> Case:
    factor, batch, depth, height, width = int(rng.integers(2, 4)), *sizes(rng, 4, 3)
    x = floats(rng, batch, depth * factor * factor, height, width)
    expected = np.zeros((batch, depth, height * factor, width * factor))
    for row in range(factor):
        for column in range(factor):
            expected[:, :, row::factor, column::factor] = x[:, row * factor + column :: factor * factor]
    return case("pixel_shuffle", {"x": x}, expected, upscale_factor=factor)


def _pixel_unshuffle(rng: Rng) -> Case:
    factor, batch, depth, height, width = int(rng.integers(2, 4)), *sizes(rng, 4, 3)
    x = floats(rng, batch, depth, height * factor, width * factor)
    expected = np.zeros((batch, depth * factor * factor, height, width))
    for row in range(factor):
        for column in range(factor):
            expected[:, row * factor + column :: factor * factor] = x[:, :, row::factor, column::factor]
    return case("pixel_unshuffle", {"x": x}, expected, 16, downscale_factor=np.uint32(factor))


def _expand_dims(rng: Rng) -> Case:
    x = floats(rng, *sizes(rng, 2))
    axes = pick(rng, [0], [1, 3], [-1], [0, -1], [2, 3])
    return case("expand_dims", {"x": x}, np.expand_dims(x, tuple(axes)), axes=axes)


def _fill(rng: Rng) -> Case:
    shape = sizes(rng, 3)
    return case("fill", {"shape": np.array(shape, np.int32)}, np.full(shape, 2.5), value=np.float32(2.5))


def _fill_like(rng: Rng) -> Case:
    x = floats(rng, *sizes(rng, 3))
    return case("fill_like", {"ref_tensor": x}, np.full(x.shape, 7), 16, value=np.int32(7))


def _flatten2d(rng: Rng) -> Case:
    x = floats(rng, *sizes(rng, 4))
    axis = int(rng.integers(-3, 4))
    return case("flatten2d", {"x": x}, x.reshape(int(np.prod(x.shape[:axis])), -1), axis=axis)


def _pad(rng: Rng) -> Case:
    x = floats(rng, *rng.integers(4, 7, 4))
    mode = pick(rng, "constant", "reflect", "replicate")
    sides = rng.integers(0, 4, (int(rng.integers(1, 3)), 2))
    around = [(0, 0)] * (4 - len(sides)) + [(int(before), int(after)) for before, after in sides]
    if mode == "constant":
        expected = np.pad(x, around, constant_values=1.5)
    else:
        expected = np.pad(x, around, "edge" if mode == "replicate" else "reflect")
    return case("pad", {"x": x}, expected, pad=sides.reshape(-1).tolist(), mode=mode, constant_val=np.float32(1.5))


def _range_1d(rng: Rng) -> Case:
    start, end, step = pick(rng, (0, 7, 2), (5, -4, -3), (1.5, 4.0, 0.5), (3, 4, 1))
    form = np.float32 if isinstance(start, float) else np.int32
    return case(
        "range_1d",
        {"start": np.array([start], form)[:1].reshape(1)},
        np.arange(start, end, step),
        end=form(end),
        step=form(step),
    )


def _reshape(rng: Rng) -> Case:
    x = floats(rng, 2, 3, 4)
    shape = pick(rng, [6, -1], [0, -1, 2], [24], [-1, 0, 0], [2, 3, 2, 2])
    expected = {(0, -1, 2): (2, 6, 2), (-1, 0, 0): (2, 3, 4)}.get(tuple(shape), tuple(shape))
    return case("reshape", {"x": x}, x.reshape(expected), shape=shape)


def _reshape_from_the_right(rng: Rng) -> Case:
    x = floats(rng, 2, 50)
    return case("reshape", {"x": x}, x.reshape(1, 1, 2, 50), 17, shape=[1, 0, -1, 0])


def _reshape_like(rng: Rng) -> Case:
    x, first, second = floats(rng, 4, 6), floats(rng, 2, 2, 9), floats(rng, 7, 3, 2)
    return case(
        "reshape_like",
        {"x": x, "ref_tensors": [first, second]},
        x.reshape(2, 2, 3, 2),
        16,
        begins=(0, 1),
        ends=(2, 0),
        end_masks=(False, True),
    )


def _reverse(rng: Rng) -> Case:
    x = floats(rng, *sizes(rng, 3))
    axes = pick(rng, None, [0], [1, 2], [-1])
    return case("reverse", {"x": x}, np.flip(x, axes), **({} if axes is None else {"axes": axes}))


def _shape(rng: Rng) -> Case:
    x = floats(rng, *sizes(rng, 3))
    return case("shape", {"x": x}, np.array(x.shape))


def _slices(rng: Rng, shape: tuple[int, ...], squeeze: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    begin, end, stride, masks, slices = [], [], [], [], []
    for size in shape:
        step = int(pick(rng, 1, 2, -1, -2))
        first, last = sorted(int(each) for each in rng.choice(size + 1, 2, replace=False))
        if step < 0:
            first, last = last - 1, first - 1
        from_start, to_end, single = (bool(each) for each in rng.random(3) < (0.3, 0.3, 0.3 if squeeze else 0))
        to_end = to_end or (step < 0 and last < 0)  # -1 is the last element, not what lies before the first
        if single:
            from_start, step = False, 1
            first = int(rng.integers(-size, size))
        elif rng.random() < 0.3 and first > 0:
            first -= size
        begin.append(first)
        end.append(last)
        stride.append(step)
        masks.append((from_start, to_end, single))
        slices.append(first if single else slice(None if from_start else first, None if to_end else last, step))
    from_starts, to_ends, singles = zip(*masks)
    arguments = {"begin": begin, "end": end, "stride": stride, "begin_mask": from_starts, "end_mask": to_ends}
    return tuple(slices), {**arguments, **({"squeeze_mask": singles} if squeeze else {})}


def _slice_by_index(rng: Rng) -> Case:
    x = floats(rng, *rng.integers(3, 7, 3))
    slices, arguments = _slices(rng, x.shape, squeeze=True)
    return case("slice_by_index", {"x": x}, x[slices], **arguments)


def _slice_update(rng: Rng) -> Case:
    x = floats(rng, *rng.integers(3, 7, 3))
    slices, arguments = _slices(rng, x.shape, squeeze=False)
    expected = x.copy()
    expected[slices] = update = floats(rng, *x[slices].shape)
    return case("slice_update", {"x": x, "update": update}, expected, 18, **arguments)


def _slice_by_size(rng: Rng) -> Case:
    x = floats(rng, 5, 6, 7)
    first, size = int(rng.integers(0, 4)), int(rng.integers(1, 3))
    expected = x[first:, 1 : 1 + size, 4:6]
    return case("slice_by_size", {"x": x}, expected, begin=[first, 1, -3], size=[-1, size, 2])


def _sliding_windows(rng: Rng) -> Case:
    x = floats(rng, 2, 7, 5)
    size, stride = int(rng.integers(1, 5)), int(rng.integers(1, 3))
    windows = np.stack([x[:, begin : begin + size] for begin in range(0, 7 - size + 1, stride)], 1)
    return case("sliding_windows", {"x": x}, windows, axis=1, size=size, stride=stride)


def _split(rng: Rng) -> Case:
    x = floats(rng, 2, 6, 3)
    if rng.random() < 0.5:
        return case("split", {"x": x}, np.split(x, 3, 1), num_splits=3, axis=1)
    return case("split", {"x": x}, np.split(x, [1, 3], -2), split_sizes=[1, 2, 3], axis=-2)


def _squeeze(rng: Rng) -> Case:
    x = floats(rng, 1, 3, 1, 2)
    axes = pick(rng, None, [0], [2], [0, -2])
    return case(
        "squeeze",
        {"x": x},
        np.squeeze(x, None if axes is None else tuple(axes)),
        **({} if axes is None else {"axes": axes}),
    )


def _stack(rng: Rng) -> Case:
    shape, axis = sizes(rng, 2), int(rng.integers(-3, 3))
    values = [floats(rng, *shape) for _ in range(3)]
    return case("stack", {"values": list(values)}, np.stack(values, axis), axis=axis)


def _tile(rng: Rng) -> Case:
    x, reps = floats(rng, *sizes(rng, 3)), sizes(rng, 3, 3)
    return case("tile", {"x": x}, np.tile(x, reps), reps=reps)


def _transpose(rng: Rng) -> Case:
    x, order = floats(rng, *sizes(rng, 4)), rng.permutation(4)
    return case("transpose", {"x": x}, x.transpose(order), perm=order.tolist())


SHAPE_CASES: dict[str, Maker] = {
    "band_part": _band_part,
    "concat": _concat,
    "crop": _crop,
    "depth_to_space": _depth_to_space,
    "expand_dims": _expand_dims,
    "fill": _fill,
    "fill_like": _fill_like,
    "flatten2d": _flatten2d,
    "pad": _pad,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "range_1d": _range_1d,
    "reshape": _reshape,
    "reshape (zeros from the right)": _reshape_from_the_right,
    "reshape_like": _reshape_like,
    "reverse": _reverse,
    "shape": _shape,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
    "sliding_windows": _sliding_windows,
    "space_to_depth": _space_to_depth,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
