"""Runners for tests of Linux bundles: one that only looks like one, and real ones."""

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import need
from elf_files import elf

from tofe_edge.cli import main
from tofe_edge.errors import InputError
from tofe_edge.runtimes.native_build import Target, aarch64_emulator, build

LIBRARIES = {"lib/libtofe.so": "$ORIGIN", "lib/libexecutorch.so": "$ORIGIN:$ORIGIN/../backends/cuda:$ORIGIN/../lib"}
"""Name: where it looks, as the real ones do."""


def pretend_runner(folder: Path, arch: str = "aarch64") -> Path:
    """A folder as the build of the runner makes it, whose files are headers alone."""
    (folder / "lib").mkdir(parents=True)
    needed = ["libtofe.so", "libexecutorch.so", "libc.so.6", "libstdc++.so.6"]
    (folder / "tofe_runner").write_bytes(elf(arch, needed, "$ORIGIN/lib", ["GLIBC_2.34"]))
    for name, search in LIBRARIES.items():
        (folder / name).write_bytes(elf(arch, ["libexecutorch.so", "libm.so.6"], search, ["GLIBC_2.27"]))
    (folder / "tofe.h").write_text("/* interface */\n")
    return folder


def package_call(model: Path, runner: Path, out: Path, *more: object) -> list[object]:
    """The command line."""
    return ["package", model, "--platform", "linux", "--runner", runner, "--out", out, *more]


def package(*arguments: Any) -> int:
    """Exit code of :func:`package_call`."""
    return main(list(map(str, package_call(*arguments))))


@dataclass(frozen=True)
class Machine:
    """A kind of machine that this one is or emulates, with a runner for it."""

    arch: str
    runner: Path
    emulator: tuple[str, ...]
    compiler: str
    """Of C."""

    def run(self, *command: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program for it to its end, without a variable of this process's environment."""
        words = [*self.emulator, *map(str, command)]
        return subprocess.run(words, capture_output=True, text=True, timeout=300, env={}, **options)


def real_machine(target: Target, folder: Path) -> Machine:
    """Build the runner; the test is skipped, with what to install, where that or running it is not possible here."""
    here = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    try:
        emulator = aarch64_emulator() if target == "aarch64" else ()
        program = build(target, folder)
    except InputError as error:
        pytest.skip(str(error))
    if not (folder / "tofe.h").exists():
        pytest.skip("libtofe needs headers: apt-get install nlohmann-json3-dev libstb-dev")
    if target == "aarch64" and here != "aarch64":
        compiler = need("aarch64-linux-gnu-gcc", "apt-get install gcc-aarch64-linux-gnu")
    else:
        compiler = need("cc", "apt-get install gcc")
    return Machine(here if target == "host" else target, program.parent, emulator, compiler)
