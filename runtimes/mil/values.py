"""Values of a program: constants in the protobuf or in a weight file, and the types that it declares."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from tofe_edge.errors import InputError
from tofe_edge.runtimes.mil.datatypes import DATA_TYPES, STRING, DataType, hold, stored_bytes, unpack
from tofe_edge.runtimes.mil.manifest import shown
from tofe_edge.runtimes.mil.weights import WeightFiles

Value = torch.Tensor | str | list[Any]
"""A tensor, a string, or a list of values; lists of strings and of class numbers are plain Python."""

_LARGEST_TENSOR = 4 << 30
_LARGEST_RANK = 16
_UNKNOWN = -1
# What a file can contain and Python cannot take: too large for the type, cut bytes, no text.
_BAD_NUMBERS = (ValueError, OverflowError, TypeError)


def tensor_type(declared: Any, package: object) -> tuple[DataType, tuple[int, ...]]:
    """Element type and shape of a ``ValueType`` that declares a tensor; dimensions left open are -1.

    Raises:
        InputError: it is no tensor, of an unknown element type, or larger than 4 GiB.
    """
    if declared.WhichOneof("type") != "tensorType":
        raise InputError(f"{package}: a tensor is declared as {declared.WhichOneof('type')}; convert the model again")
    tensor = declared.tensorType
    kind = DATA_TYPES.get(tensor.dataType)
    if kind is None:
        raise InputError(f"{package}: a tensor has the unknown element type {tensor.dataType}; convert the model again")
    shape = tuple(
        dimension.constant.size if dimension.WhichOneof("dimension") == "constant" else _UNKNOWN
        for dimension in tensor.dimensions
    )
    known = math.prod(size for size in shape if size != _UNKNOWN)
    if len(shape) > _LARGEST_RANK or stored_bytes(kind, known) > _LARGEST_TENSOR:
        raise InputError(f"{package}: a tensor of {shown(list(shape))} {kind.name} is too large (over 4 GiB)")
    return kind, shape


def constant_type(value: Any, package: object) -> tuple[DataType, tuple[int, ...]]:
    """As :func:`tensor_type` for a constant, whose shape has to be complete.

    Raises:
        InputError: as :func:`tensor_type`, or a dimension is open.
    """
    kind, shape = tensor_type(value.type, package)
    if _UNKNOWN in shape:
        raise InputError(f"{package}: a constant has an open shape {list(shape)}; convert the model again")
    return kind, shape


def check_value(value: Any, weights: WeightFiles) -> int:
    """Check the types of a constant and everything it has in weight files; returns those bytes.

    Raises:
        InputError: as :func:`tensor_type` and :meth:`WeightFiles.check`.
    """
    if value.WhichOneof("value") == "blobFileValue":
        kind, shape = constant_type(value, weights.package)
        count, blob = math.prod(shape), value.blobFileValue
        weights.check(blob.fileName, blob.offset, kind, count)
        return stored_bytes(kind, count)
    if value.type.WhichOneof("type") == "tensorType":
        constant_type(value, weights.package)
    return sum(check_value(item, weights) for item in _items(value))


def read_value(value: Any, weights: WeightFiles) -> Value:
    """What a constant says.

    Raises:
        InputError: as :func:`check_value`, or its elements do not fit its type.
    """
    package = weights.package
    form = value.type.WhichOneof("type")
    if form in ("listType", "tupleType"):
        return [_plain(read_value(item, weights)) for item in _items(value)]
    kind, shape = constant_type(value, package)
    count = math.prod(shape)
    if value.WhichOneof("value") == "blobFileValue":
        blob = value.blobFileValue
        return hold(weights.read(blob.fileName, blob.offset, kind, count).reshape(shape), kind)
    field = value.immediateValue.tensor.WhichOneof("value")
    if value.immediateValue.WhichOneof("value") != "tensor" or field is None:
        raise InputError(f"{package}: a constant of type {kind.name} has no value; convert the model again")
    given = getattr(value.immediateValue.tensor, field).values
    size = len(given)
    expected = stored_bytes(kind, count) if field == "bytes" else count
    if size != expected or (field == "strings") != (kind is STRING):
        raise InputError(
            f"{package}: a constant of {list(shape)} {kind.name} has {size} {field}; convert the model again"
        )
    if kind is STRING:
        return list(given) if shape else str(given[0])
    try:
        if field == "bytes":
            array = unpack(np.frombuffer(given, np.uint8), kind, count)
        else:
            array = np.array(list(given), kind.array)
        return hold(array.reshape(shape), kind)
    except _BAD_NUMBERS as error:
        raise InputError(f"{package}: a constant does not fit its type {kind.name}; convert the model again") from error


def _items(value: Any) -> list[Any]:
    immediate = value.immediateValue
    form = immediate.WhichOneof("value")
    if form in ("list", "tuple"):
        return list(getattr(immediate, form).values)
    if form == "dictionary":
        return [item for pair in immediate.dictionary.values for item in (pair.key, pair.value)]
    return []


def _plain(value: Value) -> Any:
    """Scalars inside lists are wanted as Python numbers."""
    return value.item() if isinstance(value, torch.Tensor) and value.dim() == 0 else value
