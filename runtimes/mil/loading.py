"""Turning the block of a function into steps: constants read and computed, arguments bound, memory planned.

All that depends on the program alone happens here, once; a step then costs little more than its PyTorch call.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from tofe_edge.errors import InputError, quoted
from tofe_edge.runtimes.mil.operators import EXACT, OPERATORS
from tofe_edge.runtimes.mil.package import Function, MlPackage
from tofe_edge.runtimes.mil.values import STRING, DataType, check_value, read_value, tensor_type


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
        inputs: parameter -> names of the values that it takes (one, except for lists). Constants written into the
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
    """A declared result: its name, shape (-1 is open), the type to hold it in, and whether it may need rounding to fp16."""

    name: str
    shape: tuple[int, ...]
    held: torch.dtype
    rounds: bool

    def conform(self, value: Tensor, where: str) -> Tensor:
        """Return ``value`` in the declared type, rounded if needed.

        Raises:
            InputError: it has another shape.
        """
        shape = tuple(value.shape)
        if shape != self.shape and (
            len(shape) != len(self.shape) or any(size not in (-1, actual) for size, actual in zip(self.shape, shape))
        ):
            raise InputError(
                f"{where}: {quoted(self.name)} has the shape {list(shape)}, but the program declares {list(self.shape)}"
            )
        if self.rounds:
            return value.half().float()
        return value if value.dtype is self.held else value.to(self.held)


@dataclass(frozen=True)
class Step:
    """One operation, ready to run.

    Attributes:
        operation: what it is.
        call: the operator with its constant arguments.
        singles: parameter, name of the value, and how to turn it into what the operator wants.
        lists: parameter and the values' names, constants included.
        slots: its results; None for labels and scores.
        last: values that no later step needs.
    """

    operation: Operation
    call: Callable[..., Any]
    singles: tuple[tuple[str, str, Callable[[Any], Any]], ...]
    lists: tuple[tuple[str, tuple[str, ...]], ...]
    slots: tuple[Slot | None, ...]
    last: tuple[str, ...]

    def compute(self, values: Mapping[str, Any], where: str) -> tuple[Any, ...]:
        """Return the results as declared.

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
            else slot.conform(result, f"{where}: {described(self.operation)}")
            for slot, result in zip(self.slots, results)
        )


def described(operation: Operation) -> str:
    """Name an operation in a message."""
    return f"{operation.type} {quoted(operation.name)}"


def needs_no_rounding(operator: str, input_types: Sequence[str]) -> bool:
    """Return whether results declared fp16 are fp16 numbers already."""
    return operator in EXACT and not any(kind in ("fp32", "fp64") for kind in input_types)


def bind(
    operation: Operation, arguments: Mapping[str, list[Any]], constants: Mapping[str, Any], where: str
) -> tuple[Callable[..., Any], list[Any], list[Any]]:
    """Return the operator with its constant arguments, and the ``singles`` and ``lists`` of its :class:`Step`.

    Args:
        arguments: parameter -> values, either a :class:`Named` one or the constant itself.

    Raises:
        InputError: it has no such parameter, lacks one, or a constant has the wrong type.
    """
    function = OPERATORS[operation.type]
    known_parameters = _parameters(operation.type)
    absent = [name for name, (_, optional) in known_parameters.items() if not optional and not arguments.get(name)]
    strange = sorted(set(arguments) - set(known_parameters))
    if absent or strange:
        what = (
            f"lacks its parameter {quoted(absent[0])}" if absent else f"has an unknown parameter {quoted(strange[0])}"
        )
        raise InputError(f"{where}: {described(operation)} {what}; the executor cannot run it")
    fixed: dict[str, Any] = {}
    singles: list[Any] = []
    lists: list[Any] = []
    for parameter, operands in arguments.items():
        convert, _ = known_parameters[parameter]
        names = [value.name if isinstance(value, Named) else None for value in operands]
        known = [constants.get(value.name, value) if isinstance(value, Named) else value for value in operands]
        dynamic = any(isinstance(value, Named) for value in known)
        if convert is _as_list:
            if dynamic and None not in names:
                lists.append((parameter, tuple(names)))
                continue
            if dynamic:
                raise InputError(f"{where}: {described(operation)} mixes named values and constants")
            fixed[parameter] = _converted(convert, known, operation, parameter, where)
        elif len(operands) != 1:
            raise InputError(f"{where}: {described(operation)} has {len(operands)} values for {quoted(parameter)}")
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
            f"{where}: {described(operation)} has the wrong type of value for {quoted(parameter)}"
        ) from error


