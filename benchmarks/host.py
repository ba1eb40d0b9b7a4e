"""Facts of the machine that a figure was measured on."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name and the vector extensions that matter to int8, from /proc/cpuinfo where there is one."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    values = {key.strip(): value.strip() for key, value in fields.items()}
    present = values.get("flags", values.get("Features", "")).split()
    flags = [flag for flag in _FLAGS if flag in present]
    return f"{values.get('model name', platform.machine())} ({', '.join(flags)})"


def version(package: str) -> str | None:
    """Installed version of a package; ``None`` where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    return {package: found for package in packages if (found := version(package)) is not None}


def usable_cores() -> list[int]:
    """Numbers of the CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def is_pinned() -> bool:
    """Whether the process may use only some of the machine's cores."""
    return len(usable_cores()) < (os.cpu_count() or 1)


def facts() -> dict[str, str]:
    """Processor, system and Python."""
    return {"processor": processor(), "system": platform.system(), "python": platform.python_version()}


def command(module: str, argv: Sequence[str]) -> str:
    """The call as a reader would repeat it: files by their names, for a folder of one machine says nothing to others."""
    prefix = ["taskset", "-c", ",".join(map(str, usable_cores()))] if is_pinned() else []
    words = [Path(word).name if os.sep in word else word for word in argv]
    return shlex.join([*prefix, "python", "-m", module, *words])
