"""The native runner in a process of its own: how it is called, to measure or for its self-test, and how its answer is read.

The runner needs no Python and no PyTorch: one small program and ExecuTorch's shared libraries, in one folder that can
be copied to a device as it is (:mod:`tofe_edge.runtimes.native_build`). See docs/native.md.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.runtimes.latency import Latency
from tofe_edge.runtimes.timing import Machine, Telemetry, Timing, TimingRequest

BINARY = "tofe_runner"

WRONG_CALL, BAD_FILE, BAD_INPUT, RUNTIME_ERROR, SELF_TEST_FAILED = 2, 3, 4, 5, 6
"""Exit codes of the runner, as in ``native/failure.h``."""

ONE_RUN = TimingRequest(runs=1, warm_up=0)

_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class NativeResult(Timing):
    """The result of one call: the time of every counted run, and the outputs of the last one."""

    outputs: tuple[npt.NDArray[Any], ...]
    """In the program's order: logits, then one selection a stage. Empty if they were not asked for."""
    method: str


def run(
    binary: Path,
    model: Path,
    pixels: bytes,
    request: TimingRequest = ONE_RUN,
    emulator: Sequence[str] = (),
    *,
    timeout_s: float = 600.0,
) -> NativeResult:
    """Run a model in a process of its own.

    Args:
        pixels: the input as raw float32, row-major: ``array.tobytes()``.
        emulator: command prefix, as from :func:`tofe_edge.runtimes.native_build.aarch64_emulator`.
        timeout_s: seconds that loading and all runs may take together.

    Raises:
        InputError: the call, the model file or the input is wrong; the runner's own line.
        DeviceError: the runner cannot be started, fails, crashes or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as name:
        input_file, output_file = Path(name) / "input.bin", Path(name) / "output.bin"
        input_file.write_bytes(pixels)
        words = arguments(str(model), request, str(input_file), str(output_file))
        done = call(binary, model, words, emulator, timeout_s)
        if done.returncode:
            raise failure(str(binary), str(model), done.returncode, done.stderr)
        try:
            return replace(read_result(done.stdout, output_file.read_bytes()), warm_up=request.warm_up)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DeviceError(f"{binary}: its result cannot be read ({error}); build it again") from error


def call(
    binary: Path, model: Path, words: Sequence[str], emulator: Sequence[str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Call the runner and wait for its end.

    Raises:
        DeviceError: it cannot be started or takes too long.
    """
    try:
        return subprocess.run(
            [*emulator, str(binary), *words], capture_output=True, text=True, errors="replace", timeout=timeout_s
        )
    except (OSError, ValueError) as error:
        raise DeviceError(f"{binary}: cannot be started ({error}); build it again") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{model}: the native runner took more than {timeout_s:g} s; ask for fewer runs or more threads"
        ) from error


def arguments(
    model: str,
    request: TimingRequest,
    input_file: str | None = None,
    output_file: str | None = None,
    sha256: str | None = None,
) -> list[str]:
    """The runner's arguments.

    Args:
        model: path of the model on the machine that runs the runner.
        input_file: file with the input, likewise; default: every element is 0.5.
        output_file: file for the outputs.
        sha256: the model's checksum, which the runner then compares before it loads the file.
    """
    words = [as_argument(model), "--method", request.method]
    if sha256 is not None:
        words += ["--sha256", sha256]
    if input_file is not None:
        words += ["--input", input_file]
    if output_file is not None:
        words += ["--output", output_file]
    if request.duration_s is not None:
        words += ["--duration", f"{request.duration_s:g}"]
    else:
        words += ["--runs", str(request.runs)]
    if request.cpus:
        words += ["--cpus", request.cpus]
    return [*words, "--warmup", str(request.warm_up), "--threads", str(request.threads)]


def as_argument(path: str) -> str:
    """A path as an argument, so that one with a dash in front is not taken for an option."""
    return f"./{path}" if path.startswith("-") else path


