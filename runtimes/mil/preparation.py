"""Turning a function's block into steps: constants read and computed, arguments bound, memory planned.

All that depends on the program alone happens here, once; a step then costs little more than its PyTorch call.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.runtimes.mil.manifest import shown
from tofe_edge.runtimes.mil.operation import Operation
from tofe_edge.runtimes.mil.operators import EXACT, OPERATORS

# What PyTorch, numpy and Python raise for arguments that make no sense; an operator's own defects look the same.
FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Slot:
    """Where a result goes: its name, declared shape (-1 is open), and the type to hold it in.

    ``half``: it has to be an fp16 number. ``rounds``: it may not be one yet.
    """

    name: str
    shape: tuple[int, ...]
    held: torch.dtype
    half: bool
    rounds: bool

    def settle(self, value: Tensor, where: str) -> Tensor:
        """``value`` as the program declares it.

        Raises:
            InputError: it has another shape.
        """
        shape = tuple(value.shape)
        if shape != self.shape and (
            len(shape) != len(self.shape) or any(size not in (-1, actual) for size, actual in zip(self.shape, shape))
        ):
            raise InputError(
                f"{where}: {shown(self.name)} has the shape {list(shape)}, but the program declares {list(self.shape)}"
            )
        if self.rounds:
            return value.half().float()
        return value if value.dtype is self.held else value.to(self.held)

    def replace(self, value: Tensor, where: str) -> Tensor:
        """As :meth:`settle` for a value from elsewhere, of which nothing is known."""
        return dataclasses.replace(self, rounds=self.half).settle(value, where)


@dataclass(frozen=True)
class Step:
    """One operation, ready to run.

    Attributes:
        operation: what it is.
        call: the operator with its constant arguments.
        singles: parameter, name of the value, and how to turn it into what the operator wants.
        lists: parameter and the values' names, constants included.
        slots: its results; None for labels and scores.
        last: values that nobody needs afterwards.
    """

    operation: Operation
    call: Callable[..., Any]
    singles: tuple[tuple[str, str, Callable[[Any], Any]], ...]
    lists: tuple[tuple[str, tuple[str, ...]], ...]
    slots: tuple[Slot | None, ...]
    last: tuple[str, ...]

    def compute(self, values: Mapping[str, Any], where: str) -> tuple[Any, ...]:
        """The results, settled.

        Raises:
            InputError: the operator cannot compute them, or they are not what the program declares.
        """
        try:
            keywords = {parameter: convert(values[name]) for parameter, name, convert in self.singles}
            for parameter, names in self.lists:
                keywords[parameter] = [values[name] for name in names]
            produced = self.call(**keywords)
        except FAILURES as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"{where}: {described(self.operation)} cannot be computed ({reason})") from error
        results = produced if isinstance(produced, tuple) else (produced,)
        if len(results) != len(self.slots):
            raise InputError(
                f"{where}: {described(self.operation)} gives {len(results)} results, but the program declares"
                f" {len(self.slots)}"
            )
        return tuple(
            result
            if slot is None or not isinstance(result, Tensor)
            else slot.settle(result, f"{where}: {described(self.operation)}")
            for slot, result in zip(self.slots, results)
        )


def described(operation: Operation) -> str:
    """How messages call an operation."""
    return f"{operation.type} {shown(operation.name)}"


def needs_no_rounding(operator: str, given: Sequence[str]) -> bool:
    """Whether results declared fp16 are fp16 numbers already; ``given`` are the types of the inputs."""
    return operator in EXACT and not any(kind in ("fp32", "fp64") for kind in given)


def bind(
    operation: Operation, arguments: Mapping[str, list[Any]], constants: Mapping[str, Any], where: str
) -> tuple[Callable[..., Any], list[Any], list[Any]]:
    """The operator with constant arguments, and what it takes besides: :class:`Step`'s ``singles`` and ``lists``.

    Args:
        arguments: parameter -> values, either a :class:`Named` one or the constant itself.

    Raises:
        InputError: it has no such parameter, lacks one, or a constant has the wrong type.
    """
    function = OPERATORS[operation.type]
    wanted = _parameters(operation.type)
    absent = [name for name, (_, optional) in wanted.items() if not optional and not arguments.get(name)]
    strange = sorted(set(arguments) - set(wanted))
    if absent or strange:
        what = f"lacks its parameter {shown(absent[0])}" if absent else f"has an unknown parameter {shown(strange[0])}"
        raise InputError(f"{where}: {described(operation)} {what}; the executor cannot run it")
    fixed: dict[str, Any] = {}
    singles: list[Any] = []
    lists: list[Any] = []
    for parameter, given in arguments.items():
        convert, _ = wanted[parameter]
        names = [value.name if isinstance(value, Named) else None for value in given]
        known = [constants.get(value.name, value) if isinstance(value, Named) else value for value in given]
        dynamic = any(isinstance(value, Named) for value in known)
        if convert is _as_list:
            if dynamic and None not in names:
                lists.append((parameter, tuple(names)))
                continue
            if dynamic:
                raise InputError(f"{where}: {described(operation)} mixes named values and constants")
            fixed[parameter] = _converted(convert, known, operation, parameter, where)
        elif len(given) != 1:
            raise InputError(f"{where}: {described(operation)} has {len(given)} values for {shown(parameter)}")
        elif dynamic:
            singles.append((parameter, names[0], convert))
        else:
            fixed[parameter] = _converted(convert, known[0], operation, parameter, where)
    return (functools.partial(function, **fixed) if fixed else function), singles, lists


@dataclass(frozen=True)
class Named:
    """An argument that is the value of this name."""

    name: str


def _converted(convert: Callable[[Any], Any], value: Any, operation: Operation, parameter: str, where: str) -> Any:
    try:
        return convert(value)
    except FAILURES as error:
        raise InputError(
            f"{where}: {described(operation)} has the wrong type of value for {shown(parameter)}"
        ) from error


@functools.cache
def _parameters(operator: str) -> Mapping[str, tuple[Callable[[Any], Any], bool]]:
    """Parameter -> how to convert an argument, and whether it may be left out."""
    function = OPERATORS[operator]
    hints = typing.get_type_hints(function)
    return {
        name: (_converter(hints[name]), parameter.default is not inspect.Parameter.empty)
        for name, parameter in inspect.signature(function).parameters.items()
    }


def _converter(hint: Any) -> Callable[[Any], Any]:
    if isinstance(hint, types.UnionType):
        (hint,) = (member for member in typing.get_args(hint) if member is not types.NoneType)
    if typing.get_origin(hint) is list:
        return _as_list
    return _CONVERTERS[hint]


def _scalar(form: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: form(value.item() if isinstance(value, Tensor) else value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _many(form: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: tuple(
        form(item) for item in (value.reshape(-1).tolist() if isinstance(value, Tensor) else value)
    )


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError("no tensor")
    return value


def _as_list(values: list[Any]) -> list[Any]:
    """A list is several arguments, or one that is a list."""
    return values[0] if len(values) == 1 and isinstance(values[0], list) else values


_CONVERTERS: Mapping[Any, Callable[[Any], Any]] = {
    Tensor: _tensor,
    int: _scalar(int),
    float: _scalar(float),
    bool: _scalar(bool),
    str: _text,
    tuple[int, ...]: _many(int),
    tuple[bool, ...]: _many(bool),
}
