"""Cases of reductions, sorting and operators with indices, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mil_elementwise_cases import Maker, floats, pick, sizes
from mil_programs import Case, case
from scipy import special  # type: ignore[import-untyped]

Rng = np.random.Generator


def _reduction(name: str, oracle: Callable[..., Any], positive: bool = False) -> Maker:
    def make(rng: Rng) -> Case:
        x = floats(rng, *sizes(rng, 4), low=0.1 if positive else -2, high=2)
        axes = pick(rng, [0], [-1], [1, 2], [-1, 0], [0, 1, 2, 3], None)
        keep = bool(rng.random() < 0.5)
        constants: dict[str, Any] = {"keep_dims": keep} if axes is None else {"axes": axes, "keep_dims": keep}
        over = None if axes is None else tuple(axes)
        return case(name, {"x": x}, oracle(x.astype(np.float64), axis=over, keepdims=keep), **constants)

    return make


def _argument(name: str, oracle: Callable[..., Any]) -> Maker:
    def make(rng: Rng) -> Case:
        x = rng.integers(0, 4, sizes(rng, 3)).astype(np.float32)  # with ties: the first one counts
        axis, keep = int(rng.integers(-3, 3)), bool(rng.random() < 0.5)
        return case(name, {"x": x}, oracle(x, axis=axis, keepdims=keep), axis=axis, keep_dims=keep)

    return make


def _cumsum(rng: Rng) -> Case:
    x, axis = floats(rng, *sizes(rng, 3)), int(rng.integers(-1, 3))  # coremltools takes no others
    exclusive, reverse = (bool(each) for each in rng.random(2) < 0.5)
    ordered = np.flip(x, axis) if reverse else x
    total = np.cumsum(ordered.astype(np.float64), axis)
    if exclusive:
        total = np.insert(total, 0, 0, axis).take(range(x.shape[axis]), axis)
    expected = np.flip(total, axis) if reverse else total
    return case("cumsum", {"x": x}, expected, axis=axis, exclusive=exclusive, reverse=reverse)


def _order(x: np.ndarray, axis: int, ascending: bool) -> np.ndarray:
    """Sorted by value, then by index: numpy's stable sort, of negated values where descending."""
    return np.argsort(x if ascending else -x, axis, kind="stable")


def _argsort(rng: Rng) -> Case:
    x = rng.integers(0, 5, sizes(rng, 3, 7)).astype(np.float32)
    axis, ascending = int(rng.integers(-3, 3)), bool(rng.random() < 0.5)
    return case("argsort", {"x": x}, _order(x, axis, ascending), axis=axis, ascending=ascending)


def _topk(rng: Rng) -> Case:
    x = rng.integers(0, 5, sizes(rng, 3, 7)).astype(np.float32)
    axis, ascending = int(rng.integers(-3, 3)), bool(rng.random() < 0.5)
    k = int(rng.integers(1, x.shape[axis] + 1))
    indices = _order(x, axis, ascending).take(range(k), axis)
    values = np.take_along_axis(x, indices, axis)
    return case("topk", {"x": x}, [values, indices], k=k, axis=axis, ascending=ascending)


def _topk_options(rng: Rng) -> Case:
    first = _topk(rng)
    if rng.random() < 0.5:
        return Case("topk", first.given, {**first.constants, "return_indices": False}, first.expected[:1], 16)
    return Case("topk", first.given, {**first.constants, "output_indices_dtype": "uint16"}, first.expected, 17)


def _gather(rng: Rng) -> Case:
    x, axis = floats(rng, *sizes(rng, 3)), int(rng.integers(-3, 3))
    low = -x.shape[axis] if rng.random() < 0.5 else 0
    indices = rng.integers(low, x.shape[axis], sizes(rng, int(rng.integers(1, 3)))).astype(np.int32)
    return case("gather", {"x": x, "indices": indices}, np.take(x, indices, axis), axis=axis)


def _gather_batches(rng: Rng) -> Case:
    x, axis = floats(rng, 2, *sizes(rng, 3)), int(rng.integers(1, 4))
    indices = rng.integers(0, x.shape[axis], (2, 3, 2)).astype(np.int32)
    expected = np.stack([np.take(part, chosen, axis - 1) for part, chosen in zip(x, indices)])
    return case("gather", {"x": x, "indices": indices}, expected, 16, axis=axis, batch_dims=1)


def _gather_along_axis(rng: Rng) -> Case:
    x, axis = floats(rng, *sizes(rng, 3)), int(rng.integers(-3, 3))
    shape = list(x.shape)
    shape[axis] = 4
    indices = rng.integers(-x.shape[axis], x.shape[axis], shape).astype(np.int32)
    return case("gather_along_axis", {"x": x, "indices": indices}, np.take_along_axis(x, indices, axis), axis=axis)


def _gather_nd(rng: Rng) -> Case:
    x = floats(rng, *sizes(rng, 3))
    depth = int(rng.integers(1, 4))
    indices = np.stack([rng.integers(-size, size, (2, 3)) for size in x.shape[:depth]], -1).astype(np.int32)
    expected = np.stack([x[tuple(at)] for at in indices.reshape(-1, depth)]).reshape(2, 3, *x.shape[depth:])
    return case("gather_nd", {"x": x, "indices": indices}, expected)


