"""The data types of MIL: their names, how files store them and how the executor holds them.

Numbers are those of ``MILSpec.DataType`` in Apple's ``MIL.proto``; blob codes those of ``BlobDataType`` in the weight
file's format (MIL blob storage, version 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch


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
