"""TensorRT on a board: its own ``trtexec`` builds the engine from an ONNX file, times it and runs the golden inputs.

An engine fits one version of TensorRT and one GPU, so it is built where it runs. Nothing of it stays there: engines are kept
here, by what they depend on, and copied again. What ``trtexec`` writes as JSON is in NVIDIA's samples/common/sampleReporting.cpp.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import DeviceError, InputError, require
from tofe_edge.evaluation.golden import golden_path_of, read_golden, replay
from tofe_edge.evaluation.parity import Parity
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.io.artifact import Artifact, Method, open_artifact
from tofe_edge.io.files import write_bytes
from tofe_edge.io.targets import FP16_GATES
from tofe_edge.runtimes.breakdown import Breakdown, TimeShare, times_by_stage
from tofe_edge.runtimes.devices import ssh
from tofe_edge.runtimes.devices.address import SshAddress, parse_address
from tofe_edge.runtimes.devices.deploy import DeviceFacts, cache_folder, read_facts
from tofe_edge.runtimes.devices.scripts import RUNNER
from tofe_edge.runtimes.devices.session import PAUSES_S, Parcel, Session, stay
from tofe_edge.runtimes.devices.shell import Answer, Shell, printable
from tofe_edge.runtimes.interface import batch_of, predictions_of
from tofe_edge.runtimes.latency import Latency
from tofe_edge.runtimes.onnx import INPUT, output_names
from tofe_edge.runtimes.reports import Engine
from tofe_edge.runtimes.timing import Machine, Timing, TimingRequest

BUILD_TIMEOUT_S = 1800.0
TIMEOUT_S = 600.0
_WARM_UP_MS = 500
_TRACED_RUNS = 20
_MISSING = 97

# trtexec takes the place of the shell, so that whoever ends the one has ended the other.
_SCRIPT = f"""\
#!/bin/sh
for found in "$(command -v trtexec)" /usr/src/tensorrt/bin/trtexec /usr/local/tensorrt/bin/trtexec /opt/tensorrt/bin/trtexec; do
  [ -x "$found" ] && break