def failure(binary: str, model: str, code: int, stderr: str) -> InputError | DeviceError:
    """The error to raise if the runner ended with ``code``: its own line, or what the code says."""
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


def read_result(stdout: str, content: bytes | None) -> NativeResult:
    """Read what the runner printed, and the ``content`` of its output file if one was asked for.

    Raises:
        ValueError, KeyError, TypeError: it is not what a runner of this version prints.
    """
    try:
        result = _result(json.loads(stdout), content)
    except (AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(f"it is malformed: {error}") from error
    samples, begun = result.latency.samples_ms, result.latency.started_s
    if not samples or not all(0 < one < math.inf for one in samples) or (begun and len(begun) != len(samples)):
        raise ValueError("its samples are not times")
    return result


def _result(document: dict[str, Any], content: bytes | None) -> NativeResult:
    machine = document.get("machine")
    return NativeResult(
        outputs=() if content is None else _outputs(document["outputs"], content),
        latency=Latency(
            tuple(float(sample) for sample in document["samples_ms"]),
            float(document["cpu_ms"]),
            tuple(float(begun) for begun in document.get("samples_at_s", ())),
        ),
        load_ms=float(document["load_ms"]),
        planned_bytes=int(document["planned_bytes"]),
        peak_rss_bytes=int(document["peak_rss_bytes"]),
        method=str(document["method"]),
        threads=int(document["threads"]),
        telemetry=tuple(_telemetry(one) for one in document.get("telemetry", ())),
        machine=machine and Machine(str(machine["arch"]), int(machine["cores_online"]), str(machine["cpu_model"])),
    )


def _outputs(described: Sequence[dict[str, Any]], content: bytes) -> tuple[npt.NDArray[Any], ...]:
    outputs, offset = [], 0
    for output in described:
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
    return tuple(outputs)


def _telemetry(document: dict[str, Any]) -> Telemetry:
    return Telemetry(
        at_s=float(document["t_s"]),
        khz={str(name): int(value) for name, value in document["khz"].items()},
        celsius={str(name): float(value) for name, value in document["celsius"].items()},
    )


@dataclass(frozen=True)
class MethodVerdict:
    """The verdict on one method; figures as in :class:`tofe_edge.evaluation.parity.Parity`."""

    method: str
    passed: bool
    images: int
    snr_db: float | None
    """``None``: the logits are those of the vectors to the bit, or not finite; ``passed`` tells which."""
    kept_overlap: tuple[float, ...]
    failures: tuple[str, ...]


def self_test_alone(
    binary: Path, model: Path, golden: Path, emulator: Sequence[str] = (), *, threads: int = 1, timeout_s: float = 600.0
) -> tuple[MethodVerdict, ...]:
    """Let the runner read manifest, images and golden vectors itself and replay them.

    Args:
        model: with its manifest beside it.
        golden: folder of its golden vectors.

    Returns:
        One verdict per method; the runner computes what it should if all have ``passed``.

    Raises:
        InputError: the model, its manifest or the vectors are missing or damaged, or the runner was built without the
            headers for them; the runner's own line.
        DeviceError: the runner cannot be started, fails or takes too long.
    """
    words = [as_argument(str(model)), "--self-test", str(golden), "--threads", str(threads)]
    done = call(binary, model, words, emulator, timeout_s)
    if done.returncode not in (0, SELF_TEST_FAILED):
        raise failure(str(binary), str(model), done.returncode, done.stderr)
    try:
        return tuple(
            MethodVerdict(
                method=str(one["method"]),
                passed=bool(one["passed"]),
                images=int(one["images"]),
                snr_db=None if one["snr_db"] is None else float(one["snr_db"]),
                kept_overlap=tuple(float(share) for share in one["kept_overlap"]),
                failures=tuple(str(text) for text in one["failures"]),
            )
            for one in json.loads(done.stdout)["methods"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DeviceError(f"{binary}: its verdict cannot be read ({error}); build it again") from error
