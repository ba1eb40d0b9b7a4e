"""For which machine a program was built: what its ELF header says."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.errors import InputError

_ARCHES = {0x03: "x86", 0x28: "arm", 0x3E: "x86_64", 0xB7: "aarch64"}
_INTERPRETER = 3
_MOST_HEADERS = 64
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class Program:
    """What a program needs of the machine that runs it."""

    arch: str
    interpreter: str
    """The dynamic loader that starts it, a path; empty: none is needed."""


def read_program(path: Path) -> Program:
    """Read an executable's header.

    Raises:
        InputError: it cannot be read, or is no ELF program in 64 bits, little-endian.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
            if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
                raise InputError(f"{path}: is no 64-bit program for Linux or Android; build the runner for the device")
            (machine,) = struct.unpack_from("<H", head, 18)
            (table,) = struct.unpack_from("<Q", head, 32)
            size, count = struct.unpack_from("<HH", head, 54)
            interpreter = ""
            for index in range(min(count, _MOST_HEADERS)):
                file.seek(table + index * size)
                header = file.read(56)
                if len(header) < 56:
                    raise InputError(f"{path}: ends within its program header; build the runner again")
                kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", header)
                if kind == _INTERPRETER:
                    file.seek(offset)
                    content = file.read(min(length, _LONGEST_PATH))
                    interpreter = content.rstrip(b"\0").decode("ascii", "replace")
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); check the path"
        ) from error
    return Program(_ARCHES.get(machine, f"machine {machine:#x}"), interpreter)
