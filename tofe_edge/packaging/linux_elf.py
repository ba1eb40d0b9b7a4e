"""Programs and shared libraries of Linux: what their ELF headers say that they need of the machine that runs them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tofe_edge.errors import InputError

_ARCHES = {0x3E: "x86_64", 0xB7: "aarch64"}
_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRTAB, _RPATH, _RUNPATH, _VERNEED, _VERNEEDNUM = 1, 5, 15, 29, 0x6FFFFFFE, 0x6FFFFFFF
_HEADER, _PROGRAM_HEADER, _ENTRY, _NEED, _AUX = "<16sHHIQQQIHHH", "<IIQQQQ", "<qQ", "<HHIII", "<IHHII"
_MOST_HEADERS, _MOST_ENTRIES, _MOST_VERSIONS, _LONGEST_TEXT = 64, 4096, 4096, 4096
"""Far above any real file's; a forged one must not take long."""
_GLIBC = re.compile(r"GLIBC_([0-9]+)\.([0-9]+)(?:\.[0-9]+)?", re.ASCII)


@dataclass(frozen=True)
class Elf:
    """Of one 64-bit, little-endian ELF file."""

    arch: str
    """``x86_64``, ``aarch64`` or ``machine 0x…``."""
    needed: tuple[str, ...]
    """Names of the libraries that the loader must find."""
    search: tuple[str, ...]
    """Where it looks for them before the system's folders: the parts of RPATH and RUNPATH."""
    glibc: tuple[int, int]
    """The oldest C library with all symbols that it needs; ``(0, 0)`` where it needs none."""


def read_elf(data: bytes, where: str) -> Elf:
    """Read the headers of a program or library.

    Raises:
        InputError: it is none for 64-bit Linux, or damaged; beginning with ``where``.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise InputError(f"{where}: is no 64-bit program or library for Linux; build the runner again")
    try:
        return _read(data)
    except (struct.error, ValueError, OverflowError) as error:
        raise InputError(f"{where}: its ELF headers are damaged ({error}); build the runner again") from error


def _read(data: bytes) -> Elf:
    _, _, machine, _, _, table, _, _, _, size, count = struct.unpack_from(_HEADER, data)
    _require(count <= _MOST_HEADERS, "it has too many segments")
    headers = [struct.unpack_from(_PROGRAM_HEADER, data, table + index * size) for index in range(count)]
    # Of a segment: where it is in memory, in the file, and how long it is there.
    segments = [(address, offset, length) for kind, _, offset, address, _, length in headers if kind == _LOAD]
    entries = [entry for kind, _, offset, _, _, _ in headers if kind == _DYNAMIC for entry in _dynamic(data, offset)]
    values = dict(entries)
    strings = _offset(values[_STRTAB], segments) if _STRTAB in values else 0
    paths = [_text(data, strings + value) for tag, value in entries if tag in (_RPATH, _RUNPATH)]
    return Elf(
        arch=_ARCHES.get(machine, f"machine {machine:#x}"),
        needed=tuple(_text(data, strings + value) for tag, value in entries if tag == _NEEDED),
        search=tuple(part for path in paths for part in path.split(":")),
        glibc=max(_glibc(data, values, strings, segments), default=(0, 0)),
    )


def _dynamic(data: bytes, offset: int) -> Iterator[tuple[int, int]]:
    for index in range(_MOST_ENTRIES):
        tag, value = struct.unpack_from(_ENTRY, data, offset + index * struct.calcsize(_ENTRY))
        if tag == 0:
            return
        yield tag, value
    raise ValueError("the dynamic section has no end")


def _glibc(
    data: bytes, values: dict[int, int], strings: int, segments: list[tuple[int, int, int]]
) -> Iterator[tuple[int, int]]:
    """The versions of the C library that symbols ask for."""
    if _VERNEED not in values:
        return
    need, found = _offset(values[_VERNEED], segments), 0
    libraries = values.get(_VERNEEDNUM, 0)
    _require(libraries <= _MOST_VERSIONS, "it needs versions of too many libraries")
    for _ in range(libraries):
        _, symbols, _, first, following = struct.unpack_from(_NEED, data, need)
        symbol = need + first
        for _ in range(symbols):
            _, _, _, name, step = struct.unpack_from(_AUX, data, symbol)
            found += 1
            _require(found <= _MOST_VERSIONS, "it needs too many versions")
            if version := _GLIBC.fullmatch(_text(data, strings + name)):
                yield int(version[1]), int(version[2])
            symbol += step
        if following == 0:
            return
        need += following


def _offset(address: int, segments: list[tuple[int, int, int]]) -> int:
    """Where in the file the content of a memory address is."""
    for begin, offset, length in segments:
        if begin <= address < begin + length:
            return offset + address - begin
    raise ValueError(f"no segment holds address {address:#x}")


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset, offset + _LONGEST_TEXT)].decode("ascii")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
