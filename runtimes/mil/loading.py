"""Reading a block's operations in order: constants into values, all else into steps."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.runtimes.mil.datatypes import STRING, DataType
from tofe_edge.runtimes.mil.manifest import shown
from tofe_edge.runtimes.mil.operation import Operation, Result
from tofe_edge.runtimes.mil.operators import OPERATORS
from tofe_edge.runtimes.mil.package import MlPackage
from tofe_edge.runtimes.mil.preparation import Named, Slot, Step, bind, described, needs_no_rounding
from tofe_edge.runtimes.mil.signature import Function
from tofe_edge.runtimes.mil.values import check_value, read_value, tensor_type

_LARGEST_PARAMETER = 64
_CONSTANT = "const"
_COMPRESSED = "constexpr_"


def load_steps(
    package: MlPackage, signature: Function, block: Any, half: bool
) -> tuple[tuple[Operation, ...], tuple[Step, ...], Mapping[str, Any]]:
    """A block's operations, the steps to run, and its constants by name. ``half``: round what is declared fp16.

    Raises:
        InputError: an operator is not known, or the block contradicts itself.
    """
    where = f"{package.path}: function {shown(signature.name)}"
    lacking: dict[str, str] = {}
    for written in block.operations:
        if written.type != _CONSTANT and written.type not in OPERATORS:
            lacking.setdefault(written.type, written.outputs[0].name if written.outputs else "")
    if lacking:
        listed = ", ".join(f"{shown(kind)} (value {shown(name)})" for kind, name in lacking.items())
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
    """What is known so far of a block that is read from its beginning."""

    def __init__(self, package: MlPackage, where: str, half: bool) -> None:
        self.package, self.where, self.half = package, where, half
        self.operations: list[Operation] = []
        self.steps: list[Step] = []
        self.constants: dict[str, Any] = {}
        self._types: dict[str, str] = {}
        self._stored: dict[str, dict[object, int]] = {}

    def declare(self, name: str, kind: str) -> None:
        if not name or name in self._types:
            raise InputError(f"{self.where}: the name {shown(name)} is empty or taken; convert the model again")
        self._types[name] = kind

    def check_known(self, name: str) -> None:
        if name not in self._types:
            raise InputError(f"{self.where}: {shown(name)} is used before it is computed; convert the model again")

    def read(self, written: Any) -> None:
        if not written.outputs:
            raise InputError(f"{self.where}: a {shown(written.type)} has no result; convert the model again")
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
        exact = needs_no_rounding(written.type, self._given(arguments))
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
        """Parameter -> named values and constants; and where a constant among them is written -> its stored bytes."""
        weights = self.package.weights
        arguments: dict[str, list[Any]] = {}
        stored: dict[object, int] = {}
        place = len(self.operations)
        literals = {key: [value] for key, value in written.attributes.items() if key != "name"}
        for parameter, argument in written.inputs.items():
            literals.pop(parameter, None)
            given: list[Any] = []
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    self.check_known(binding.name)
                    stored.update(self._stored.get(binding.name, {}))
                    given.append(Named(binding.name))
                else:
                    given.append(read_value(binding.value, weights))
                    stored[place, parameter, len(given)] = check_value(binding.value, weights)
            arguments[parameter] = given
        for key, values in literals.items():
            arguments[key] = [read_value(value, weights) for value in values]
            stored[place, key, 0] = sum(check_value(value, weights) for value in values)
        return arguments, stored

    def _declared(self, declared: Any) -> tuple[DataType, tuple[int, ...]] | None:
        if declared.WhichOneof("type") != "tensorType":
            return None
        return tensor_type(declared, self.package.path)

    def _given(self, arguments: Mapping[str, list[Any]]) -> list[str]:
        """Types of the values that an operation gets; what has no name is not known, and so taken for fp32."""
        return [
            self._types[value.name] if isinstance(value, Named) else "fp32" if isinstance(value, Tensor) else ""
            for given in arguments.values()
            for value in given
        ]

    def _keep(
        self, operation: Operation, declared: tuple[DataType, tuple[int, ...]] | None, written: Any, given: list[Any]
    ) -> None:
        if declared is not None and self._declared(written.attributes["val"].type) != declared:
            raise InputError(f"{self.where}: {described(operation)} is not of its type; convert the model again")
        self.constants[operation.name] = given[0]


def _slot(name: str, declared: tuple[DataType, tuple[int, ...]] | None, half: bool, exact: bool) -> Slot | None:
    if declared is None or declared[0] is STRING:
        return None
    kind, shape = declared
    rounded = half and kind.name == "fp16"
    return Slot(name, shape, kind.held, rounded, rounded and not exact)


def _names(arguments: Mapping[str, list[Any]]) -> dict[str, tuple[str, ...]]:
    named = {key: tuple(each.name for each in given if isinstance(each, Named)) for key, given in arguments.items()}
    return {key: names for key, names in named.items() if names}


def _small(arguments: Mapping[str, list[Any]], constants: Mapping[str, Any]) -> dict[str, object]:
    """Constant arguments of a few elements, as Python values."""
    small: dict[str, object] = {}
    for parameter, given in arguments.items():
        values = [constants.get(each.name, each) if isinstance(each, Named) else each for each in given]
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
    """The steps with what each is the last to need."""
    seen: set[str] = set()
    planned: list[Step] = []
    for step in reversed(steps):
        used = {name for _, name, _ in step.singles} | {name for _, names in step.lists for name in names}
        made = {result.name for result in step.operation.outputs}
        last = tuple(sorted((used | made) - seen))
        seen |= used
        planned.append(Step(step.operation, step.call, step.singles, step.lists, step.slots, last))
    return tuple(reversed(planned))
