"""Programs and shared libraries of Linux: what their ELF headers say that they need of the machine that runs them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.segments import InterpSegment

from tofe_edge.errors import InputError

_ARCHES = {"EM_386": "x86", "EM_ARM": "arm", "EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
_MAX_SEGMENTS, _MAX_ENTRIES, _MAX_TEXT = 64, 4096, 4096
"""Far above any real file's; a forged one must not take long."""
_GLIBC = re.compile(r"GLIBC_([0-9]+)\.([0-9]+)(?:\.[0-9]+)?", re.ASCII)


@dataclass(frozen=True)
class Elf:
    """What a 64-bit, little-endian ELF file needs."""

    arch: str
    """``x86_64``, ``aarch64``, ``x86``, ``arm`` or ``machine …``."""
    interpreter: str
    """The dynamic loader that starts it, a path; empty if none is needed."""
    needed: tuple[str, ...]
    """Names of the libraries that the loader must find."""
    search: tuple[str, ...]
    """Folders where it looks for them before the system's: the parts of RPATH and RUNPATH."""
    glibc: tuple[int, int]
    """The oldest C library with all symbols that it needs; ``(0, 0)`` if it needs none."""


def read_elf(data: bytes, where: str) -> Elf:
    """Read the headers of a program or library.

    Raises:
        InputError: it is not one for 64-bit Linux or Android, or is damaged; the message begins with ``where``.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise InputError(
            f"{where}: is not a 64-bit program or library for Linux or Android; build the runner for the device"
        )
    try:
        return _read(ELFFile(BytesIO(data)))
    except Exception as error:  # pyelftools raises ELFError, KeyError, ValueError, RecursionError … for damaged files
        reason = re.sub(r"\s+", " ", str(error))[:200] or type(error).__name__
        raise InputError(f"{where}: its ELF headers are damaged ({reason}); build the runner again") from error


def _read(file: ELFFile) -> Elf:
    if file["e_phnum"] > _MAX_SEGMENTS or file["e_shnum"] > _MAX_ENTRIES or (file["e_shoff"] and not file["e_shnum"]):
        raise ValueError("it has too many segments or sections")
    interpreter, tags = "", []
    for segment in file.iter_segments():
        if isinstance(segment, InterpSegment):
            interpreter = _text(segment.get_interp_name())
        if isinstance(segment, DynamicSegment):
            table = segment.data()[: 16 * _MAX_ENTRIES]
            if not any(tag == 0 for tag, _ in struct.iter_unpack("<qQ", table[: len(table) // 16 * 16])):
                raise ValueError("the dynamic section has no end")
            tags += list(segment.iter_tags())
    paths = [tag.rpath for tag in tags if tag.entry.d_tag == "DT_RPATH"]
    paths += [tag.runpath for tag in tags if tag.entry.d_tag == "DT_RUNPATH"]
    machine = file["e_machine"]
    return Elf(
        arch=_ARCHES.get(machine, f"machine {machine}"),
        interpreter=interpreter,
        needed=tuple(_text(tag.needed) for tag in tags if tag.entry.d_tag == "DT_NEEDED"),
        search=tuple(part for path in paths for part in _text(path).split(":")),
        glibc=max(_glibc(file), default=(0, 0)),
    )


def _glibc(file: ELFFile) -> Iterator[tuple[int, int]]:
    """Yield the versions of the C library that symbols ask for."""
    sections = [one for one in file.iter_sections() if isinstance(one, GNUVerNeedSection)]
    symbols = (one for section in sections for _, symbols in section.iter_versions() for one in symbols)
    for number, symbol in enumerate(symbols):
        if number == _MAX_ENTRIES:
            raise ValueError("it needs too many versions")
        if version := _GLIBC.fullmatch(symbol.name):
            yield int(version[1]), int(version[2])


def _text(text: str) -> str:
    if len(text) > _MAX_TEXT or not (text.isascii() and text.isprintable()):
        raise ValueError("a name in it is too long or not printable")
    return text
