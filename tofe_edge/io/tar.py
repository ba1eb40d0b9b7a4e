"""Plain files in an uncompressed tar archive: where they are, and their bytes. Nothing is ever extracted to disk.

``tarfile`` reads the headers. What it does not do is done here: it keeps an object for every member, allocates what a
header's size claims, and ends in silence if an archive was cut between two members.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tofe_edge.errors import InputError, quoted

_BLOCK = tarfile.BLOCKSIZE
_MAX_METADATA = 1 << 20
"""Bytes of headers, long names and pax records per member."""
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
        handle.seek(0)
        headers, last = _Headers(handle, archive), ""
        try:
            tar = tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape")  # type: ignore[call-overload]  # noqa: SIM115
            while (info := tar.next()) is not None:
                tar.members.clear()  # else it keeps every one of them
                last = info.name
                headers.left = _MAX_METADATA
                member = _member(info, end, archive)
                if member is not None:
                    yield member
        except (InputError, OSError):
            raise
        except Exception as error:
            # Damaged headers make tarfile raise TarError, ValueError, RecursionError, ...
            what = f"has a damaged header{_after(last)}" if last else "is not a tar archive"
            raise InputError(f"{archive}: {what}; write or copy it again") from error
        # tarfile ends in silence where it reads no header: there must be an end mark, and nothing behind it.
        mark = _at(handle, tar.offset, _BLOCK)
        if len(mark) < _BLOCK:
            raise InputError(f"{archive}: is cut off{_after(last)}; copy it again")
        if mark.strip(b"\0"):
            raise InputError(f"{archive}: has a damaged header{_after(last)}; write or copy it again")
        if _at(handle, tar.offset, _MAX_PADDING).strip(b"\0"):
            raise InputError(f"{archive}: goes on after its end mark; give archives that were joined one by one")


class _Headers:
    """The archive as tarfile reads its headers: so many bytes per member at most, whatever a header claims."""

    def __init__(self, handle: BinaryIO, archive: Path) -> None:
        self._handle, self._archive, self.left = handle, archive, _MAX_METADATA
        self.tell, self.seek = handle.tell, handle.seek

    def read(self, size: int) -> bytes:
        self.left -= max(size, 1)
        if size < 0 or self.left < 0:
            raise InputError(f"{self._archive}: has a header of more than {_MAX_METADATA} bytes; write it anew")
        return self._handle.read(size)


def _member(info: tarfile.TarInfo, end: int, archive: Path) -> Member | None:
    """A plain file, or ``None`` for a folder. Raises :class:`InputError` for anything else."""
    sparse = info.issparse() or any(key.startswith("GNU.sparse.") for key in info.pax_headers)
    kind = tarfile.GNUTYPE_SPARSE if sparse else info.type
    if kind not in (*_PLAIN, tarfile.DIRTYPE):
        raise InputError(
            f"{archive}: member {quoted(info.name)} is {_KINDS.get(kind, 'of an unknown kind')}; "
            "write the archive anew with plain files (tar --dereference --hard-dereference)"
        )
    # tarfile takes a size in pax records that is not a number for 0.
    if info.size < 0 or not info.pax_headers.get("size", "0").isdecimal():
        raise InputError(f"{archive}: member {quoted(info.name)} has no valid size; write the archive anew")
    if kind == tarfile.DIRTYPE:
        return None
    if info.offset_data + info.size > end:
        raise InputError(f"{archive}: is cut off, member {quoted(info.name)} ends beyond it; copy it again")
    return Member(_safe(info.name, archive), info.offset_data, info.size)


def read_member(archive: Path, member: Member, limit: int) -> bytes:
    """The bytes of a member.

    Raises:
        InputError: there are more than ``limit``, or fewer than when the archive was listed.
        OSError: the archive cannot be opened or read.
    """
    if member.size > limit:
        raise InputError(f"{archive}: member {quoted(member.name)} has {member.size} bytes, more than {limit}")
    with archive.open("rb") as handle:
        content = _at(handle, member.offset, member.size)
    if len(content) < member.size:
        raise InputError(f"{archive}: has changed, member {quoted(member.name)} is cut off; start again")
    return content


def read_members(archive: Path, members: Iterable[Member], most: int) -> Iterator[bytes]:
    """The first bytes of members, at most so many of each.

    Raises:
        OSError: the archive cannot be opened or read.
    """
    with archive.open("rb") as handle:
        for member in members:
            yield _at(handle, member.offset, min(most, member.size))


def _at(handle: BinaryIO, position: int, size: int) -> bytes:
    handle.seek(position)
    return handle.read(size)


def _check_magic(block: bytes, archive: Path) -> None:
    if not block:
        raise InputError(f"{archive}: is empty (0 bytes); copy it again")
    for magic, (name, program) in _COMPRESSED.items():
        if block.startswith(magic):
            raise InputError(f"{archive}: is compressed ({name}); unpack it to a plain .tar with {program}")
    if len(block) < _BLOCK:
        raise InputError(f"{archive}: is cut off; copy it again")


def _safe(name: str, archive: Path) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise InputError(
            f"{archive}: member {quoted(name)} has an absolute name or one with '..'; write the archive from inside its folder"
        )
    return "/".join(parts)


def _after(name: str) -> str:
    return f" after member {quoted(name)}" if name else ""
