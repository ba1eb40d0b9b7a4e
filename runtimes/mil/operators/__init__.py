"""The operators of MIL that the executor knows, by kind.

Each is a function whose parameters are those of the MIL operator, with its defaults. The annotations count: ``Tensor``
stays a tensor, ``int``, ``float``, ``bool``, ``str`` and tuples of them become Python values before the call, ``list``
takes several values. A function may raise ValueError, RuntimeError and the like for a program that makes no sense.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tofe_edge.runtimes.mil.operators.activation import ACTIVATION
from tofe_edge.runtimes.mil.operators.elementwise import ELEMENTWISE
from tofe_edge.runtimes.mil.operators.indexing import INDEXING
from tofe_edge.runtimes.mil.operators.linear import LINEAR
from tofe_edge.runtimes.mil.operators.normalization import NORMALIZATION
from tofe_edge.runtimes.mil.operators.quantization import QUANTIZATION
from tofe_edge.runtimes.mil.operators.reduction import REDUCTION
from tofe_edge.runtimes.mil.operators.resizing import RESIZING
from tofe_edge.runtimes.mil.operators.shape import SHAPE
from tofe_edge.runtimes.mil.operators.window import WINDOW

OPERATORS_BY_KIND: Mapping[str, Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        "elementwise": ELEMENTWISE,
        "activation": ACTIVATION,
        "reduction and order": REDUCTION,
        "products": LINEAR,
        "windows": WINDOW,
        "normalization": NORMALIZATION,
        "shape": SHAPE,
        "indexing": INDEXING,
        "resizing": RESIZING,
        "quantization and compressed constants": QUANTIZATION,
    }
)

OPERATORS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {name: function for table in OPERATORS_BY_KIND.values() for name, function in table.items()}
)
"""MIL operator -> function; ``const`` is no operator but a value."""

EXACT = (frozenset(SHAPE) - {"range_1d"}) | {
    "abs",
    "gather",
    "gather_along_axis",
    "gather_nd",
    "identity",
    "max_pool",
    "maximum",
    "minimum",
    "reduce_max",
    "reduce_min",
    "relu",
    "select",
    "topk",
}
"""Operators that only move elements: a result of the inputs' type needs no rounding."""
