"""What a device reports about itself, and the runner for it: the user's own, or one that is built here once and cached."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.files import put_in_place, staging_dir
from tofe_edge.io.progress import progress_bar
from tofe_edge.runtimes import native_build
from tofe_edge.runtimes.devices import scripts
from tofe_edge.runtimes.devices.shell import SHORT_S, Shell, printable, script
from tofe_edge.runtimes.elf import read_elf
from tofe_edge.runtimes.native_build import Target
from tofe_edge.runtimes.native_runner import BINARY

_ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}
_LONGEST = 200


@dataclass(frozen=True)
class DeviceFacts:
    """A device as its own system describes it; empty strings and 0 if it does not say."""

    arch: str
    """``aarch64``, ``x86_64``, or what else ``uname -m`` says."""
    system: str
    """``Linux``, ``Darwin``."""
    kernel: str
    cores: int
    cpu_model: str
    board: str
    """The board's or product's name: ``Raspberry Pi 5 Model B Rev 1.0``, ``Google Pixel 9``."""
    android: str = ""
    """Android's version."""


def read_facts(shell: Shell) -> DeviceFacts:
    """Ask a device what it is: the first contact.

    Raises:
        DeviceError: it cannot be reached, or has no POSIX shell.
    """
    answer = shell.run(script(scripts.FACTS, "facts"), timeout_s=SHORT_S)
    facts = parse_facts(printable(answer.stdout))
    if not facts.arch:
        raise DeviceError(f"{shell.name}: does not say what machine it is ({answer.reason}); it must have `uname`")
    return facts


def parse_facts(text: str) -> DeviceFacts:
    """Return facts from the lines that the device printed; what is missing or not a number is empty or 0."""
    said: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            said.setdefault(key, " ".join(value.split())[:_LONGEST])
    arch, cores = said.get("arch", ""), said.get("cores", "")
    return DeviceFacts(
        arch=_ARCHES.get(arch, arch),
        system=said.get("system", ""),
        kernel=said.get("kernel", ""),
        cores=int(cores) if cores.isascii() and cores.isdigit() and len(cores) < 6 else 0,
        cpu_model=said.get("cpu") or said.get("lscpu", ""),
        board=said.get("phone") or said.get("tree") or said.get("product", ""),
        android=said.get("android", ""),
    )


_ANDROID_LOADER = "/system/bin/linker"
_BUILD_DOC = "docs/native.md says how to build one"


@dataclass(frozen=True)
class Runner:
    """A program for the device and the libraries that go beside it."""

    program: Path
    libraries: tuple[Path, ...]


def choose_runner(shell: Shell, facts: DeviceFacts, given: Path | None) -> Runner:
    """Return the runner that fits the device.

    Args:
        given: the user's own build: the program, or the folder that it is in.

    Raises:
        InputError: ``given`` does not fit this device; or none was given, and it cannot be built here.
        DeviceError: there is no runner for such a device; the compiler fails.
    """
    if facts.system not in ("Linux", ""):
        raise DeviceError(f"{shell.name}: runs {facts.system}; the native runner needs Linux or Android")
    program = _program_of(given) if given is not None else _built(shell.name, facts)
    try:
        needs = read_elf(program.read_bytes(), str(program))
    except OSError as error:
        raise InputError(f"{program}: cannot be read ({error.strerror or error}); check the path") from error
    if needs.arch != facts.arch:
        raise InputError(f"{program}: is built for {needs.arch}, but {shell.name} is {facts.arch}; {_BUILD_DOC}")
    for_android = needs.interpreter.startswith(_ANDROID_LOADER)
    if for_android != bool(facts.android):
        built, runs = ("Android", "another Linux") if for_android else ("Linux with glibc", "Android")
        raise InputError(f"{program}: is built for {built}, but {shell.name} runs {runs}; {_BUILD_DOC}")
    if needs.interpreter and shell.run(["test", "-e", needs.interpreter], timeout_s=SHORT_S).code:
        raise DeviceError(
            f"{shell.name}: has no {needs.interpreter}, which {program} needs: its system is a 32-bit one or has another "
            "C library than glibc; install a 64-bit system, or give your own build with --runner"
        )
    return Runner(program, tuple(sorted(one for one in (program.parent / "lib").glob("*") if one.is_file())))


def cache_folder() -> Path:
    """Return the folder of built runners: below ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The specification: a relative path is invalid and to be ignored.
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return base / "tofe-edge" / "runners"


def cached_runner(target: Target, arch: str) -> Path:
    """Return the program for a target from the cache; build it first if it is not there or its sources changed.

    Raises:
        InputError: something to build with is missing, or the cache cannot be written.
        DeviceError: the compiler fails.
    """
    version = metadata.version("executorch").split("+")[0]
    folder = cache_folder() / f"executorch-{version}-{arch}-{_sources_sum()}"
    if not (folder / BINARY).is_file():
        with staging_dir(folder.parent, "set XDG_CACHE_HOME to another folder") as draft:
            with progress_bar(f"compiling the native runner for {arch}", total=1, unit="program") as bar:
                native_build.build(target, draft / "runner")
                bar.update(1)
            put_in_place(draft / "runner", folder)
    return folder / BINARY


def _built(name: str, facts: DeviceFacts) -> Path:
    if facts.android:
        raise InputError(f"{name}: Android needs a runner of your own, --runner DIR; {_BUILD_DOC}")
    if facts.arch == {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine()):
        return cached_runner("host", facts.arch)
    if facts.arch == "aarch64":
        return cached_runner("aarch64", facts.arch)
    if facts.arch == "x86_64":
        raise InputError(f"{name}: a runner for x86_64 is not built on this machine; give one with --runner DIR")
    raise DeviceError(f"{name}: is {facts.arch}; runners are for aarch64 and x86_64 with a 64-bit system")


def _program_of(given: Path) -> Path:
    program = given / BINARY if given.is_dir() else given
    if not program.is_file():
        raise InputError(f"{program}: is not there; --runner takes the folder with {BINARY} and lib; {_BUILD_DOC}")
    return program


def _sources_sum() -> str:
    digest = hashlib.sha256()
    for path in sorted(one for one in native_build.SOURCES.rglob("*") if one.is_file()):
        digest.update(f"{path.relative_to(native_build.SOURCES).as_posix()}\0{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
