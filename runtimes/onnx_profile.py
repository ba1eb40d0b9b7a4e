"""``tofe-edge profile`` of ONNX files: by ONNX Runtime here, or by TensorRT on a board."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tofe_edge.errors import require
from tofe_edge.io.artifact import Artifact, open_artifact
from tofe_edge.runtimes.bench import time_here
from tofe_edge.runtimes.breakdown import stage_names
from tofe_edge.runtimes.measurement import measure_on
from tofe_edge.runtimes.onnx import load, noise_for
from tofe_edge.runtimes.onnx_trace import trace
from tofe_edge.runtimes.reports import LatencyReport, ProfileRequest
from tofe_edge.runtimes.tensorrt import flags_for, open_board
from tofe_edge.runtimes.timing import Timing, TimingRequest
from tofe_edge.runtimes.trial import try_first


@dataclass(frozen=True)
class OnnxBench:
    """ONNX Runtime in this process; see :class:`tofe_edge.runtimes.bench.Bench`."""

    provider: str | None
    name: str = "host"

    def time(self, model: Path, request: TimingRequest) -> Timing:
        """Time a file. The input is random, always the same."""

        def run_of() -> tuple[Callable[[], object], float]:
            loaded = load(open_artifact(model), request.threads, request.method, self.provider)
            pixels = noise_for(loaded.artifact)
            return lambda: loaded.execute(pixels), loaded.load_ms

        return time_here(run_of, request)


def profile_file(artifact: Artifact, asked: ProfileRequest) -> LatencyReport:
    """Measure a file.

    Raises:
        InputError: the options do not go together, or another model is not an ONNX file.
        DeviceError: the runtime or the board fails.
    """
    return _here(artifact, asked) if asked.engine is None else _on_board(artifact, asked)


def _here(artifact: Artifact, asked: ProfileRequest) -> LatencyReport:
    require(asked.on == "host", "--on: ONNX Runtime is timed here; on a board use --engine tensorrt")
    report = measure_on(OnnxBench(asked.provider), artifact, asked, try_first)
    breakdown, nodes = trace(artifact, report.request.threads, asked.provider, asked.cpus)
    return replace(report, breakdown=breakdown, nodes=nodes)


def _on_board(artifact: Artifact, asked: ProfileRequest) -> LatencyReport:
    for name, value in {"provider": asked.provider, "threads": asked.threads, "cpus": asked.cpus}.items():
        require(not value, f"--{name}: TensorRT computes on the GPU; leave it out")
    flags_for(artifact)
    with open_board(asked.on) as bench:
        report = measure_on(bench, artifact, asked, flags_for)
        breakdown = bench.trace(artifact, stage_names(artifact.manifest))
        return replace(report, breakdown=breakdown, engine=bench.describe(artifact, report.timing, asked.method))
