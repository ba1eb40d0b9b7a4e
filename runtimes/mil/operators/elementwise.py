"""Operators on each element: arithmetic, comparisons, logic, rounding, transcendental functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tofe_edge.runtimes.mil.datatypes import BY_NAME


def unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """An operator ``x -> function(x)``."""

    def operator(x: Tensor) -> Tensor:
        return function(x)

    return operator


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def operator(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return operator


def _floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


def cast(x: Tensor, dtype: str) -> Tensor:
    """To another type; fractions are cut off on the way to integers."""
    return x.to(BY_NAME[dtype].held)


def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Between alpha and beta."""
    return x.clamp(alpha, beta)


def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """1 / (x + epsilon)."""
    return (x + epsilon).reciprocal()


def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """Natural logarithm of x + epsilon."""
    return (x + epsilon).log()


def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """1 / sqrt(x + epsilon)."""
    return (x + epsilon).rsqrt()


def threshold(x: Tensor, alpha: float) -> Tensor:
    """At least alpha."""
    return x.clamp_min(alpha)


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where cond, b elsewhere."""
    return torch.where(cond.bool(), a, b)


ELEMENTWISE: Mapping[str, Callable[..., Any]] = {
    "abs": unary(torch.abs),
    "acos": unary(torch.acos),
    "add": _binary(torch.add),
    "asin": unary(torch.asin),
    "atan": unary(torch.atan),
    "atanh": unary(torch.atanh),
    "cast": cast,
    "ceil": unary(torch.ceil),
    "clip": clip,
    "cos": unary(torch.cos),
    "cosh": unary(torch.cosh),
    "equal": _binary(torch.eq),
    "erf": unary(torch.erf),
    "exp": unary(torch.exp),
    "exp2": unary(torch.exp2),
    "floor": unary(torch.floor),
    "floor_div": _binary(_floor_div),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "identity": unary(lambda x: x),
    "inverse": inverse,
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "log": log,
    "logical_and": _binary(torch.logical_and),
    "logical_not": unary(torch.logical_not),
    "logical_or": _binary(torch.logical_or),
    "logical_xor": _binary(torch.logical_xor),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "mod": _binary(torch.remainder),
    "mul": _binary(torch.mul),
    "not_equal": _binary(torch.ne),
    "pow": _binary(torch.pow),
    "real_div": _binary(torch.true_divide),
    "round": unary(torch.round),
    "rsqrt": rsqrt,
    "select": select,
    "sign": unary(torch.sign),
    "sin": unary(torch.sin),
    "sinh": unary(torch.sinh),
    "sqrt": unary(torch.sqrt),
    "square": unary(torch.square),
    "sub": _binary(torch.sub),
    "tan": unary(torch.tan),
    "tanh": unary(torch.tanh),
    "threshold": threshold,
}
"""Operator -> function. Remainders have the sign of the divisor, halves are rounded to the even neighbour."""
