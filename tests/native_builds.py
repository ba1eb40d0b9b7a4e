"""The native runner and small programs from its sources, built once for all tests and all processes of a test run."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from made_once import made_once

from tofe_edge.errors import InputError
from tofe_edge.runtimes.native_build import SOURCES, Target, aarch64_emulator, aarch64_toolchain, build, host_toolchain

INCLUDE = Path("/usr/include")
HEADERS = "apt-get install nlohmann-json3-dev libstb-dev"

ARM_COMPILERS = "apt-get install gcc-aarch64-linux-gnu g++-aarch64-linux-gnu"


@dataclass(frozen=True)
class Built:
    """A program, and what runs it here."""

    binary: Path
    emulator: tuple[str, ...] = ()

    def __call__(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        command = [*self.emulator, str(self.binary), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)

    def refused(self, code: int, *arguments: str) -> str:
        """Run it, check that it ends with ``code``, nothing on stdout and one line on stderr; return that line."""
        done = self(*arguments)
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("tofe_runner: ")
        return done.stderr


def runner(target: Target) -> Built:
    """The runner for ``host`` or ``aarch64``; skips the test if it cannot be built or run here."""
    try:
        emulator = require(target)
    except InputError as error:
        pytest.skip(str(error))
    folder = made_once(f"runner-{target}", lambda folder: build(target, folder))
    return Built(folder / "tofe_runner", emulator)


@cache
def require(target: Target) -> tuple[str, ...]:
    """Check what is needed to build and run for ``target``; returns the emulator. Raises :class:`InputError`."""
    if not all((INCLUDE / name).exists() for name in ("nlohmann/json.hpp", "stb/stb_image.h")):
        raise InputError(f"headers are missing; `{HEADERS}`")
    if target == "host":
        host_toolchain()
        return ()
    aarch64_toolchain()
    return aarch64_emulator()


def compiled(target: Target, name: str, command: Sequence[str]) -> Built:
    """A small program: ``command`` with the compiler for ``target`` put before it and ``-o PROGRAM`` behind."""
    try:
        emulator = require(target)
    except InputError as error:
        pytest.skip(str(error))
    suffix = "gcc" if command[0].endswith(".c") else "g++"
    compiler = shutil.which(f"aarch64-linux-gnu-{suffix}" if target == "aarch64" else suffix)
    if compiler is None:
        pytest.skip(
            f"{suffix} for {target} is missing; `{ARM_COMPILERS if target == 'aarch64' else 'apt-get install gcc g++'}`"
        )

    def compile_into(folder: Path) -> None:
        done = subprocess.run([compiler, *command, "-o", str(folder / name)], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr

    return Built(made_once(f"{name}-{target}", compile_into) / name, emulator)


def sources(*names: str) -> list[str]:
    """Paths of files of the runner."""
    return [str(SOURCES / name) for name in names]
