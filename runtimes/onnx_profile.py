"""``tofe-edge profile`` of ONNX files: by ONNX Runtime here, or by TensorRT on a board."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.errors import require
from tofe_edge.io.artifact import Artifact, open_artifact
from tofe_edge.runtimes.bench import constant_noise, time_here
from tofe_edge.runtimes.comparison import check_rival, compare_artifacts, judge
from tofe_edge.runtimes.onnx import load
from tofe_edge.runtimes.onnx_trace import trace
from tofe_edge.runtimes.reports import LatencyReport, ProfileRequest
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
        DeviceError: the runtime fails.
    """
    require(asked.compute_units is None, "--compute-units is for .mlpackage models; use --provider")
    require(asked.runner is None, "--runner is for .pte models; leave it out")
    if asked.engine is not None:
        require(asked.on != "host", "--engine tensorrt: builds and runs on a board; name it with --on ssh://HOST")
    require(asked.on == "host", "--on: ONNX Runtime is timed here; on a board use --engine tensorrt")
    bench = OnnxBench(asked.provider)
    request = TimingRequest(
        asked.method, asked.runs, duration_s=asked.sustained, threads=asked.threads or 1, cpus=asked.cpus
    )
    with ExitStack() as stack:
        comparison = None
        if asked.open_rival is None:
            timing = bench.time(artifact.path, request)
        else:
            other = stack.enter_context(asked.open_rival())
            check_rival(artifact, other)
            comparison, timing = compare_artifacts(bench, artifact, other, request)
        breakdown, nodes = trace(artifact, request.threads, asked.provider, asked.cpus)
        return LatencyReport(
            artifact=artifact,
            request=request,
            where=bench.name,
            timing=timing,
            breakdown=breakdown,
            sustained=None if asked.sustained is None else judge(timing.latency, timing.telemetry),
            comparison=comparison,
            rival=asked.rival,
            nodes=nodes,
        )
