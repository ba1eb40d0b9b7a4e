"""Count what a Core ML package computes: exact, as it follows from the program's shapes.

Where it runs only Core ML decides; :mod:`tofe_edge.runtimes.coreml_device` asks it, on a Mac.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tofe_edge.errors import InputError
from tofe_edge.runtimes.coreml_checks import token_order
from tofe_edge.runtimes.mil import Feature, Operation

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each value, by its name."""


@dataclass(frozen=True)
class Cost:
    """What one operation needs.

    Attributes:
        operation: not a constant.
        macs: multiply-accumulates; 0 for all but products and convolutions, as in :mod:`tofe_edge.model.macs`.
        weight_bytes: stored bytes of constants that no earlier operation needs. What a file stores once under
            several names counts for each.
        stage: selections that it comes after, from 0.
    """

    operation: Operation
    macs: int
    weight_bytes: int
    stage: int


@dataclass(frozen=True)
class Share:
    """Costs of several operations together."""

    name: str
    count: int
    macs: int
    weight_bytes: int


def costs(operations: Sequence[Operation], inputs: Iterable[Feature] = ()) -> list[Cost]:
    """Return what each operation needs, constants left out, in the order of the program.

    Args:
        operations: of one function, :attr:`tofe_edge.runtimes.mil.Program.operations`.
        inputs: of that function.

    Raises:
        InputError: a product has a shape that is open or not written down.
    """
    shapes = {value.name: value.shape for value in inputs}
    shapes |= {result.name: result.shape for operation in operations for result in operation.outputs}
    weights = _first_uses(operations)
    stages = _stages(operations)
    return [
        Cost(operation, macs_of(operation, shapes), weights[operation.name], stages[operation.name])
        for operation in operations
        if not operation.constant
    ]


def by_operator(counted: Sequence[Cost]) -> list[Share]:
    """Return sums by type of operator, most MACs first, then by number."""
    kinds: dict[str, list[Cost]] = {}
    for cost in counted:
        kinds.setdefault(cost.operation.type, []).append(cost)
    shares = [_share(kind, those) for kind, those in kinds.items()]
    return sorted(shares, key=lambda share: (-share.macs, -share.count, share.name))


def by_stage(counted: Sequence[Cost], names: Sequence[str]) -> list[Share]:
    """Return sums by stage. Scoring and putting in order count for the stage before a selection, moving tokens for the next.

    Args:
        names: of the stages, such as :func:`tofe_edge.runtimes.etdump.stage_names` gives.
    """
    return [_share(name, [cost for cost in counted if cost.stage == stage]) for stage, name in enumerate(names)]


def in_total(counted: Sequence[Cost]) -> Share:
    """Return the sum of all."""
    return _share("total", counted)


def macs_of(operation: Operation, shapes: Shapes) -> int:
    """Multiply-accumulates of one operation.

    Raises:
        InputError: they depend on a shape that is open or not written down.
    """

    def shape_of(parameter: str, index: int = 0) -> tuple[int, ...]:
        names = operation.inputs.get(parameter, ())
        return _fixed(shapes.get(names[index]) if index < len(names) else None, operation, parameter)

    def result() -> tuple[int, ...]:
        return _fixed(operation.outputs[0].shape, operation, "its result")

    match operation.type:
        case "linear":
            return math.prod(result()) * shape_of("x")[-1]
        case "conv":  # weights are (out, in / groups, kernel...)
            return math.prod(result()) * math.prod(shape_of("weight")[1:])
        case "matmul":
            left = shape_of("x")
            transposed = bool(operation.parameters.get("transpose_x", False)) and len(left) > 1
            return math.prod(result()) * left[-2 if transposed else -1]
        case "einsum":  # every letter is a loop
            words = str(operation.parameters["equation"]).replace(" ", "").split("->")[0].split(",")
            sizes = {
                letter: size
                for place, word in enumerate(words)
                for letter, size in zip(word, shape_of("values", place))
            }
            return math.prod(sizes.values())
        case "scaled_dot_product_attention":  # query (..., L, E), key (..., S, E), result (..., L, V): two products
            keys, width = shape_of("key")[-2:]
            return math.prod(result()[:-1]) * keys * (width + result()[-1])
    return 0


def _fixed(shape: tuple[int, ...] | None, operation: Operation, what: str) -> tuple[int, ...]:
    if shape is None or min(shape, default=1) < 0:
        raise InputError(
            f"{operation.type} {operation.name!r}: the shape of {what} is not known; convert the model again"
        )
    return shape


def _share(name: str, counted: Sequence[Cost]) -> Share:
    return Share(name, len(counted), sum(cost.macs for cost in counted), sum(cost.weight_bytes for cost in counted))


def _first_uses(operations: Sequence[Operation]) -> dict[str, int]:
    """Stored bytes by operation, each constant with the first operation that needs it; 0 for constants."""
    made = {result.name: operation for operation in operations if operation.constant for result in operation.outputs}
    taken: set[str] = set()

    def take(operation: Operation) -> int:
        used = {name: made[name] for names in operation.inputs.values() for name in names if name in made}
        own = operation.weight_bytes - sum(constant.weight_bytes for constant in used.values())
        new = {name: constant for name, constant in used.items() if name not in taken}
        taken.update(new)
        return own + sum(take(constant) for constant in new.values())

    return {operation.name: 0 if operation.constant else take(operation) for operation in operations}


def _stages(operations: Sequence[Operation]) -> dict[str, int]:
    """How many selections each operation comes after: an earlier selection's order does not depend on it."""
    makers = {result.name: operation for operation in operations for result in operation.outputs}
    stages: dict[str, int] = {}
    selections = 0
    while token_order(selections + 1) in makers:
        waiting = [makers[token_order(selections + 1)]]
        while waiting:
            operation = waiting.pop()
            if operation.name not in stages:
                stages[operation.name] = selections
                waiting += [makers[name] for names in operation.inputs.values() for name in names if name in makers]
        selections += 1
    return {operation.name: stages.get(operation.name, selections) for operation in operations}
