"""Opening a ``.mlpackage``: what its functions take and give, and all checks that need not run it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from tofe_edge.errors import InputError, quoted
from tofe_edge.io.quiet import quiet, swallow_native_stderr
from tofe_edge.runtimes.mil.manifest import find_model
from tofe_edge.runtimes.mil.values import WeightFiles, check_value, tensor_type

Kind = Literal["tensor", "image", "text", "dictionary"]

_RGB = 20
"""Of ``ImageFeatureType.ColorSpace``."""


@dataclass(frozen=True)
class Feature:
    """One input or output.

    Attributes:
        name: what callers call it.
        kind: ``image``, ``text`` for a class label, ``dictionary`` for class scores.
        dtype: MIL element type, such as ``fp32``.
        shape: ``(1, 3, H, W)`` for images, whose channels are R, G, B; open dimensions are -1.
    """

    name: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]


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
            f"{package}: function {quoted(name)} has no block for its opset {quoted(function.opset)}; convert it again"
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
        raise InputError(f"{package}: function {quoted(name)} and its description differ; convert the model again")
    if not outputs or not outputs <= {*results, *inputs}:
        raise InputError(f"{package}: function {quoted(name)} lacks an output of its description; convert it again")
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
            f"{package}: {quoted(name)} has the type {form}, which is not supported (no state, no sequence)"
        )
    kind, shape = tensor_type(declared, package)
    if form == "multiArrayType":
        return Feature(name, "tensor", kind.name, shape)
    if described.imageType.colorSpace != _RGB or len(shape) != 4 or shape[:2] != (1, 3):
        raise InputError(
            f"{package}: {quoted(name)} is not an RGB image (shape {list(shape)}); convert the model again"
        )
    return Feature(name, "image", kind.name, shape)


_MAIN = "main"
_DEEPEST_BLOCK = 32


@dataclass(frozen=True)
class Metadata:
    """What the author says about a package; empty strings if nothing."""

    author: str
    license: str
    version: str
    short_description: str
    user_defined: Mapping[str, str]


@dataclass(frozen=True)
class MlPackage:
    """A checked package.

    Attributes:
        path: its folder.
        spec: the protobuf ``CoreML.Specification.Model``.
        specification_version: 6 for iOS 15, 7 for iOS 16, 8 for iOS 17, 9 for iOS 18.
        functions: name -> signature.
        default_function: the one that an app gets if it names none.
        metadata: author, licence and the like.
        weights: its weight files.
    """

    path: Path
    spec: Any = field(repr=False)
    specification_version: int
    functions: Mapping[str, Function]
    default_function: str
    metadata: Metadata
    weights: WeightFiles


def open_package(path: Path) -> MlPackage:
    """Open and check a ``.mlpackage`` folder: manifest, protobuf, declared types and every tensor in its weight files.

    Raises:
        InputError: it is not a folder, or anything in it is missing, cut, contradictory, outside the folder, or not an
            ML Program. No other error, whatever the files contain.
    """
    model = find_model(path)
    spec = _parse(path, model)
    weights = WeightFiles(path, model.parent)
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            _check_block(block, weights, 0)
    functions = _signatures(path, spec)
    default = spec.description.defaultFunctionName or (_MAIN if _MAIN in functions else next(iter(functions)))
    if default not in functions:
        raise InputError(f"{path}: its default function {quoted(default)} is missing; convert the model again")
    written = spec.description.metadata
    metadata = Metadata(
        written.author,
        written.license,
        written.versionString,
        written.shortDescription,
        MappingProxyType(dict(written.userDefined)),
    )
    return MlPackage(path, spec, spec.specificationVersion, functions, default, metadata, weights)


@functools.cache
def _model_class() -> Any:
    """Return the protobuf class; coremltools takes seconds to import and prints warnings."""
    with quiet(), swallow_native_stderr():
        from coremltools.proto import Model_pb2
    return Model_pb2.Model


def _parse(package: Path, model: Path) -> Any:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    spec = _model_class()()
    try:
        spec.ParseFromString(model.read_bytes())
    except OSError as error:
        raise InputError(f"{package}: {model.name} cannot be read ({error.strerror or error})") from error
    except (DecodeError, RecursionError, ValueError, MemoryError) as error:
        raise InputError(f"{package}: {model.name} is cut or not a Core ML model; copy or convert it again") from error
    form = spec.WhichOneof("Type")
    if form != "mlProgram":
        raise InputError(
            f"{package}: {model.name} holds {form or 'no model'}, not an ML Program; convert with convert_to='mlprogram'"
        )
    if not spec.mlProgram.functions:
        raise InputError(f"{package}: {model.name} has no functions; convert the model again")
    return spec


def _signatures(package: Path, spec: Any) -> Mapping[str, Function]:
    descriptions = {function.name: function for function in spec.description.functions} or {_MAIN: spec.description}
    functions = spec.mlProgram.functions
    if set(descriptions) != set(functions):
        raise InputError(
            f"{package}: has the functions {quoted(sorted(functions))}, but describes {quoted(sorted(descriptions))};"
            " convert the model again"
        )
    return MappingProxyType(
        {name: read_signature(name, functions[name], descriptions[name], package) for name in descriptions}
    )


def _check_block(block: Any, weights: WeightFiles, depth: int) -> None:
    if depth > _DEEPEST_BLOCK:
        raise InputError(f"{weights.package}: blocks are nested too deeply; convert the model again")
    for operation in block.operations:
        for value in _constants(operation):
            check_value(value, weights)
        for result in operation.outputs:
            if result.type.WhichOneof("type") == "tensorType":
                tensor_type(result.type, weights.package)
        for inner in operation.blocks:
            _check_block(inner, weights, depth + 1)


def _constants(operation: Any) -> Iterator[Any]:
    """Yield every constant written into an operation."""
    yield from operation.attributes.values()
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                yield binding.value
