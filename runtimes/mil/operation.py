"""What a program consists of, for those who count or look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One result of an operation: its name, MIL element type and shape; open dimensions are -1.

    Labels have the type ``string`` or ``int64``, what ``classify`` gives beside them is a ``dictionary``; both have
    the shape ``()``.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One operation of a program.

    Attributes:
        type: the operator, such as ``conv``.
        name: name of its first result, which identifies it.
        inputs: parameter -> names of the values given to it (one, except for lists). Constants written into the
            operation itself have no name and are left out.
        parameters: parameter -> value of constants with up to 64 elements, as Python numbers, strings and lists.
        outputs: its results.
        weight_bytes: bytes in weight files that it depends on through constants alone, as stored: a ``linear`` whose
            int8 weights go through ``constexpr_affine_dequantize`` counts the int8 numbers and the scales. A tensor
            that several operations use counts for each.
        constant: ``const`` and ``constexpr_*``: computed when a program is loaded, and never observed.
    """

    type: str
    name: str
    inputs: Mapping[str, tuple[str, ...]]
    parameters: Mapping[str, object]
    outputs: tuple[Result, ...]
    weight_bytes: int
    constant: bool
