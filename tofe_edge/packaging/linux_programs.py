"""The native runner, ``libtofe`` and ExecuTorch's libraries in a Linux bundle: do they fit together and the machine?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.packaging.linux_elf import Elf, read_elf

RUNNER = "tofe_runner"
LIBRARY = "lib/libtofe.so"
HEADER = "include/tofe.h"
ARCHES = ("aarch64", "x86_64")

_OF_THE_SYSTEM = frozenset(
    {
        *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1", "libstdc++.so.6"),
        *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
    }
)
"""What every Linux with glibc and a C++ program on it has."""


@dataclass(frozen=True)
class Programs:
    """What is compiled in a bundle: its ELF headers by name."""

    elves: Mapping[str, Elf]

    @property
    def glibc(self) -> tuple[int, int]:
        """The oldest C library that all of them run with, such as ``(2, 34)``."""
        return max(elf.glibc for elf in self.elves.values())

    def problems(self, arch: str) -> list[str]:
        """What would keep them from running on ``arch`` wherever the bundle lies, a line each."""
        lines = []
        beside = {name.removeprefix("lib/") for name in self.elves if name.startswith("lib/")}
        for name, elf in sorted(self.elves.items()):
            if elf.arch != arch:
                lines.append(f"{name} is built for {elf.arch}, not for {arch}")
            lines += [
                f"{name} needs {one}, which neither the bundle nor a Linux system has"
                for one in elf.needed
                if one not in beside | _OF_THE_SYSTEM
            ]
            lines += [
                f"{name} looks for libraries in {part or 'the working folder'}, outside the bundle"
                for part in elf.search
                if not _is_inside(name, part)
            ]
        return lines


def read_programs(files: Mapping[str, BundleFile]) -> Programs:
    """The runner and everything in ``lib/``. Raises :class:`InputError` for what is no ELF file."""
    names = [name for name in files if name == RUNNER or name.startswith("lib/")]
    return Programs({name: read_elf(files[name].data, name) for name in names})


def _is_inside(name: str, part: str) -> bool:
    """Whether a search path stays in the bundle: relative to the file's own folder, and never above the bundle."""
    words = part.split("/")
    if words[0] not in ("$ORIGIN", "${ORIGIN}"):
        return False
    depth = name.count("/")
    for word in words[1:]:
        depth += {"..": -1, ".": 0, "": 0}.get(word, 1)
        if depth < 0:
            return False
    return True
