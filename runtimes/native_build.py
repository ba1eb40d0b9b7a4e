"""Compiles the native runner, for this machine or cross-compiled for 64-bit ARM, with the tools that it finds.

CMake, a compiler, an unpacked ExecuTorch wheel, and the emulator of ARM programs; see docs/native.md.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.files import staging_dir
from tofe_edge.runtimes.native_runner import BINARY

SOURCES = Path(__file__).parent / "native"
"""CMake project of the runner; part of the installed package."""

_BUILD_TIMEOUT_S = 600.0


def build(target: Target, out_dir: Path, wheel_root: Path | None = None) -> Path:
    """Compile the runner into ``out_dir`` and put ExecuTorch's libraries beside it, in ``out_dir/lib``.

    Args:
        target: ``host`` or ``aarch64`` (Linux).
        wheel_root: ExecuTorch for the target; default as of :func:`host_toolchain` and :func:`aarch64_toolchain`.

    Returns:
        The program. It finds its libraries wherever the folder is moved to.

    Raises:
        InputError: something to build with is missing, or ``out_dir`` cannot be written.
        DeviceError: the compiler fails.
    """
    toolchain = host_toolchain(wheel_root) if target == "host" else aarch64_toolchain(wheel_root)
    with staging_dir(out_dir) as folder:
        built, installed = folder / "build", folder / "install"
        _compile(toolchain, built)
        _step([str(toolchain.cmake), "--install", str(built), "--prefix", str(installed)])
        (out_dir / "lib").mkdir(exist_ok=True)
        for path in sorted(installed.rglob("*")):
            if path.is_file():
                path.replace(out_dir / path.relative_to(installed))
    return out_dir / BINARY


def _compile(toolchain: Toolchain, folder: Path) -> None:
    configure = [
        str(toolchain.cmake), "-S", str(SOURCES), "-B", str(folder), "-G", "Unix Makefiles",
        f"-Dexecutorch_DIR={toolchain.executorch / 'share' / 'cmake'}",
    ]  # fmt: skip
    if toolchain.target == "host":
        configure.append(f"-DCMAKE_CXX_COMPILER={toolchain.compiler}")
    else:
        configure.append(f"-DCMAKE_TOOLCHAIN_FILE={SOURCES / 'aarch64-linux.cmake'}")
    _step(configure)
    _step([str(toolchain.cmake), "--build", str(folder), "--parallel", str(os.cpu_count() or 1)])


def _step(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_BUILD_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"the native runner cannot be built ({error})") from error
    if done.returncode:
        output = done.stdout + done.stderr
        # CMake puts a message of ours behind "CMake Error at FILE:LINE (message):", in lines of its own.
        stated = re.search(r"CMake Error at \S+ \(message\):\s+(.+?)\n\s*\n", output, re.DOTALL)
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        reason = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
        reason = " ".join(stated[1].split()) if stated else reason[:300]
        raise DeviceError(f"the native runner cannot be built ({Path(command[0]).name}: {reason})")


Target = Literal["host", "aarch64"]

AARCH64_EXECUTORCH = "TOFE_EDGE_AARCH64_EXECUTORCH"
"""Environment variable: the folder into which the aarch64 wheel of ExecuTorch was unpacked."""

EMULATED_CPU = "cortex-a76"
"""Raspberry Pi 5 and, close enough, Jetson Orin. Never leave it to qemu: its default CPU has matrix extensions that it
(7.2) emulates wrongly, and int8 results are wrong without any message."""

_SYSROOT = Path("/usr/aarch64-linux-gnu")
_ELF_MACHINES = {"x86_64": 0x3E, "aarch64": 0xB7}
_VERSION = re.compile(r"^__version__ = [\"']([^\"'+]+)", re.MULTILINE)


@dataclass(frozen=True)
class Toolchain:
    """The tools of :func:`tofe_edge.runtimes.native_build.build`."""

    target: Target
    cmake: Path
    compiler: Path
    executorch: Path
    """The ``executorch`` folder of an unpacked or installed wheel for the target, with ``include``, ``lib`` and ``share``."""


def host_toolchain(wheel_root: Path | None = None) -> Toolchain:
    """Find the tools to build the runner for this machine.

    Args:
        wheel_root: folder with ``executorch`` in it, or that folder; default: the installed package.

    Raises:
        InputError: something is missing; with the command that installs it.
    """
    install = "apt-get install cmake make g++"
    cmake = _tools(install)
    root = _package(wheel_root) if wheel_root else _installed()
    machine = platform.machine()
    _check_libraries(root, {"arm64": "aarch64", "AMD64": "x86_64"}.get(machine, machine))
    return Toolchain("host", cmake, _program(("g++", "c++", "clang++"), install), root)


def aarch64_toolchain(wheel_root: Path | None = None) -> Toolchain:
    """Find the tools to build the runner for 64-bit ARM Linux.

    Args:
        wheel_root: as for :func:`host_toolchain`; default: the folder that ``TOFE_EDGE_AARCH64_EXECUTORCH`` names.

    Raises:
        InputError: something is missing; with the command that installs it.
    """
    install = "apt-get install cmake make g++-aarch64-linux-gnu"
    cmake = _tools(install)
    compiler = _program(("aarch64-linux-gnu-g++",), install)
    name = os.environ.get(AARCH64_EXECUTORCH, "")
    if wheel_root is None and not name:
        raise InputError(
            f"{AARCH64_EXECUTORCH} is not set: get ExecuTorch for aarch64 with `{aarch64_wheel_command()}`"
        )
    root = _package(wheel_root or Path(name))
    _check_libraries(root, "aarch64")
    return Toolchain("aarch64", cmake, compiler, root)


def aarch64_emulator() -> tuple[str, ...]:
    """The command prefix that runs an aarch64 program here; empty on such a machine.

    Raises:
        InputError: qemu or the target's C library is missing; with the command that installs them.
    """
    if platform.machine() in ("aarch64", "arm64"):
        return ()
    install = "apt-get install qemu-user-static g++-aarch64-linux-gnu"
    qemu = _program(("qemu-aarch64-static", "qemu-aarch64"), install)
    if not (_SYSROOT / "lib" / "ld-linux-aarch64.so.1").exists():
        raise InputError(f"{_SYSROOT}: the C library for aarch64 is missing; `{install}`")
    return (str(qemu), "-cpu", EMULATED_CPU, "-L", str(_SYSROOT))


def aarch64_wheel_command() -> str:
    """The commands that fetch and unpack the wheel for aarch64 of the installed version."""
    version = metadata.version("executorch")
    return (
        "pip download --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 --python-version 311 "
        f"executorch=={version} -d DIR && python -m zipfile -e DIR/executorch-{version}-*.whl DIR && "
        f"export {AARCH64_EXECUTORCH}=DIR"
    )


def _tools(install: str) -> Path:
    _program(("make",), install)
    return _program(("cmake",), install)


def _program(names: tuple[str, ...], install: str) -> Path:
    for name in names:
        if path := shutil.which(name):
            return Path(path)
    raise InputError(f"{names[0]} is not installed; `{install}`")


def _installed() -> Path:
    spec = importlib.util.find_spec("executorch")
    locations = list(spec.submodule_search_locations or ()) if spec else []
    if not locations:
        raise InputError("executorch is not installed; `pip install executorch`")
    return Path(locations[0])


def _package(folder: Path) -> Path:
    root = next((one for one in (folder / "executorch", folder) if (one / "share" / "cmake").is_dir()), None)
    if root is None:
        raise InputError(f"{folder}: is not an unpacked ExecuTorch wheel; `{aarch64_wheel_command()}`")
    return root.resolve()


def _check_libraries(root: Path, machine: str) -> None:
    """Refuse a package for another machine or version: the linker would take a page to say so."""
    library = root / "lib" / "libexecutorch.so"
    try:
        head = library.read_bytes()[:20]
        version_text = (root / "version.py").read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); unpack the ExecuTorch wheel for {machine} again"
        ) from error
    expected = _ELF_MACHINES.get(machine)
    if head[:4] != b"\x7fELF" or expected is None or int.from_bytes(head[18:20], "little") != expected:
        raise InputError(f"{library}: is not a library for {machine}; unpack the ExecuTorch wheel for {machine}")
    version = _VERSION.search(version_text)
    installed = metadata.version("executorch").split("+")[0]
    if version is None or version[1] != installed:
        raise InputError(
            f"{root}: is ExecuTorch {version[1] if version else 'of an unknown version'}, but models are made with {installed}; "
            f"unpack the wheel of {installed}"
        )