done
[ -x "$found" ] || exit {_MISSING}
[ "$1" = run ] && {{ shift; exec "$found" "$@"; }}
"$found" --help 2>&1 | sed -n 's/.*\\[TensorRT v\\([0-9]*\\)\\].*/version=\\1/p' | head -n 1
echo "power=$(nvpmodel -q 2>/dev/null | sed -n 's/^NV Power Mode: *//p' | head -n 1)"
echo "clocks=$(jetson_clocks --show 2>/dev/null | sed -n 's/^GPU *//p' | head -n 1)"
"""

_ERROR = re.compile(r"^(?:\[[^]]*\] )?\[E\] (.*\S)", re.MULTILINE)
_EPILOGUE = re.compile(
    r"(Engine|Failed to create engine|Building engine) (could not|set up|failed|from)|Failed to (parse|create)"
)
_LOADED = re.compile(r"Engine (?:loaded|deserialized) in ([0-9.]+) sec")


@dataclass(frozen=True)
class _Board:
    version: str
    power_mode: str
    gpu_clocks: str


@contextmanager
def open_board(address: str) -> Iterator[TensorRtBench]:
    """Open TensorRT on the board at an address; nothing stays there.

    Raises:
        InputError: it is not an ssh address.
        DeviceError: the board cannot be reached, or has no ``trtexec``.
    """
    place = parse_address(address)
    if not isinstance(place, SshAddress):
        raise InputError("--engine tensorrt: builds and runs on a board; name it with --on ssh://HOST")
    with ssh.connected(place) as shell, open_remote(shell) as bench:
        yield bench


@contextmanager
def open_remote(
    shell: Shell, *, build_timeout_s: float = BUILD_TIMEOUT_S, pauses_s: Sequence[float] = PAUSES_S
) -> Iterator[TensorRtBench]:
    """Open TensorRT behind a shell; see :func:`open_board`.

    Args:
        build_timeout_s: seconds that a build may take.
        pauses_s: seconds to wait before each further attempt after the link broke.
    """
    facts = read_facts(shell)
    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as folder, stay(shell, pauses_s) as session:
        script = Path(folder) / "trtexec.sh"
        script.write_text(_SCRIPT)
        yield TensorRtBench(session, facts, script, build_timeout_s)


class TensorRtBench:
    """Engines are built and timed on a board, one after the other; see :class:`tofe_edge.runtimes.bench.Bench`."""

    def __init__(self, session: Session, facts: DeviceFacts, script: Path, build_timeout_s: float) -> None:
        """See :func:`open_remote`. Raises :class:`DeviceError` if there is no ``trtexec``."""
        self._session, self._facts = session, facts
        self._script, self._build_timeout_s = script, build_timeout_s
        self._board = self._ask()

    @property
    def name(self) -> str:
        """The board's address."""
        return self._session.name

    def _ask(self) -> _Board:
        """Find ``trtexec`` and what it runs on."""
        said = printable(self._run("asking", [], ["facts"], TIMEOUT_S).stdout)
        told = dict(line.partition("=")[::2] for line in said.splitlines())
        digits = told.get("version", "")
        if not digits:
            raise DeviceError(f"{self.name}: its trtexec does not say its version; update TensorRT there")
        return _Board(version_of(digits), told.get("power", "").strip(), told.get("clocks", "").strip())

    def time(self, model: Path, request: TimingRequest) -> Timing:
        """Time a file's engine on the board, built if need be. The input is trtexec's own, random.

        Raises:
            InputError: TensorRT does not read such a file.
            DeviceError: the build or the run fails; there is never half a result.
        """
        engine = self._engine_of(open_artifact(model))
        lasts = [f"--iterations={request.runs}", f"--duration={request.duration_s or 0:g}", f"--warmUp={_WARM_UP_MS}"]
        answer = self._run(
            "measuring", [engine], [*_load(engine), *lasts, "--exportTimes=times.json"], TIMEOUT_S, request.duration_s
        )
        host, gpu = read_times(self._json("times.json"), f"{self.name}: trtexec", _WARM_UP_MS)
        loaded = _LOADED.findall(_said(answer))
        return Timing(
            latency=host,
            load_ms=1e3 * sum(map(float, loaded)) if loaded else None,
            threads=request.threads,
            warm_up=0,
            planned_bytes=None,
            peak_rss_bytes=None,
            machine=Machine(self._facts.arch, self._facts.cores, self._facts.cpu_model, self._facts.board),
            gpu=gpu,
        )

    def trace(self, artifact: Artifact, stages: Sequence[str]) -> Breakdown:
        """Time per layer as TensorRT has fused them, and per stage if a layer is of one stage. Errors as :meth:`time`."""
        engine = self._engine_of(artifact)
        lasts = [f"--iterations={_TRACED_RUNS}", "--duration=0", f"--warmUp={_WARM_UP_MS}"]
        words = [*_load(engine), *lasts, "--dumpProfile", "--separateProfileRun", "--exportProfile=profile.json"]
        self._run("tracing", [engine], words, TIMEOUT_S)
        return read_profile(self._json("profile.json"), f"{self.name}: trtexec", stages)

    def describe(self, artifact: Artifact, timing: Timing, name: str) -> Engine:
        """What ran one method of a model, how fast on the GPU, and whether it computes what the model does."""
        assert timing.gpu is not None, "this bench timed it"
        board, method = self._board, artifact.manifest.method(name)
        parity = self._check(artifact, method)
        return Engine(board.version, flags_for(artifact), board.power_mode, board.gpu_clocks, timing.gpu, parity)

    def _check(self, artifact: Artifact, method: Method) -> Parity:
        """Run the golden inputs and compare with what the model gave where it was converted, by the engine's precision."""
        golden = read_golden(golden_path_of(artifact.path), artifact)
        if artifact.manifest.precision == "fp32":
            golden = replace(golden, gates=FP16_GATES)
        return replay(golden, lambda pixels: self._predict(artifact, method, pixels), method.name)

    def _predict(self, artifact: Artifact, method: Method, pixels: npt.NDArray[np.float32]) -> Prediction:
        manifest, engine = artifact.manifest, self._engine_of(artifact)
        image = self._script.with_name("image.bin")
        image.write_bytes(batch_of(artifact, [pixels]).tobytes())
        words = [*_load(engine), f"--loadInputs={INPUT}:{image.name}", "--iterations=1", "--duration=0", "--warmUp=0"]
        self._run("checking", [engine, Parcel(image, image.name)], [*words, "--exportOutput=output.json"], TIMEOUT_S)
        tensors = read_outputs(self._json("output.json"), f"{self.name}: trtexec")
        names = output_names(manifest.output, len(method.token_counts or []))
        if missing := [name for name in names if name not in tensors]:
            raise DeviceError(
                f"{self.name}: trtexec gives no output {missing[0]!r} of {artifact.path}; convert it again"
            )
        output, *selections = [tensors[name] for name in names]
        if not all(((order >= 0) & (order < manifest.patch_tokens)).all() for order in selections):
            raise DeviceError(
                f"{self.name}: trtexec gives positions of tokens that the image does not have; convert the model again"
            )
        return predictions_of(method, output.reshape(manifest.batch, *manifest.shape), selections, 1)[0]

    def _engine_of(self, artifact: Artifact) -> Parcel:
        """The engine of a file, from the cache here or built there."""
        flags, board = flags_for(artifact), self._board
        depends = (artifact.manifest.sha256, board.version, self._facts.board, board.power_mode, *flags)
        key = hashlib.sha256("\0".join(depends).encode()).hexdigest()[:32]
        engine = Parcel(cache_folder().with_name("engines") / f"{key}.engine", f"{key}.engine")
        if not engine.local.is_file():
            self._run(
                "building the engine",
                [Parcel(artifact.path, "model.onnx")],
                ["run", "--onnx=model.onnx", f"--saveEngine={engine.name}", *flags, "--iterations=1", "--duration=0"],
                self._build_timeout_s,
            )
            write_bytes(engine.local, self._session.read(engine.name))
        return engine

    def _run(
        self,
        doing: str,
        parcels: Sequence[Parcel],
        words: Sequence[str],
        timeout_s: float,
        expected_s: float | None = None,
    ) -> Answer:
        answer = self._session.run(
            [Parcel(self._script, RUNNER), *parcels],
            words,
            cpu_s=timeout_s * max(1, self._facts.cores),
            timeout_s=timeout_s + (expected_s or 0.0),
            expected_s=expected_s,
            doing=doing,
            program="trtexec",
        )
        if answer.code == _MISSING:
            raise DeviceError(
                f"{self.name}: has no trtexec in PATH or /usr/src/tensorrt/bin; install it there: sudo apt install tensorrt"
            )
        if answer.code:
            raise DeviceError(f"{self.name}: {doing} failed: {last_error(_said(answer), answer.code)}")
        return answer

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._session.read(name))
        except ValueError as error:
            raise DeviceError(
                f"{self.name}: what trtexec wrote as {name} cannot be read ({error}); try again"
            ) from error


