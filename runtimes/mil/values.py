"""Values of a program: the data types of MIL, constants in the protobuf or in a weight file, and the types that it declares.

Numbers of types are those of ``MILSpec.DataType`` in Apple's ``MIL.proto``; blob codes those of ``BlobDataType`` (version 2).
A weight file begins with a header of 64 bytes (count, version, reserved). Each tensor has a header of 64 bytes at
the offset that the program gives: a sentinel, the element type, the size of the data in bytes, and where they are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from tofe_edge.errors import InputError, quoted
from tofe_edge.runtimes.mil.manifest import inside


@dataclass(frozen=True)
class DataType:
    """One element type.

    Attributes:
        name: as MIL writes it: ``fp16``, ``int8``, ``uint4``.
        bits: stored size of an element; 0 for strings.
        array: numpy type of one element outside the executor.
        held: torch type of one element inside it. Half precision is held as float32 numbers that were rounded
            (CPUs are slow in half precision); types that torch lacks as wider integers.
        blob_code: the type's number in a weight file; None if weight files cannot have it.
    """

    name: str
    bits: int
    array: type[np.generic]
    held: torch.dtype
    blob_code: int | None = None

    @property
    def signed(self) -> bool:
        """Whether stored integers of this type are signed (two's complement)."""
        return not self.name.startswith("u")


STRING = DataType("string", 0, np.str_, torch.uint8)

DATA_TYPES: Mapping[int, DataType] = MappingProxyType(
    {
        1: DataType("bool", 8, np.bool_, torch.bool),
        2: STRING,
        10: DataType("fp16", 16, np.float16, torch.float32, 1),
        11: DataType("fp32", 32, np.float32, torch.float32, 2),
        12: DataType("fp64", 64, np.float64, torch.float64),
        21: DataType("int8", 8, np.int8, torch.int8, 4),
        22: DataType("int16", 16, np.int16, torch.int16, 6),
        23: DataType("int32", 32, np.int32, torch.int32, 14),
        24: DataType("int64", 64, np.int64, torch.int64),
        25: DataType("int4", 4, np.int8, torch.int8, 8),
        31: DataType("uint8", 8, np.uint8, torch.uint8, 3),
        32: DataType("uint16", 16, np.uint16, torch.int64, 7),
        33: DataType("uint32", 32, np.uint32, torch.int64, 15),
        34: DataType("uint64", 64, np.uint64, torch.int64),
        35: DataType("uint4", 4, np.uint8, torch.uint8, 11),
        36: DataType("uint2", 2, np.uint8, torch.uint8, 10),
        37: DataType("uint1", 1, np.uint8, torch.uint8, 9),
        38: DataType("uint6", 6, np.uint8, torch.uint8, 13),
        39: DataType("uint3", 3, np.uint8, torch.uint8, 12),
    }
)
"""Number in the protobuf -> type. The 8-bit floats and bfloat16 are missing: coremltools writes none."""

BY_NAME: Mapping[str, DataType] = MappingProxyType({kind.name: kind for kind in DATA_TYPES.values()})


def stored_bytes(kind: DataType, count: int) -> int:
    """Return the bytes of ``count`` elements, densely packed."""
    return (count * kind.bits + 7) // 8


def unpack(stored: np.ndarray, kind: DataType, count: int) -> np.ndarray:
    """Return elements ``(count,)`` of type ``kind.array`` from ``stored`` bytes (uint8), lowest bits first.

    Raises:
        ValueError: there are too few bytes.
    """
    if len(stored) < stored_bytes(kind, count):
        raise ValueError(f"{len(stored)} bytes for {count} elements of {kind.name}")
    if kind.bits >= 8:
        whole: np.ndarray = stored.view(kind.array)[:count]
        return whole
    bits = np.unpackbits(stored, bitorder="little", count=count * kind.bits).reshape(count, kind.bits)
    places = 1 << np.arange(kind.bits, dtype=np.int16)
    numbers = (bits * places).sum(axis=1)
    if kind.signed:
        numbers = np.where(numbers >= 1 << (kind.bits - 1), numbers - (1 << kind.bits), numbers)
    unpacked: np.ndarray = numbers.astype(kind.array)
    return unpacked


def hold(array: np.ndarray, kind: DataType) -> torch.Tensor:
    """Return a new tensor with the elements of ``array``, in the type that the executor holds ``kind`` in."""
    if array.dtype in (np.uint16, np.uint32, np.uint64):
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array)).to(kind.held)