def _gather_nd_batches(rng: Rng) -> Case:
    x = floats(rng, 2, *sizes(rng, 3))
    indices = np.stack([rng.integers(0, size, (2, 3)) for size in x.shape[1:3]], -1).astype(np.int32)
    expected = np.stack([np.stack([part[tuple(at)] for at in chosen]) for part, chosen in zip(x, indices)])
    return case("gather_nd", {"x": x, "indices": indices}, expected, 16, batch_dims=1)


_MODES: dict[str, Callable[[Any, Any], Any]] = {
    "update": lambda old, new: new,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "max": np.maximum,
    "min": np.minimum,
}


def _mode(rng: Rng) -> str:
    mode: str = pick(rng, *_MODES)
    return mode


def _scatter(rng: Rng) -> Case:
    data, axis, mode = floats(rng, 4, 5, 6), int(rng.integers(-3, 3)), _mode(rng)
    size = data.shape[axis]
    # With update the order of equal indices is open.
    indices = rng.choice(size, (2, 2), replace=False) if mode == "update" else rng.integers(0, size, (2, 2))
    shape = list(data.shape)
    shape[axis % 3 : axis % 3 + 1] = [2, 2]
    updates = floats(rng, *shape, low=0.5, high=2)
    expected = np.moveaxis(data.copy(), axis, 0)
    for at, update in zip(
        indices.reshape(-1), np.moveaxis(updates, (axis % 3, axis % 3 + 1), (0, 1)).reshape(4, *expected.shape[1:])
    ):
        expected[at] = _MODES[mode](expected[at], update)
    given = {"data": data, "indices": indices.astype(np.int32), "updates": updates}
    return case("scatter", given, np.moveaxis(expected, 0, axis), axis=axis, mode=mode)


def _scatter_along_axis(rng: Rng) -> Case:
    data, axis, mode = floats(rng, 4, 5, 6), int(rng.integers(-3, 3)), _mode(rng)
    shape, size = list(data.shape), data.shape[axis]
    shape[axis] = 3
    indices = np.argsort(rng.random(data.shape), axis).take(range(3), axis)
    if mode != "update":
        indices = rng.integers(0, size, shape)
    updates, expected = floats(rng, *shape, low=0.5, high=2), data.copy()
    for at in np.ndindex(*shape):
        target = list(at)
        target[axis] = indices[at]
        expected[tuple(target)] = _MODES[mode](expected[tuple(target)], updates[at])
    given = {"data": data, "indices": indices.astype(np.int32), "updates": updates}
    return case("scatter_along_axis", given, expected, axis=axis, mode=mode)


def _scatter_nd(rng: Rng) -> Case:
    data, mode = floats(rng, 4, 5, 6), _mode(rng)
    flat = rng.choice(20, 6, replace=False) if mode == "update" else rng.integers(0, 20, 6)
    indices = np.stack(np.unravel_index(flat, (4, 5)), -1).reshape(2, 3, 2).astype(np.int32)
    updates, expected = floats(rng, 2, 3, 6, low=0.5, high=2), data.copy()
    for at, update in zip(indices.reshape(-1, 2), updates.reshape(-1, 6)):
        expected[tuple(at)] = _MODES[mode](expected[tuple(at)], update)
    return case("scatter_nd", {"data": data, "indices": indices, "updates": updates}, expected, mode=mode)


def _one_hot(rng: Rng) -> Case:
    indices, axis = rng.integers(0, 5, sizes(rng, 2)).astype(np.int32), int(rng.integers(-3, 3))
    hot = np.moveaxis(np.eye(5)[indices], -1, axis)
    return case(
        "one_hot",
        {"indices": indices},
        np.where(hot == 1, 2.5, -1),
        one_hot_vector_size=5,
        axis=axis,
        on_value=np.float32(2.5),
        off_value=np.float32(-1),
    )


def _non_zero(rng: Rng) -> Case:
    x = rng.integers(0, 2, sizes(rng, 3)).astype(np.float32)
    return case("non_zero", {"x": x}, np.argwhere(x))


REDUCTION_CASES: dict[str, Maker] = {
    "argsort": _argsort,
    "cumsum": _cumsum,
    "reduce_argmax": _argument("reduce_argmax", np.argmax),
    "reduce_argmin": _argument("reduce_argmin", np.argmin),
    "reduce_l1_norm": _reduction("reduce_l1_norm", lambda x, **how: np.abs(x).sum(**how)),
    "reduce_l2_norm": _reduction("reduce_l2_norm", lambda x, **how: np.sqrt((x**2).sum(**how))),
    "reduce_log_sum": _reduction("reduce_log_sum", lambda x, **how: np.log(x.sum(**how)), positive=True),
    "reduce_log_sum_exp": _reduction("reduce_log_sum_exp", special.logsumexp),
    "reduce_max": _reduction("reduce_max", np.max),
    "reduce_mean": _reduction("reduce_mean", np.mean),
    "reduce_min": _reduction("reduce_min", np.min),
    "reduce_prod": _reduction("reduce_prod", np.prod),
    "reduce_sum": _reduction("reduce_sum", np.sum),
    "reduce_sum_square": _reduction("reduce_sum_square", lambda x, **how: (x**2).sum(**how)),
    "topk": _topk,
    "topk (options)": _topk_options,
}

INDEX_CASES: dict[str, Maker] = {
    "gather": _gather,
    "gather (batches)": _gather_batches,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "gather_nd (batches)": _gather_nd_batches,
    "non_zero": _non_zero,
    "one_hot": _one_hot,
    "scatter": _scatter,
    "scatter_along_axis": _scatter_along_axis,
    "scatter_nd": _scatter_nd,
}