def _load(engine: Parcel) -> list[str]:
    return ["run", f"--loadEngine={engine.name}"]


def _said(answer: Answer) -> str:
    return f"{printable(answer.stdout)}\n{answer.stderr}"


def flags_for(artifact: Artifact) -> tuple[str, ...]:
    """How to build the engine of a file: fp16 wherever TensorRT likes, int8 where the file says so.

    Raises:
        InputError: TensorRT does not read such a file.
    """
    manifest = artifact.manifest
    require(
        manifest.int8_mode in (None, "static"),
        f"{artifact.path}: has {manifest.int8_mode} int8, and TensorRT reads static ranges alone; convert it with "
        "--int8-mode static, or --precision fp16",
    )
    return ("--fp16", "--int8") if manifest.precision == "int8" else ("--fp16",)


def version_of(digits: str) -> str:
    """``8.6.2`` of ``8602``, ``10.3.0`` of ``100300``."""
    major, rest = (digits[:-3], digits[-3:]) if len(digits) < 5 else (digits[:-4], digits[-4:])
    minor = rest[: len(rest) // 2]
    return ".".join(str(int(part or "0")) for part in (major, minor, rest[len(minor) :]))


def last_error(said: str, code: int) -> str:
    """trtexec's last error that says something, without its time; it ends with lines such as ``Engine set up failed``."""
    errors: list[str] = _ERROR.findall(said)
    telling = [line for line in errors if not _EPILOGUE.match(line)]
    return (telling or errors or [f"exit code {code}"])[-1][:300]


def read_times(document: Any, source: str, warm_up_ms: float) -> tuple[Latency, Latency]:
    """Host latency (copies and GPU) and GPU time from ``--exportTimes``; older versions have the warm-up among them.

    Raises:
        DeviceError: it is not such a document, or has no run.
    """
    try:
        runs = [run for run in document if run["startComputeMs"] >= warm_up_ms]
        enqueue = fmean(run["endEnqMs"] - run["startEnqMs"] for run in runs)
        started = tuple((run["startH2dMs"] - runs[0]["startH2dMs"]) / 1e3 for run in runs)
        host, gpu = (tuple(float(run[key]) for run in runs) for key in ("latencyMs", "computeMs"))
        if not all(0 < one < math.inf for one in (*host, *gpu)) or not math.isfinite(sum(started) + enqueue):
            raise ValueError("not all are times")
    except (KeyError, TypeError, ValueError) as error:
        raise DeviceError(f"{source}: its times are not complete ({error}); try again") from error
    return Latency(host, enqueue, started), Latency(gpu, enqueue, started)


def read_profile(document: Any, source: str, stages: Sequence[str]) -> Breakdown:
    """Mean time of each layer from ``--exportProfile``, summed by stage if every layer is of one.

    Raises:
        DeviceError: it is not such a document.
    """
    try:
        layers = [TimeShare(str(one["name"]), float(one["averageMs"]), 1) for one in document if "name" in one]
    except (KeyError, TypeError, ValueError) as error:
        raise DeviceError(f"{source}: its profile is not complete ({error}); try again") from error
    return Breakdown(
        tuple(times_by_stage(((layer.name, layer.ms) for layer in layers), stages)),
        tuple(sorted(layers, key=lambda layer: -layer.ms)),
        "mean",
    )


def read_outputs(document: Any, source: str) -> dict[str, npt.NDArray[np.float32]]:
    """Tensors by name from ``--exportOutput``.

    Raises:
        DeviceError: it is not such a document.
    """
    try:
        return {
            one["name"]: np.array(one["values"], np.float32).reshape(
                [int(size) for size in one["dimensions"].split("x")]
            )
            for one in document
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DeviceError(f"{source}: its outputs are not complete ({error}); try again") from error
