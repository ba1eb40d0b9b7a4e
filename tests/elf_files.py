"""Tiny ELF files for tests: headers that say what a program needs, and no program."""

import struct
from collections.abc import Sequence

MACHINES = {"x86_64": 0x3E, "aarch64": 0xB7, "riscv64": 0xF3}

_BASE = 0x400000
"""Where the file is in memory: addresses are not offsets."""
_HEAD, _PROGRAM_HEADER = 64, 56


def elf(
    arch: str,
    needed: Sequence[str] = (),
    search: str | None = None,
    versions: Sequence[str] = (),
    tag: int = 29,
    interpreter: str = "",
) -> bytes:
    """A shared object of a load and a dynamic segment, with sections for strings and versions.

    Args:
        search: its RUNPATH; with ``tag`` 15 its RPATH.
        versions: of the C library, such as ``GLIBC_2.34``.
        interpreter: the loader of a program.
    """
    strings = bytearray(b"\0")

    def put(text: str) -> int:
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text) - 1

    entries = [(1, put(name)) for name in needed]
    if search is not None:
        entries.append((tag, put(search)))
    libc, names, loader = put("libc.so.6"), [put(version) for version in versions], put(interpreter)
    begin = _HEAD + 3 * _PROGRAM_HEADER
    at_strings = begin + 16 * (len(entries) + 2)
    entries += [(5, _BASE + at_strings), (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    at_versions = at_strings + len(strings)
    need = struct.pack("<HHIII", 1, len(names), libc, 16, 0) if names else b""
    need += b"".join(struct.pack("<IHHII", 0, 0, 2, name, 0 if name == names[-1] else 16) for name in names)
    at_sections = at_versions + len(need)
    rows = [(0,) * 10, (0, 3, 0, 0, at_strings, len(strings), 0, 0, 1, 0)]
    if names:
        rows.append((0, 0x6FFFFFFE, 0, 0, at_versions, len(need), 1, 1, 1, 0))
    sections = b"".join(struct.pack("<IIQQQQIIQQ", *row) for row in rows)
    total = at_sections + len(sections)
    sizes = (_HEAD, _PROGRAM_HEADER, 3, 64, len(rows), 1)
    ident = b"\x7fELF\x02\x01\x01"
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, MACHINES[arch], 1, 0, _HEAD, at_sections, 0, *sizes)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, total, total, 0x1000)
    dynamic_header = struct.pack("<IIQQQQQQ", 2, 4, begin, _BASE + begin, _BASE + begin, len(dynamic), len(dynamic), 8)
    size = len(interpreter) + 1
    kind = 3 if interpreter else 0
    loader_header = struct.pack("<IIQQQQQQ", kind, 4, at_strings + loader, 0, 0, size, size, 1)
    return head + load + dynamic_header + loader_header + dynamic + bytes(strings) + need + sections
