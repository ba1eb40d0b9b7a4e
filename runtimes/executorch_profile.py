"""``tofe-edge profile`` of ExecuTorch programs: on a bench, alone or in turn with another model, and traced here."""

from __future__ import annotations

from contextlib import ExitStack

from tofe_edge.errors import require
from tofe_edge.io.artifact import Artifact
from tofe_edge.runtimes.comparison import check_rival, compare_artifacts, judge
from tofe_edge.runtimes.devices.opening import open_bench
from tofe_edge.runtimes.etdump import trace
from tofe_edge.runtimes.executorch import check_program
from tofe_edge.runtimes.reports import LatencyReport, ProfileRequest
from tofe_edge.runtimes.timing import TimingRequest
from tofe_edge.runtimes.trial import try_first


def profile_program(artifact: Artifact, asked: ProfileRequest) -> LatencyReport:
    """Measure one method of a program.

    Raises:
        InputError: the options do not go together, or a model is not a program.
        DeviceError: the device or the runtime fails.
    """
    require(asked.compute_units is None, "--compute-units is for .mlpackage models; use --threads")
    require(asked.provider is None, "--provider is for .onnx models; use --threads")
    require(asked.engine is None, "--engine is for .onnx models; `tofe-edge convert --target onnx` makes one")
    check_program(artifact)
    request = TimingRequest(
        asked.method, asked.runs, duration_s=asked.sustained, threads=asked.threads or 1, cpus=asked.cpus
    )
    with ExitStack() as stack:
        # The device first: that it cannot be reached should not be said after half a minute of converting.
        bench = stack.enter_context(open_bench(asked.on, asked.runner))
        if bench.name == "host":
            try_first(artifact)
        comparison = None
        if asked.open_rival is None:
            timing = bench.time(artifact.path, request)
        else:
            other = stack.enter_context(asked.open_rival())
            check_rival(artifact, other)
            check_program(other)
            if bench.name == "host":
                try_first(other)
            comparison, timing = compare_artifacts(bench, artifact, other, request)
        return LatencyReport(
            artifact=artifact,
            request=request,
            where=bench.name,
            timing=timing,
            breakdown=trace(artifact, request.threads, request.method, request.cpus) if bench.name == "host" else None,
            sustained=None if asked.sustained is None else judge(timing.latency, timing.telemetry),
            comparison=comparison,
            rival=asked.rival,
        )
