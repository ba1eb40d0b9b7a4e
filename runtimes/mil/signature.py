"""What the functions of a package take and give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tofe_edge.errors import InputError
from tofe_edge.runtimes.mil.manifest import shown
from tofe_edge.runtimes.mil.values import tensor_type

Kind = Literal["tensor", "image", "text", "dictionary"]

_COLORS = {10: ("GRAY", 1), 20: ("RGB", 3), 30: ("BGR", 3), 40: ("GRAY", 1)}
"""``ImageFeatureType.ColorSpace`` -> name, channels."""


@dataclass(frozen=True)
class Feature:
    """One input or output.

    Attributes:
        name: what callers call it.
        kind: ``image``, ``text`` for a class label, ``dictionary`` for class scores.
        dtype: MIL element type, such as ``fp32``.
        shape: ``(1, 3, H, W)`` or ``(1, 1, H, W)`` for images; open dimensions are -1.
        color: order of an image's channels, ``RGB``, ``BGR`` or ``GRAY``; None for other kinds.
    """

    name: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    color: str | None = None


@dataclass(frozen=True)
class Function:
    """One function of a package: its inputs and outputs, in the order of the program."""

    name: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]


def function_block(function: Any, name: str, package: object) -> Any:
    """Return the block that a function runs.

    Raises:
        InputError: the function names one that is missing.
    """
    if function.opset not in function.block_specializations:
        raise InputError(
            f"{package}: function {shown(name)} has no block for its opset {shown(function.opset)}; convert it again"
        )
    return function.block_specializations[function.opset]


def read_signature(name: str, function: Any, description: Any, package: object) -> Function:
    """Return the signature of a program's function, as the package describes it.

    Raises:
        InputError: program and description differ, or an input or output has a type that Core ML lacks.
    """
    described = {feature.name: feature.type for feature in [*description.input, *description.output]}
    block = function_block(function, name, package)
    results = {result.name: result.type for operation in block.operations for result in operation.outputs}
    inputs = {value.name: value.type for value in function.inputs}
    outputs = set(block.outputs)
    if set(inputs) != {feature.name for feature in description.input} or outputs != {
        feature.name for feature in description.output
    }:
        raise InputError(f"{package}: function {shown(name)} and its description differ; convert the model again")
    if not outputs or not outputs <= {*results, *inputs}:
        raise InputError(f"{package}: function {shown(name)} lacks an output of its description; convert it again")
    return Function(
        name,
        tuple(_feature(key, declared, described[key], package) for key, declared in inputs.items()),
        tuple(_feature(key, {**inputs, **results}[key], described[key], package) for key in block.outputs),
    )


def _feature(name: str, declared: Any, described: Any, package: object) -> Feature:
    form = described.WhichOneof("Type")
    if form == "dictionaryType":
        return Feature(name, "dictionary", "fp64", ())
    if form in ("stringType", "int64Type"):
        return Feature(name, "text", "string" if form == "stringType" else "int64", ())
    if form not in ("multiArrayType", "imageType"):
        raise InputError(
            f"{package}: {shown(name)} has the type {form}, which is not supported (no state, no sequence)"
        )
    kind, shape = tensor_type(declared, package)
    if form == "multiArrayType":
        return Feature(name, "tensor", kind.name, shape)
    color, channels = _COLORS.get(described.imageType.colorSpace, ("", 0))
    if len(shape) != 4 or shape[0] != 1 or shape[1] != channels:
        raise InputError(f"{package}: {shown(name)} is an image with the shape {list(shape)}; convert the model again")
    return Feature(name, "image", kind.name, shape, color)
