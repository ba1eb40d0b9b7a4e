"""The native runner in a process of its own: how it is called, to measure or for its self-test, and how its answer is read.

The runner needs no Python and no PyTorch: one small program and ExecuTorch's shared libraries, in one folder that can
be copied to a device as it is (:mod:`tofe_edge.runtimes.native_build`). See docs/native.md.
"""

from __future__ import annotations

import math
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tofe_edge.errors import DeviceError, InputError, quoted
from tofe_edge.io.documents import parse_json
from tofe_edge.runtimes.latency import Latency
from tofe_edge.runtimes.timing import Machine, Telemetry, Timing, TimingRequest

BINARY = "tofe_runner"

_MOST = 2**53
"""Of any figure in a result."""

WRONG_CALL, BAD_FILE, BAD_INPUT, RUNTIME_ERROR, SELF_TEST_FAILED = 2, 3, 4, 5, 6
"""Exit codes of the runner, as in ``native/failure.h``."""


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


def arguments(model: str, request: TimingRequest) -> list[str]:
    """The runner's arguments; ``model`` is a path on the machine that runs it. Every element of the input is 0.5."""
    words = [as_argument(model), "--method", request.method]
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


def read_result(stdout: str, request: TimingRequest) -> Timing:
    """Read what the runner printed of a measurement.

    Raises:
        ValueError, KeyError, TypeError: it is not what a runner of this version prints, or not of what was asked.
    """
    try:
        document = parse_json(stdout)
        result = _result(document)
    except (AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(f"it is malformed: {error}") from error
    for key, asked in (("method", request.method), ("threads", request.threads)):
        if document[key] != asked:
            raise ValueError(f"it is of {key} {quoted(document[key])}, not {asked}")
    _check_figures(result)
    samples = len(result.latency.samples_ms)
    if request.duration_s is None and samples != request.runs:
        raise ValueError(f"it has {samples} samples, not {request.runs}")
    return result


def _check_figures(result: Timing) -> None:
    """Raise :class:`ValueError` if a figure is not one that a machine can have."""
    samples, begun = result.latency.samples_ms, result.latency.started_s
    if not samples or not all(0 < one < math.inf for one in samples) or (begun and len(begun) != len(samples)):
        raise ValueError("its samples are not times")
    states = result.telemetry
    figures: dict[str, Sequence[float | None]] = {
        "cpu_ms": [result.latency.cpu_ms],
        "load_ms": [result.load_ms],
        "samples_at_s": begun,
        "planned_bytes": [result.planned_bytes],
        "peak_rss_bytes": [result.peak_rss_bytes],
        "khz": [one for state in states for one in state.khz.values()],
        "cores_online": [result.machine.cores] if result.machine else [],
    }
    for key, values in figures.items():
        if not all(value is not None and 0 <= value < _MOST for value in values):
            raise ValueError(f"its {key} is not a figure of a machine")
    if not all(math.isfinite(one) for state in states for one in (state.at_s, *state.celsius.values())):
        raise ValueError("its telemetry is not a figure of a machine")


def _result(document: dict[str, Any]) -> Timing:
    machine = document.get("machine")
    return Timing(
        latency=Latency(
            tuple(float(sample) for sample in document["samples_ms"]),
            float(document["cpu_ms"]),
            tuple(float(begun) for begun in document.get("samples_at_s", ())),
        ),
        load_ms=float(document["load_ms"]),
        planned_bytes=int(document["planned_bytes"]),
        peak_rss_bytes=int(document["peak_rss_bytes"]),
        threads=int(document["threads"]),
        telemetry=tuple(_telemetry(one) for one in document.get("telemetry", ())),
        machine=machine and Machine(str(machine["arch"]), int(machine["cores_online"]), str(machine["cpu_model"])),
    )


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
    snr_db: float
    """Infinite if the logits are those of the vectors to the bit, minus infinite if they are not finite."""
    kept_overlap: tuple[float, ...]
    failures: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all figures; an infinite SNR becomes ``null``."""
        return {**asdict(self), "snr_db": self.snr_db if math.isfinite(self.snr_db) else None}


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
        verdicts = tuple(_verdict(one) for one in parse_json(done.stdout)["methods"])
        if not verdicts or all(one.passed for one in verdicts) != (done.returncode == 0):
            raise ValueError(f"its exit code is {done.returncode}")
        return verdicts
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise DeviceError(f"{binary}: its verdict cannot be read ({error}); build it again") from error


def _verdict(document: dict[str, Any]) -> MethodVerdict:
    passed, snr_db = document["passed"], document["snr_db"]
    overlap = tuple(float(share) for share in document["kept_overlap"])
    if not isinstance(passed, bool) or math.isnan(snr_db or 0.0) or not all(0 <= share <= 1 for share in overlap):
        raise ValueError("its figures are not those of a comparison")
    return MethodVerdict(
        method=str(document["method"]),
        passed=passed,
        images=int(document["images"]),
        # JSON has no infinity: null is either, and the verdict tells which.
        snr_db=(math.inf if passed else -math.inf) if snr_db is None else float(snr_db),
        kept_overlap=overlap,
        failures=tuple(str(text) for text in document["failures"]),
    )
