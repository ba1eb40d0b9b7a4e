"""Tiny ELF files for tests: headers that say what a program needs, and no program."""

from __future__ import annotations

import struct
from collections.abc import Sequence

MACHINES = {"x86_64": 0x3E, "aarch64": 0xB7, "riscv64": 0xF3}

_BASE = 0x400000
"""Where the file is in memory: addresses are not offsets."""
_HEAD, _PROGRAM_HEADER = 64, 56


def elf(
    arch: str, needed: Sequence[str] = (), search: str | None = None, versions: Sequence[str] = (), tag: int = 29
) -> bytes:
    """A shared object of a load and a dynamic segment.

    Args:
        search: its RUNPATH; with ``tag`` 15 its RPATH.
        versions: of the C library, such as ``GLIBC_2.34``.
    """
    strings = bytearray(b"\0")

    def put(text: str) -> int:
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text) - 1

    entries = [(1, put(name)) for name in needed]
    if search is not None:
        entries.append((tag, put(search)))
    libc, names = put("libc.so.6"), [put(version) for version in versions]
    count = len(entries) + (2 if names else 0) + 2
    begin = _HEAD + 2 * _PROGRAM_HEADER
    at_strings = begin + 16 * count
    at_versions = at_strings + len(strings)
    entries.append((5, _BASE + at_strings))
    if names:
        entries += [(0x6FFFFFFE, _BASE + at_versions), (0x6FFFFFFF, 1)]
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in (*entries, (0, 0)))
    need = struct.pack("<HHIII", 1, len(names), libc, 16, 0) if names else b""
    need += b"".join(struct.pack("<IHHII", 0, 0, 2, name, 0 if name == names[-1] else 16) for name in names)
    total = at_versions + len(need)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        3,
        MACHINES[arch],
        1,
        0,
        _HEAD,
        0,
        0,
        _HEAD,
        _PROGRAM_HEADER,
        2,
        0,
        0,
        0,
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, total, total, 0x1000)
    dynamic_header = struct.pack("<IIQQQQQQ", 2, 4, begin, _BASE + begin, _BASE + begin, len(dynamic), len(dynamic), 8)
    return head + load + dynamic_header + dynamic + bytes(strings) + need
