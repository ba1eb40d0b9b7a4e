"""``tofe-edge profile`` of ONNX files: by ONNX Runtime here, or by TensorRT on a board."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tofe_edge.errors import require
from tofe_edge.io.artifact import Artifact, open_artifact
from tofe_edge.runtimes.bench import Bench, constant_noise, time_here
from tofe_edge.runtimes.comparison import check_rival, compare_artifacts, judge
from tofe_edge.runtimes.etdump import stage_names
from tofe_edge.runtimes.onnx import load
from tofe_edge.runtimes.onnx_trace import trace
from tofe_edge.runtimes.reports import LatencyReport, ProfileRequest
from tofe_edge.runtimes.tensorrt import TensorRtBench, flags_for, open_board
from tofe_edge.runtimes.timing import Timing, TimingRequest


@dataclass(frozen=True)
class OnnxBench:
    """ONNX Runtime in this process; see :class:`tofe_edge.runtimes.bench.Bench`."""

    provider: str | None
    name: str = "host"

    def time(self, model: Path, request: TimingRequest) -> Timing:
        """Time a file. The input is random, always the same."""

        def run_of() -> tuple[Callable[[], object], float]:
            loaded = load(open_artifact(model), request.threads, request.method, self.provider)
            manifest = loaded.artifact.manifest
            size = manifest.preprocessing.image_size
            pixels = constant_noise((manifest.batch, 3, size, size)).numpy()
            return lambda: loaded.execute(pixels), loaded.load_ms

        return time_here(run_of, request)


def profile_file(artifact: Artifact, asked: ProfileRequest) -> LatencyReport:
    """Measure a file.

    Raises:
        InputError: the options do not go together, or another model is not an ONNX file.
        DeviceError: the runtime or the board fails.
    """
    require(asked.compute_units is None, "--compute-units is for .mlpackage models; use --provider")
    require(asked.runner is None, "--runner is for .pte models; leave it out")
    request = TimingRequest(
        asked.method, asked.runs, duration_s=asked.sustained, threads=asked.threads or 1, cpus=asked.cpus
    )
    with ExitStack() as stack:
        bench: OnnxBench | TensorRtBench
        if asked.engine is None:
            require(asked.on == "host", "--on: ONNX Runtime is timed here; on a board use --engine tensorrt")
            bench = OnnxBench(asked.provider)
        else:
            for name, value in {"provider": asked.provider, "threads": asked.threads, "cpus": asked.cpus}.items():
                require(not value, f"--{name}: TensorRT computes on the GPU; leave it out")
            flags_for(artifact)
            bench = stack.enter_context(open_board(asked.on))
        report = _measure(stack, bench, artifact, asked, request)
        if isinstance(bench, TensorRtBench):
            method = artifact.manifest.method(asked.method)
            breakdown = bench.trace(artifact, stage_names(artifact.manifest))
            return replace(report, breakdown=breakdown, engine=bench.describe(artifact, bench.check(artifact, method)))
        breakdown, nodes = trace(artifact, request.threads, asked.provider, asked.cpus)
        return replace(report, breakdown=breakdown, nodes=nodes)


def _measure(
    stack: ExitStack, bench: Bench, artifact: Artifact, asked: ProfileRequest, request: TimingRequest
) -> LatencyReport:
    comparison = None
    if asked.open_rival is not None:
        other = stack.enter_context(asked.open_rival())
        check_rival(artifact, other)
        comparison, timing = compare_artifacts(bench, artifact, other, request)
    else:
        timing = bench.time(artifact.path, request)
    return LatencyReport(
        artifact=artifact,
        request=request,
        where=bench.name,
        timing=timing,
        breakdown=None,
        sustained=None if asked.sustained is None else judge(timing.latency, timing.telemetry),
        comparison=comparison,
        rival=asked.rival,
    )
