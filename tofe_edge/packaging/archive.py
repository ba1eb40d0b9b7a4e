"""Archives whose bytes follow from their content alone: no time, user, order of a file system or version of zlib in them."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping

from tofe_edge.errors import InputError
from tofe_edge.packaging.bundle import BundleFile

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest time that zip can say."""
_LOCAL_HEADER = 30
_PADDING_FIELD = 0xD935
"""The extra field that Android's own tools pad with: its id, its length, the alignment, zeros."""
_PADDING_HEAD = 6

_WORD = 4
_PAGE = 16384
"""Android 15 has pages of 16 KiB on some phones; a multiple of 4 KiB is right everywhere."""
_MAPPED_SUFFIXES = (".so", ".pte")
"""What is mapped into memory straight from the archive."""

GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"
"""Deflate at its best, no flags, time 0, unknown system."""

PLAIN_MODE = 0o644
EXECUTABLE_MODE = 0o755


def alignment_of(name: str) -> int:
    """Bytes to a multiple of which the content of this entry is aligned in a zip."""
    return _PAGE if name.endswith(_MAPPED_SUFFIXES) else _WORD


def zip_bytes(files: Mapping[str, BundleFile]) -> bytes:
    """A zip of these files in the order of their names, each stored as it is and aligned.

    Nothing is compressed: a model hardly would be, ``assets`` must not be, and so no zlib decides the bytes.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3
            entry.external_attr = (0o100000 | _mode(files[name])) << 16
            entry.extra = _padding(stream.tell() + _LOCAL_HEADER + len(name), alignment_of(name))
            archive.writestr(entry, files[name].data)
    return stream.getvalue()


def _padding(offset: int, alignment: int) -> bytes:
    """An extra field that moves what comes at ``offset`` to the next multiple of ``alignment``; none where it is there."""
    missing = -offset % alignment
    if missing == 0:
        return b""
    while missing < _PADDING_HEAD:
        missing += alignment
    return struct.pack("<HHH", _PADDING_FIELD, missing - 4, alignment) + bytes(missing - _PADDING_HEAD)


def tar_bytes(files: Mapping[str, BundleFile], folder: str) -> bytes:
    """A ustar archive of these files in the order of their names, all below ``folder``.

    Raises:
        InputError: a path is longer than ustar can say.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode = len(files[name].data), _mode(files[name])
            try:
                archive.addfile(entry, io.BytesIO(files[name].data))
            except ValueError as error:
                raise InputError(
                    f"{folder}/{name}: {error} for a tar archive; give a shorter name with --name"
                ) from error
    return stream.getvalue()


def tar_gz_bytes(files: Mapping[str, BundleFile], folder: str) -> bytes:
    """:func:`tar_bytes`, compressed without a time or a name; the bytes depend on the version of zlib, their content not."""
    compressed = gzip.compress(tar_bytes(files, folder), compresslevel=9, mtime=0)
    # Which system wrote it is filled in differently by different versions of Python.
    return GZIP_HEAD + compressed[len(GZIP_HEAD) :]


def _mode(file: BundleFile) -> int:
    return EXECUTABLE_MODE if file.executable else PLAIN_MODE
