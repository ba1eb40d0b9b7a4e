"""The weight files of a package: one header and one run of bytes a tensor.

A weight file begins with a header of 64 bytes (count, version, reserved). Each tensor has a header of 64 bytes at
the offset that the program gives: a sentinel, the element type, the size of the data in bytes, and where they lie.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from tofe_edge.errors import InputError
from tofe_edge.runtimes.mil.datatypes import DataType, stored_bytes, unpack
from tofe_edge.runtimes.mil.manifest import inside, shown

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
        """The elements ``(count,)`` as ``kind.array``. Raises as :meth:`check`."""
        path, begin, size = self._find(file_name, offset, kind, count)
        try:
            stored = np.fromfile(path, np.uint8, size, offset=begin)
        except OSError as error:
            raise self._unreadable(file_name, error) from error
        if len(stored) != size:
            raise InputError(f"{self.package}: {shown(file_name)} was cut while it was read; {_AGAIN}")
        return unpack(stored, kind, count)

    def _find(self, file_name: str, offset: int, kind: DataType, count: int) -> tuple[Path, int, int]:
        path = self._locate(file_name)
        where = f"{self.package}: {shown(file_name)} at {offset}"
        try:
            length = path.stat().st_size
            with path.open("rb") as handle:
                file_header = handle.read(_FILE_HEADER.size)
                handle.seek(min(offset, length))
                header = handle.read(_HEADER.size)
        except OSError as error:
            raise self._unreadable(file_name, error) from error
        if len(file_header) < _FILE_HEADER.size or _FILE_HEADER.unpack(file_header)[1] != _VERSION:
            raise InputError(f"{self.package}: {shown(file_name)} is no weight file of version {_VERSION}; {_AGAIN}")
        if len(header) < _HEADER.size:
            raise InputError(f"{where}: lies behind the end of the file; {_AGAIN}")
        sentinel, code, size, begin = _HEADER.unpack(header)
        if sentinel != _SENTINEL:
            raise InputError(f"{where}: is no tensor; {_AGAIN}")
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
                f"{self.package}: the weight file {shown(file_name)} is not in the model's folder; {_AGAIN}"
            )
        path = inside(self.package, self.folder / relative, f"the weight file {shown(file_name)}")
        if not path.is_file():
            raise InputError(f"{self.package}: the weight file {shown(file_name)} is no file; {_AGAIN}")
        return path

    def _unreadable(self, file_name: str, error: OSError) -> InputError:
        return InputError(f"{self.package}: {shown(file_name)} cannot be read ({error.strerror or 'unknown reason'})")