@functools.cache
def _parameters(operator: str) -> Mapping[str, tuple[Callable[[Any], Any], bool]]:
    """Return parameter -> how to convert an argument, and whether it may be left out."""
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
        raise TypeError("not text")
    return value


def _many(form: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: tuple(
        form(item) for item in (value.reshape(-1).tolist() if isinstance(value, Tensor) else value)
    )


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError("not a tensor")
    return value


def _as_list(values: list[Any]) -> list[Any]:
    """Return several arguments, or one argument that is a list, as a list."""
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


_LARGEST_PARAMETER = 64
_CONSTANT = "const"
_COMPRESSED = "constexpr_"


def load_steps(
    package: MlPackage, signature: Function, block: Any, half: bool
) -> tuple[tuple[Operation, ...], tuple[Step, ...], Mapping[str, Any]]:
    """Return a block's operations, the steps to run, and its constants by name; ``half``: round what is declared fp16.

    Raises:
        InputError: an operator is unknown, or the block contradicts itself.
    """
    where = f"{package.path}: function {quoted(signature.name)}"
    lacking: dict[str, str] = {}
    for written in block.operations:
        if written.type != _CONSTANT and written.type not in OPERATORS:
            lacking.setdefault(written.type, written.outputs[0].name if written.outputs else "")
    if lacking:
        listed = ", ".join(f"{quoted(kind)} (value {quoted(name)})" for kind, name in lacking.items())
        raise InputError(f"{where}: has operators that the executor lacks: {listed}")
    reader = _Reader(package, where, half)
    for feature in signature.inputs:
        reader.declare(feature.name, feature.dtype)
    for written in block.operations:
        reader.read(written)
    for output in signature.outputs:
        reader.check_known(output.name)
    return tuple(reader.operations), _freeing(reader.steps), MappingProxyType(reader.constants)


class _Reader:
    """The state of reading a block from its beginning."""

    def __init__(self, package: MlPackage, where: str, half: bool) -> None:
        self.package, self.where, self.half = package, where, half
        self.operations: list[Operation] = []
        self.steps: list[Step] = []
        self.constants: dict[str, Any] = {}
        self._types: dict[str, str] = {}
        self._stored: dict[str, dict[object, int]] = {}

    def declare(self, name: str, kind: str) -> None:
        if not name or name in self._types:
            raise InputError(f"{self.where}: the name {quoted(name)} is empty or taken; convert the model again")
        self._types[name] = kind

    def check_known(self, name: str) -> None:
        if name not in self._types:
            raise InputError(f"{self.where}: {quoted(name)} is used before it is computed; convert the model again")

    def read(self, written: Any) -> None:
        if not written.outputs:
            raise InputError(f"{self.where}: a {quoted(written.type)} has no result; convert the model again")
        arguments, stored = self._arguments(written)
        types = [self._declared(result.type) for result in written.outputs]
        results = tuple(
            Result(output.name, "dictionary" if kind is None else kind[0].name, () if kind is None else kind[1])
            for output, kind in zip(written.outputs, types)
        )
        constant = written.type == _CONSTANT or written.type.startswith(_COMPRESSED)
        operation = Operation(
            written.type,
            results[0].name,
            MappingProxyType(_names(arguments)),
            MappingProxyType(_small(arguments, self.constants)),
            results,
            sum(stored.values()),
            constant,
        )
        for result in results:
            self.declare(result.name, result.dtype)
            if constant:
                self._stored[result.name] = stored
        self.operations.append(operation)
        if written.type == _CONSTANT:
            if "val" not in written.attributes:
                raise InputError(f"{self.where}: {described(operation)} has no value; convert the model again")
            self._keep(operation, types[0], written, arguments["val"])
            return
        call, singles, lists = bind(operation, arguments, self.constants, self.where)
        exact = needs_no_rounding(written.type, self._input_types(arguments))
        slots = tuple(_slot(result.name, kind, self.half, exact) for result, kind in zip(results, types))
        step = Step(operation, call, tuple(singles), tuple(lists), slots, ())
        if not constant:
            self.steps.append(step)
            return
        if singles or lists:
            raise InputError(f"{self.where}: {described(operation)} depends on an input; convert the model again")
        for result, value in zip(results, step.compute(self.constants, self.where)):
            self.constants[result.name] = value

    def _arguments(self, written: Any) -> tuple[dict[str, list[Any]], dict[object, int]]:
        """Return parameter -> named values and constants, and place of each constant among them -> its stored bytes."""
        weights = self.package.weights
        arguments: dict[str, list[Any]] = {}
        stored: dict[object, int] = {}
        place = len(self.operations)
        literals = {key: [value] for key, value in written.attributes.items() if key != "name"}
        for parameter, argument in written.inputs.items():
            literals.pop(parameter, None)
            operands: list[Any] = []
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    self.check_known(binding.name)
                    stored.update(self._stored.get(binding.name, {}))
                    operands.append(Named(binding.name))
                else:
                    operands.append(read_value(binding.value, weights))
                    stored[place, parameter, len(operands)] = check_value(binding.value, weights)
            arguments[parameter] = operands
        for key, values in literals.items():
            arguments[key] = [read_value(value, weights) for value in values]
            stored[place, key, 0] = sum(check_value(value, weights) for value in values)
        return arguments, stored

    def _declared(self, declared: Any) -> tuple[DataType, tuple[int, ...]] | None:
        if declared.WhichOneof("type") != "tensorType":
            return None
        return tensor_type(declared, self.package.path)

    def _input_types(self, arguments: Mapping[str, list[Any]]) -> list[str]:
        """Return the types of the values that an operation takes; unnamed tensors have no known type and count as fp32."""
        return [
            self._types[value.name] if isinstance(value, Named) else "fp32" if isinstance(value, Tensor) else ""
            for operands in arguments.values()
            for value in operands
        ]

    def _keep(
        self, operation: Operation, declared: tuple[DataType, tuple[int, ...]] | None, written: Any, operands: list[Any]
    ) -> None:
        if declared is not None and self._declared(written.attributes["val"].type) != declared:
            raise InputError(f"{self.where}: {described(operation)} is not of its type; convert the model again")
        self.constants[operation.name] = operands[0]


def _slot(name: str, declared: tuple[DataType, tuple[int, ...]] | None, half: bool, exact: bool) -> Slot | None:
    if declared is None or declared[0] is STRING:
        return None
    kind, shape = declared
    return Slot(name, shape, kind.held, half and kind.name == "fp16" and not exact)


def _names(arguments: Mapping[str, list[Any]]) -> dict[str, tuple[str, ...]]:
    named = {
        key: tuple(each.name for each in operands if isinstance(each, Named)) for key, operands in arguments.items()
    }
    return {key: names for key, names in named.items() if names}


def _small(arguments: Mapping[str, list[Any]], constants: Mapping[str, Any]) -> dict[str, object]:
    """Return constant arguments of a few elements as Python values."""
    small: dict[str, object] = {}
    for parameter, operands in arguments.items():
        values = [constants.get(each.name, each) if isinstance(each, Named) else each for each in operands]
        if len(values) != 1 or isinstance(values[0], Named):
            continue
        (value,) = values
        if isinstance(value, Tensor):
            if value.numel() <= _LARGEST_PARAMETER:
                small[parameter] = value.tolist()
        elif not isinstance(value, list) or len(value) <= _LARGEST_PARAMETER:
            small[parameter] = value
    return small


def _freeing(steps: list[Step]) -> tuple[Step, ...]:
    """Return the steps, each with the values that no later one needs."""
    seen: set[str] = set()
    planned: list[Step] = []
    for step in reversed(steps):
        used = {name for _, name, _ in step.singles} | {name for _, names in step.lists for name in names}
        made = {result.name for result in step.operation.outputs}
        last = tuple(sorted((used | made) - seen))
        seen |= used
        planned.append(Step(step.operation, step.call, step.singles, step.lists, step.slots, last))
    return tuple(reversed(planned))
