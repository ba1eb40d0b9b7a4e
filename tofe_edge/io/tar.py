"""Plain files in an uncompressed tar archive: where they are, and their bytes. Nothing is ever extracted to disk.

The archive is walked here, not by ``tarfile``: that keeps an object for every member, allocates what a header's size
claims, and ends in silence where an archive was cut between two members. Headers are parsed by ``tarfile``.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tofe_edge.errors import InputError, shown

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(_BLOCK)
_MAX_METADATA = 1 << 20
"""Bytes of a long name or of pax records."""
_MAX_PADDING = 1 << 20
"""After the end mark, this much is looked at for a second archive behind the first; GNU tar pads to 10 KiB."""

_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"PK\x03\x04": ("zip", "unzip"),
}
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_METADATA = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file in an archive: its path with ``/``, never absolute and without ``..``, and where its bytes are."""

    name: str
    offset: int
    size: int


def list_members(archive: Path) -> Iterator[Member]:
    """Every plain file of an archive in its order, in one pass over the headers; folders are left out.

    Names are UTF-8, other bytes as surrogates. The formats are v7, ustar, GNU and pax, without sparse files.

    Args:
        archive: a regular file.

    Raises:
        InputError: compressed, no tar, damaged or cut off; or a member is a link or a device, or has an absolute name
            or one with ``..``. The message names it.
        OSError: it cannot be opened or read.
    """
    with archive.open("rb") as handle:
        end = handle.seek(0, os.SEEK_END)
        _check_magic(_at(handle, 0, _BLOCK), archive)
        position, last = 0, ""
        long_name, records = "", dict[str, str]()
        while (block := _at(handle, position, _BLOCK)) != _END:
            if len(block) < _BLOCK:
                raise InputError(f"{archive}: is cut off{_after(last)}; copy it again")
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except (tarfile.HeaderError, ValueError) as error:
                what = f"has a damaged header{_after(last)}" if position else "is not a tar archive"
                raise InputError(f"{archive}: {what}; write or copy it again") from error
            position += _BLOCK
            name = records.get("path") or long_name or header.name
            size = _size(header, name, records, archive)
            if position + size > end:
                raise InputError(f"{archive}: is cut off, member {shown(name)} ends beyond it; copy it again")
            if header.type in _METADATA:
                content = _metadata(handle, position, header, archive)
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    long_name = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
                elif header.type in _PAX:
                    records = _pax_records(content, archive)
            else:
                sparse = any(key.startswith("GNU.sparse.") for key in records)
                kind = tarfile.GNUTYPE_SPARSE if sparse else header.type
                last, long_name, records = name, "", {}
                if kind in _PLAIN:
                    yield Member(_safe(name, archive), position, size)
                elif kind != tarfile.DIRTYPE:
                    raise InputError(
                        f"{archive}: member {shown(name)} is {_KINDS.get(kind, 'of an unknown kind')}; "
                        "write the archive anew with plain files (tar --dereference --hard-dereference)"
                    )
            position += -(-size // _BLOCK) * _BLOCK
        if _at(handle, position, _MAX_PADDING).strip(b"\0"):
            raise InputError(f"{archive}: goes on after its end mark; give archives that were joined one by one")


def read_member(archive: Path, member: Member, limit: int) -> bytes:
    """The bytes of a member.

    Raises:
        InputError: there are more than ``limit``, or fewer than when the archive was listed.
        OSError: the archive cannot be opened or read.
    """
    if member.size > limit:
        raise InputError(f"{archive}: member {shown(member.name)} has {member.size} bytes, more than {limit}")
    with archive.open("rb") as handle:
        content = _at(handle, member.offset, member.size)
    if len(content) < member.size:
        raise InputError(f"{archive}: has changed, member {shown(member.name)} is cut off; start again")
    return content


def _at(handle: BinaryIO, position: int, size: int) -> bytes:
    handle.seek(position)
    return handle.read(size)


def _check_magic(block: bytes, archive: Path) -> None:
    if not block:
        raise InputError(f"{archive}: is empty (0 bytes); copy it again")
    for magic, (name, program) in _COMPRESSED.items():
        if block.startswith(magic):
            raise InputError(f"{archive}: is compressed ({name}); unpack it to a plain .tar with {program}")


def _size(header: tarfile.TarInfo, name: str, records: dict[str, str], archive: Path) -> int:
    """Bytes that follow a header, without padding."""
    if header.type not in (*_PLAIN, *_METADATA):
        return 0
    try:
        size = header.size if header.type in _METADATA else int(records.get("size", header.size))
    except ValueError:
        size = -1
    if size < 0:
        raise InputError(f"{archive}: member {shown(name)} has no valid size; write the archive anew")
    return size


def _metadata(handle: BinaryIO, position: int, header: tarfile.TarInfo, archive: Path) -> bytes:
    if header.size > _MAX_METADATA:
        raise InputError(
            f"{archive}: has a header of {header.size} bytes at {position}, more than {_MAX_METADATA}; write it anew"
        )
    return _at(handle, position, header.size)


def _pax_records(content: bytes, archive: Path) -> dict[str, str]:
    """``LENGTH KEY=VALUE newline``, over and over; LENGTH counts the whole record."""
    records, start, end = {}, 0, len(content.rstrip(b"\0"))
    while start < end:
        digits = content[start : start + 20].partition(b" ")[0]
        stop = start + (int(digits) if digits.isdigit() else 0)
        key, equals, value = content[start + len(digits) + 1 : stop].partition(b"=")
        if not equals or not value.endswith(b"\n") or stop > end:
            raise InputError(f"{archive}: has a damaged pax header; write or copy it again")
        records[key.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        start = stop
    return records


def _safe(name: str, archive: Path) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise InputError(
            f"{archive}: member {shown(name)} has an absolute name or one with '..'; write the archive from inside its folder"
        )
    return "/".join(parts)


def _after(name: str) -> str:
    return f" after member {shown(name)}" if name else ""