_MODEL_FOLDER = "@model_path/"
_FILE_HEADER = struct.Struct("<II56x")
_HEADER = struct.Struct("<IIQQ40x")
_SENTINEL = 0xDEADBEEF
_VERSION = 2
_AGAIN = "copy or convert the package again"


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of one package. ``folder`` is what programs call ``@model_path``."""

    package: Path
    folder: Path

    def check(self, file_name: str, offset: int, kind: DataType, count: int) -> None:
        """Check that ``count`` elements of ``kind`` are there.

        Raises:
            InputError: the file is missing or outside the package, or what is at ``offset`` is something else.
        """
        self._find(file_name, offset, kind, count)

    def read(self, file_name: str, offset: int, kind: DataType, count: int) -> np.ndarray:
        """Return the elements ``(count,)`` as ``kind.array``. Raises the errors of :meth:`check`."""
        path, begin, size = self._find(file_name, offset, kind, count)
        try:
            stored = np.fromfile(path, np.uint8, size, offset=begin)
        except OSError as error:
            raise self._unreadable(file_name, error) from error
        if len(stored) != size:
            raise InputError(f"{self.package}: {quoted(file_name)} was cut while it was read; {_AGAIN}")
        return unpack(stored, kind, count)

    def _find(self, file_name: str, offset: int, kind: DataType, count: int) -> tuple[Path, int, int]:
        path = self._locate(file_name)
        where = f"{self.package}: {quoted(file_name)} at {offset}"
        try:
            length = path.stat().st_size
            with path.open("rb") as handle:
                file_header = handle.read(_FILE_HEADER.size)
                handle.seek(min(offset, length))
                header = handle.read(_HEADER.size)
        except OSError as error:
            raise self._unreadable(file_name, error) from error
        if len(file_header) < _FILE_HEADER.size or _FILE_HEADER.unpack(file_header)[1] != _VERSION:
            raise InputError(
                f"{self.package}: {quoted(file_name)} is not a weight file of version {_VERSION}; {_AGAIN}"
            )
        if len(header) < _HEADER.size:
            raise InputError(f"{where}: is behind the end of the file; {_AGAIN}")
        sentinel, code, size, begin = _HEADER.unpack(header)
        if sentinel != _SENTINEL:
            raise InputError(f"{where}: is not a tensor; {_AGAIN}")
        if code != kind.blob_code:
            raise InputError(f"{where}: has elements of type {code}, but the program says {kind.name}; {_AGAIN}")
        if size != stored_bytes(kind, count):
            raise InputError(
                f"{where}: has {size} bytes, but the program says {count} elements of {kind.name}; {_AGAIN}"
            )
        if begin + size > length:
            raise InputError(f"{where}: ends behind the end of the file, which was cut; {_AGAIN}")
        return path, begin, size

    def _locate(self, file_name: str) -> Path:
        relative = PurePosixPath(file_name.removeprefix(_MODEL_FOLDER))
        if not file_name.startswith(_MODEL_FOLDER) or relative.is_absolute() or ".." in relative.parts:
            raise InputError(
                f"{self.package}: the weight file {quoted(file_name)} is not in the model's folder; {_AGAIN}"
            )
        path = inside(self.package, self.folder / relative, f"the weight file {quoted(file_name)}")
        if not path.is_file():
            raise InputError(f"{self.package}: the weight file {quoted(file_name)} is not a file; {_AGAIN}")
        return path

    def _unreadable(self, file_name: str, error: OSError) -> InputError:
        return InputError(f"{self.package}: {quoted(file_name)} cannot be read ({error.strerror or 'unknown reason'})")


Value = torch.Tensor | str | list[Any]
"""A tensor, a string, or a list of values; lists of strings and of class numbers are plain Python."""

_LARGEST_TENSOR = 4 << 30
_LARGEST_RANK = 16
_UNKNOWN = -1
# What Python raises for numbers that do not fit: too large for the type, cut bytes, not text.
_BAD_NUMBERS = (ValueError, OverflowError, TypeError)


def tensor_type(declared: Any, package: object) -> tuple[DataType, tuple[int, ...]]:
    """Return element type and shape of a ``ValueType`` that declares a tensor; dimensions left open are -1.

    Raises:
        InputError: it is not a tensor, of an unknown element type, or larger than 4 GiB.
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
        raise InputError(f"{package}: a tensor of {quoted(list(shape))} {kind.name} is too large (over 4 GiB)")
    return kind, shape


def constant_type(value: Any, package: object) -> tuple[DataType, tuple[int, ...]]:
    """Return element type and shape of a constant, whose shape has to be complete.

    Raises:
        InputError: for the reasons of :func:`tensor_type`, or a dimension is open.
    """
    kind, shape = tensor_type(value.type, package)
    if _UNKNOWN in shape:
        raise InputError(f"{package}: a constant has an open shape {list(shape)}; convert the model again")
    return kind, shape


def check_value(value: Any, weights: WeightFiles) -> int:
    """Check the types of a constant and everything it has in weight files; returns those bytes.

    Raises:
        InputError: for the reasons of :func:`tensor_type` and :meth:`WeightFiles.check`.
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
    """Return the value of a constant.

    Raises:
        InputError: for the reasons of :func:`check_value`, or its elements do not fit its type.
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
    elements = getattr(value.immediateValue.tensor, field).values
    size = len(elements)
    expected = stored_bytes(kind, count) if field == "bytes" else count
    if size != expected or (field == "strings") != (kind is STRING):
        raise InputError(
            f"{package}: a constant of {list(shape)} {kind.name} has {size} {field}; convert the model again"
        )
    if kind is STRING:
        return list(elements) if shape else str(elements[0])
    try:
        if field == "bytes":
            array = unpack(np.frombuffer(elements, np.uint8), kind, count)
        else:
            array = np.array(list(elements), kind.array)
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
    """Return scalars, as they stand in lists, as Python numbers."""
    return value.item() if isinstance(value, torch.Tensor) and value.dim() == 0 else value
