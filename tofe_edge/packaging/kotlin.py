"""Compiling the Android library's Kotlin files, if a compiler is at hand."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.errors import InputError
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.packaging.place import scratch

LANGUAGE = "2.1"
"""Compilers of the version before this one and newer read the classes."""
STDLIB = "2.1.21"

_INSTALL = (
    "install the Kotlin compiler (`npm install kotlin-compiler` has it as node_modules/kotlin-compiler/bin/kotlinc) and a Java "
    "runtime and name it with --kotlinc, or take --source, which needs no compiler"
)
_SECONDS = 600
_VERSION = re.compile(r"kotlinc-jvm (\S+)")


@dataclass(frozen=True)
class Compiled:
    """Class files by their paths in a jar, and the version of the compiler that made them."""

    classes: dict[str, BundleFile]
    compiler: str


def compile_kotlin(compiler: Path | None, sources: Mapping[str, BundleFile], against: Path, module: str) -> Compiled:
    """Compile Kotlin files; the same compiler and sources give the same classes.

    Args:
        compiler: ``kotlinc``; ``None`` takes the one on PATH.
        sources: Kotlin files by relative name.
        against: a folder of Java sources that give the types of what is not compiled along.
        module: name of the Kotlin module.

    Raises:
        InputError: there is no compiler, or it does not run, end or take the sources.
    """
    path = _find(compiler)
    # What npm unpacks has lost its permission to be run.
    command = (str(path),) if os.access(path, os.X_OK) else ("bash", str(path))
    with scratch({f"sources/{file}": content for file, content in sources.items()}) as folder:
        arguments = (
            # A run this short is over before the second compiler of the JVM has paid: half the time without it.
            *("-J-XX:TieredStopAtLevel=1", "-version", "-d", str(folder / "classes"), "-no-reflect", "-nowarn"),
            *("-jvm-target", "1.8", "-language-version", LANGUAGE, "-api-version", LANGUAGE, "-module-name", module),
            *(str(against), *(str(folder / "sources" / file) for file in sorted(sources))),
        )
        done = _run((*command, *arguments))
        version = _VERSION.search(done.stderr)
        if version is None:
            raise InputError(
                f"{path}: is not a Kotlin compiler that runs here ({_first_line(done.stderr)}); {_INSTALL}"
            )
        if done.returncode != 0:
            said = next((line for line in done.stderr.splitlines() if "error:" in line), _first_line(done.stderr))
            raise InputError(
                f"{path}: version {version[1]} cannot compile the library ({said.replace(f'{folder}/', '')}); use version 2.1 "
                "to 2.4, or --source"
            )
        files = sorted(one for one in (folder / "classes").rglob("*") if one.is_file())
        classes = {one.relative_to(folder / "classes").as_posix(): BundleFile(one.read_bytes()) for one in files}
    return Compiled(classes, version[1])


def _find(compiler: Path | None) -> Path:
    path = shutil.which("kotlinc") if compiler is None else compiler
    if path is None:
        raise InputError(f"kotlinc: not found on PATH; {_INSTALL}")
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such compiler; {_INSTALL}")
    return Path(path).absolute()


def _run(command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    try:
        # A session of its own: kotlinc is a script that starts Java, and neither may go on without the other or us.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise InputError(f"{command[0]}: cannot be run ({error.strerror or error}); {_INSTALL}") from error
    try:
        out, err = process.communicate(timeout=_SECONDS)
    except BaseException as error:
        _end(process)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise InputError(
            f"{command[0]}: did not end within {_SECONDS} s; use --source, which needs no compiler"
        ) from error
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _end(process: subprocess.Popen[str]) -> None:
    """End a program and all that it started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[0][:200]
