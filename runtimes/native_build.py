"""Compiles the native runner: for this machine, or cross-compiled for 64-bit ARM. See docs/native.md."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tofe_edge.errors import DeviceError
from tofe_edge.io.files import staging_dir
from tofe_edge.runtimes.native_runner import BINARY
from tofe_edge.runtimes.native_toolchain import Target, Toolchain, aarch64_toolchain, host_toolchain

SOURCES = Path(__file__).parent / "native"
"""CMake project of the runner; part of the installed package."""

_BUILD_TIMEOUT_S = 600.0


def build(target: Target, out_dir: Path, wheel_root: Path | None = None) -> Path:
    """Compile the runner into ``out_dir`` and put ExecuTorch's libraries beside it, in ``out_dir/lib``.

    Args:
        target: ``host`` or ``aarch64`` (Linux).
        wheel_root: ExecuTorch for the target; default as in :mod:`tofe_edge.runtimes.native_toolchain`.

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
