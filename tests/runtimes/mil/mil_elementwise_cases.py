"""Cases of operators on each element, against numpy and scipy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mil_programs import Case, case
from scipy import special  # type: ignore[import-untyped]

Maker = Callable[[np.random.Generator], Case]


def floats(rng: np.random.Generator, *shape: int, low: float = -3.0, high: float = 3.0) -> np.ndarray:
    """Uniform float32."""
    return rng.uniform(low, high, shape).astype(np.float32)


def sizes(rng: np.random.Generator, rank: int, high: int = 5) -> list[int]:
    """Random sizes of dimensions, 1 included."""
    return [int(size) for size in rng.integers(1, high + 1, rank)]


def pick(rng: np.random.Generator, *choices: Any) -> Any:
    """One of several."""
    return choices[int(rng.integers(len(choices)))]


def _unary(name: str, oracle: Callable[[Any], Any], low: float = -3.0, high: float = 3.0, step: float = 0.0) -> Maker:
    def make(rng: np.random.Generator) -> Case:
        x = floats(rng, *sizes(rng, int(rng.integers(1, 5))), low=low, high=high)
        if step:
            x = (np.round(x / step) * step).astype(np.float32)
        return case(name, {"x": x}, oracle(x.astype(np.float64)))

    return make


def _with_epsilon(name: str, oracle: Callable[[Any, float], Any], default: float) -> Maker:
    def make(rng: np.random.Generator) -> Case:
        x = floats(rng, *sizes(rng, 3), low=0.01, high=4)
        if rng.random() < 0.5:
            return case(name, {"x": x}, oracle(x.astype(np.float64), default))
        return case(name, {"x": x}, oracle(x.astype(np.float64), 0.125), epsilon=np.float32(0.125))

    return make


def _parametric(
    name: str, oracle: Callable[..., Any], names: tuple[str, ...], low: float = -2, high: float = 2
) -> Maker:
    def make(rng: np.random.Generator) -> Case:
        x = floats(rng, *sizes(rng, 3), low=-4, high=4)
        numbers: dict[str, Any] = {
            each: np.float32(value) for each, value in zip(names, np.sort(rng.uniform(low, high, len(names))))
        }
        return case(name, {"x": x}, oracle(x.astype(np.float64), *numbers.values()), **numbers)

    return make


def _binary(name: str, oracle: Callable[[Any, Any], Any], kind: str = "any", step: float = 0.0) -> Maker:
    def make(rng: np.random.Generator) -> Case:
        shape = sizes(rng, 3)
        other = [size if rng.random() < 0.6 else 1 for size in shape][int(rng.integers(0, 3)) :]
        x, y = (rng.uniform(-4, 4, each) for each in (shape, other))
        if kind == "positive":
            x = np.abs(x) + 0.1
        if kind == "divisor":
            y = np.sign(y) * (np.abs(y) + 0.5)
        if step:
            x, y = np.round(x / step) * step, np.round(y / step) * step
        form = np.int32 if kind != "positive" and name != "real_div" and rng.random() < 0.4 else np.float32
        if form is np.int32 and kind == "divisor":
            y = np.where(np.trunc(y) == 0, 1, y)
        x, y = x.astype(form), y.astype(form)
        wide = np.int64 if form is np.int32 else np.float64
        return case(name, {"x": x, "y": y}, oracle(x.astype(wide), y.astype(wide)))

    return make


def _logical(name: str, oracle: Callable[[Any, Any], Any]) -> Maker:
    def make(rng: np.random.Generator) -> Case:
        shape = sizes(rng, 2)
        x, y = (rng.random(shape) < 0.5 for _ in range(2))
        return case(name, {"x": x, "y": y}, oracle(x, y))

    return make


def _logical_not(rng: np.random.Generator) -> Case:
    x = rng.random(sizes(rng, 2)) < 0.5
    return case("logical_not", {"x": x}, ~x)


def _select(rng: np.random.Generator) -> Case:
    shape = sizes(rng, 3)
    condition, a, b = rng.random(shape) < 0.5, floats(rng, *shape), floats(rng, *shape)
    return case("select", {"cond": condition, "a": a, "b": b}, np.where(condition, a, b))


def _cast(rng: np.random.Generator) -> Case:
    x = floats(rng, *sizes(rng, 3), low=-90, high=90)
    to = pick(rng, "int32", "fp32", "bool", "fp16")
    form: Any = {"int32": np.int32, "fp32": np.float32, "bool": np.bool_, "fp16": np.float16}[to]
    if to == "bool":
        x = np.round(x / 90).astype(np.float32)
    return case("cast", {"x": x}, x.astype(form), dtype=to)


def _prelu(rng: np.random.Generator) -> Case:
    x = floats(rng, *sizes(rng, 4))
    alpha = floats(rng, x.shape[1])
    return case("prelu", {"x": x}, np.where(x >= 0, x, alpha[:, None, None] * x), alpha=alpha)


def _softplus_parametric(rng: np.random.Generator) -> Case:
    x = floats(rng, *sizes(rng, 4))
    alpha, beta = floats(rng, x.shape[1]), floats(rng, x.shape[1])
    expected = alpha[:, None, None] * np.logaddexp(0, beta[:, None, None].astype(np.float64) * x)
    return case("softplus_parametric", {"x": x}, expected, alpha=alpha, beta=beta)


def _softmax(rng: np.random.Generator) -> Case:
    x = floats(rng, *sizes(rng, 3), low=-9, high=9)
    axis = int(rng.integers(-3, 3))
    return case("softmax", {"x": x}, special.softmax(x.astype(np.float64), axis), axis=axis)


def _gelu(rng: np.random.Generator) -> Case:
    x = floats(rng, *sizes(rng, 3), low=-5, high=5)
    wide = x.astype(np.float64)
    mode = pick(rng, "EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")
    expected = {
        "EXACT": wide * special.ndtr(wide),
        "TANH_APPROXIMATION": 0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))),
        "SIGMOID_APPROXIMATION": wide * special.expit(1.702 * wide),
    }[mode]
    return case("gelu", {"x": x}, expected, mode=mode)


ELEMENTWISE_CASES: dict[str, Maker] = {
    "abs": _unary("abs", np.abs),
    "acos": _unary("acos", np.arccos, -0.9, 0.9),
    "add": _binary("add", np.add),
    "asin": _unary("asin", np.arcsin, -0.9, 0.9),
    "atan": _unary("atan", np.arctan),
    "atanh": _unary("atanh", np.arctanh, -0.9, 0.9),
    "cast": _cast,
    "ceil": _unary("ceil", np.ceil, step=0.25),
    "clip": _parametric("clip", np.clip, ("alpha", "beta")),
    "cos": _unary("cos", np.cos),
    "cosh": _unary("cosh", np.cosh),
    "equal": _binary("equal", np.equal, step=1),
    "erf": _unary("erf", special.erf),
    "exp": _unary("exp", np.exp),
    "exp2": _unary("exp2", np.exp2),
    "floor": _unary("floor", np.floor, step=0.25),
    "floor_div": _binary("floor_div", np.floor_divide, "divisor", step=0.25),
    "greater": _binary("greater", np.greater, step=1),
    "greater_equal": _binary("greater_equal", np.greater_equal, step=1),
    "identity": _unary("identity", lambda x: x),
    "inverse": _with_epsilon("inverse", lambda x, epsilon: 1 / (x + epsilon), 1e-4),
    "less": _binary("less", np.less, step=1),
    "less_equal": _binary("less_equal", np.less_equal, step=1),
    "log": _with_epsilon("log", lambda x, epsilon: np.log(x + epsilon), 1e-45),
    "logical_and": _logical("logical_and", np.logical_and),
    "logical_not": _logical_not,
    "logical_or": _logical("logical_or", np.logical_or),
    "logical_xor": _logical("logical_xor", np.logical_xor),
    "maximum": _binary("maximum", np.maximum),
    "minimum": _binary("minimum", np.minimum),
    "mod": _binary("mod", np.mod, "divisor", step=0.25),
    "mul": _binary("mul", np.multiply),
    "not_equal": _binary("not_equal", np.not_equal, step=1),
    "pow": _binary("pow", np.power, "positive"),
    "real_div": _binary("real_div", np.true_divide, "divisor"),
    "round": _unary("round", np.round, step=0.5),
    "rsqrt": _with_epsilon("rsqrt", lambda x, epsilon: 1 / np.sqrt(x + epsilon), 1e-12),
    "select": _select,
    "sign": _unary("sign", np.sign, step=1),
    "sin": _unary("sin", np.sin),
    "sinh": _unary("sinh", np.sinh),
    "sqrt": _unary("sqrt", np.sqrt, 0, 5),
    "square": _unary("square", np.square),
    "sub": _binary("sub", np.subtract),
    "tan": _unary("tan", np.tan, -1.2, 1.2),
    "tanh": _unary("tanh", np.tanh),
    "threshold": _parametric("threshold", np.maximum, ("alpha",)),
}

ACTIVATION_CASES: dict[str, Maker] = {
    "clamped_relu": _parametric(
        "clamped_relu", lambda x, alpha, beta: np.minimum(np.where(x >= 0, x, alpha * x), beta), ("alpha", "beta")
    ),
    "elu": _parametric("elu", lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)), ("alpha",)),
    "gelu": _gelu,
    "leaky_relu": _parametric("leaky_relu", lambda x, alpha: np.where(x >= 0, x, alpha * x), ("alpha",)),
    "linear_activation": _parametric("linear_activation", lambda x, alpha, beta: alpha * x + beta, ("alpha", "beta")),
    "prelu": _prelu,
    "relu": _unary("relu", lambda x: np.maximum(x, 0)),
    "relu6": _unary("relu6", lambda x: np.clip(x, 0, 6), -9, 9),
    "scaled_tanh": _parametric("scaled_tanh", lambda x, alpha, beta: alpha * np.tanh(beta * x), ("alpha", "beta")),
    "sigmoid": _unary("sigmoid", special.expit),
    "sigmoid_hard": _parametric(
        "sigmoid_hard", lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), ("alpha", "beta")
    ),
    "silu": _unary("silu", lambda x: x * special.expit(x)),
    "softmax": _softmax,
    "softplus": _unary("softplus", lambda x: np.logaddexp(0, x)),
    "softplus_parametric": _softplus_parametric,
    "softsign": _unary("softsign", lambda x: x / (1 + np.abs(x))),
    "thresholded_relu": _parametric("thresholded_relu", lambda x, alpha: np.where(x >= alpha, x, 0), ("alpha",)),
}
