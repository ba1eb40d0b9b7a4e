"""What all benchmarks share: facts of the machine that a figure was measured on, the result file, the command line."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from tofe_edge.errors import InputError, TofeEdgeError
from tofe_edge.io.files import write_bytes

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
    """Installed version of a package; ``None`` if it is not installed."""
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


def today() -> str:
    """The date of a result."""
    return datetime.date.today().isoformat()


def conditions(command: str, packages: Iterable[str], threads: int) -> dict[str, Any]:
    """When, how and on what a result was measured."""
    return {
        "date": today(),
        "command": command,
        "host": facts(),
        "versions": versions(packages),
        "pinned_to": usable_cores(),
        "threads": threads,
    }


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write a result file atomically."""
    write_bytes(path, yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=120).encode())


def thread_count(text: str) -> int:
    """``"all"`` is every core that the process may use.

    Raises:
        InputError: neither that nor a positive whole number.
    """
    if text == "all":
        return len(usable_cores())
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--threads {text}: expected a positive whole number or 'all'")
    return int(text)


def numbers(option: str, text: str, example: str) -> list[int]:
    """``"8,1,64"`` as different positive whole numbers in ascending order.

    Raises:
        InputError: it is not a comma-separated list of them.
    """
    parts = [part.strip() for part in text.split(",")]
    fits = all(part.isdecimal() and int(part) > 0 for part in parts)
    if not fits or len({int(part) for part in parts}) < len(parts):
        raise InputError(f"{option} {text}: expected different positive whole numbers such as {example}")
    return sorted(map(int, parts))


def run_benchmark(
    module: str,
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace, str], Path],
    argv: Sequence[str] | None,
) -> int:
    """Parse, run, say what was written; 2 for a wrong argument, 3 for a device that fails."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        path = run(parser.parse_args(words), command(module, words))
    except TofeEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"wrote {path}")
    return 0
