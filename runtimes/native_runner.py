"""Building the native runner and running models with it: here, for 64-bit ARM under an emulator, on a device.

The runner needs no Python and no PyTorch: one small program and ExecuTorch's shared libraries, in one folder that can
be copied to a device as it is. See docs/native.md.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.latency import Latency
from runtimes.native_toolchain import Target, Toolchain, aarch64_toolchain, host_toolchain
from tofe_edge.errors import DeviceError, InputError
from tofe_edge.files import workshop

SOURCES = Path(__file__).parent / "native"
"""CMake project of the runner; part of the installed package."""

BINARY = "tofe_runner"

WRONG_CALL, BAD_FILE, BAD_INPUT, RUNTIME_ERROR = 2, 3, 4, 5
"""Exit codes of the runner, as in ``native/failure.h``."""

_BUILD_TIMEOUT_S = 600.0
_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


@dataclass(frozen=True)
class NativeResult:
    """What one call of the runner gave: its last run's outputs, and the time of every counted run."""

    outputs: tuple[npt.NDArray[Any], ...]
    """In the program's order: logits, then one selection a stage."""
    latency: Latency
    load_ms: float
    planned_bytes: int
    """Memory for activations outside the delegates."""
    peak_rss_bytes: int
    """Resident memory of the process at its peak; under an emulator that of both."""
    method: str
    threads: int


def build(target: Target, out_dir: Path, wheel_root: Path | None = None) -> Path:
    """Compile the runner into ``out_dir`` and put ExecuTorch's libraries beside it, in ``out_dir/lib``.

    Args:
        target: ``host`` or ``aarch64`` (Linux).
        wheel_root: ExecuTorch for the target; default as in :mod:`runtimes.native_toolchain`.

    Returns:
        The program. It finds its libraries wherever the folder is moved to.

    Raises:
        InputError: something to build with is missing, or ``out_dir`` cannot be written.
        DeviceError: the compiler fails.
    """
    toolchain = host_toolchain(wheel_root) if target == "host" else aarch64_toolchain(wheel_root)
    with workshop(out_dir) as folder:
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
    _step([str(toolchain.cmake), "--build", str(folder)])


def _step(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_BUILD_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"the native runner cannot be built ({error})") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
        raise DeviceError(f"the native runner cannot be built ({Path(command[0]).name}: {reason[:300]})")


def run(
    binary: Path,
    model: Path,
    pixels: bytes,
    method: str = "forward",
    runs: int = 1,
    threads: int = 1,
    emulator: Sequence[str] = (),
    *,
    warm_up: int = 0,
    timeout_s: float = 600.0,
) -> NativeResult:
    """Run a model in a process of its own.

    Args:
        pixels: the input as raw float32, row-major: ``array.tobytes()``.
        emulator: command prefix, as from :func:`runtimes.native_toolchain.aarch64_emulator`.
        warm_up: runs before those that count.
        timeout_s: seconds that loading and all runs may take together.

    Raises:
        InputError: the call, the model file or the input is wrong; the runner's own line.
        DeviceError: the runner cannot be started, fails, crashes or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as name:
        given, taken = Path(name) / "input.bin", Path(name) / "output.bin"
        given.write_bytes(pixels)
        command = [
            *emulator, str(binary), _path(model), "--method", method, "--input", str(given), "--output", str(taken),
            "--runs", str(runs), "--warmup", str(warm_up), "--threads", str(threads),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s)
        except (OSError, ValueError) as error:
            raise DeviceError(f"{binary}: cannot be started ({error}); build it again") from error
        except subprocess.TimeoutExpired as error:
            raise DeviceError(
                f"{model}: the native runner took more than {timeout_s:g} s; ask for fewer runs"
            ) from error
        if done.returncode:
            raise _failure(binary, model, done.returncode, done.stderr)
        try:
            return _read(json.loads(done.stdout), taken.read_bytes())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DeviceError(f"{binary}: its result cannot be read ({error}); build it again") from error


def _path(model: Path) -> str:
    """The path as an argument: one that begins with a dash is no option."""
    return f"./{model}" if str(model).startswith("-") else str(model)


def _failure(binary: Path, model: Path, code: int, stderr: str) -> InputError | DeviceError:
    lines = [line for line in stderr.splitlines() if line.strip()]
    message = (lines[-1] if lines else "no message").removeprefix(f"{BINARY}: ")[:500]
    if code in (WRONG_CALL, BAD_FILE, BAD_INPUT):
        return InputError(message)
    if code == RUNTIME_ERROR:
        return DeviceError(message)
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return DeviceError(
            f"{model}: ended the native runner with {name}; the file is damaged: convert the model again"
        )
    return DeviceError(f"{binary}: cannot run here, exit code {code} ({message})")


def _read(document: dict[str, Any], content: bytes) -> NativeResult:
    outputs, offset = [], 0
    for output in document["outputs"]:
        shape, size = [int(one) for one in output["shape"]], int(output["bytes"])
        if output["dtype"] not in _DTYPES:
            raise ValueError(f"unknown type {output['dtype']!r}")
        dtype = np.dtype(output["dtype"])
        if size != math.prod(shape) * dtype.itemsize or offset + size > len(content):
            raise ValueError("the sizes of its outputs do not agree")
        outputs.append(np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape).copy())
        offset += size
    if offset != len(content):
        raise ValueError("the output file is longer than its outputs")
    return NativeResult(
        outputs=tuple(outputs),
        latency=Latency(tuple(float(sample) for sample in document["samples_ms"]), float(document["cpu_ms"])),
        load_ms=float(document["load_ms"]),
        planned_bytes=int(document["planned_bytes"]),
        peak_rss_bytes=int(document["peak_rss_bytes"]),
        method=str(document["method"]),
        threads=int(document["threads"]),
    )
