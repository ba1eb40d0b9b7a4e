"""``tofe-edge profile`` of ExecuTorch programs: on a bench, alone or in turn with another model, and traced here."""

from __future__ import annotations

from contextlib import ExitStack

from tofe_edge.errors import require
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact
from tofe_edge.runtimes.bench import Bench
from tofe_edge.runtimes.comparison import Comparison, Rival, compare, judge
from tofe_edge.runtimes.devices.opening import open_bench
from tofe_edge.runtimes.etdump import trace
from tofe_edge.runtimes.executorch import check_program
from tofe_edge.runtimes.reports import LatencyReport, ProfileRequest
from tofe_edge.runtimes.timing import Timing, TimingRequest, joined


def profile_program(artifact: Artifact, asked: ProfileRequest) -> LatencyReport:
    """Measure one method of a program.

    Raises:
        InputError: the options do not go together, or a model is not a program.
        DeviceError: the device or the runtime fails.
    """
    require(asked.compute_units is None, "--compute-units is for .mlpackage models; use --threads")
    check_program(artifact)
    request = TimingRequest(
        asked.method, asked.runs, duration_s=asked.sustained, threads=asked.threads or 1, cpus=asked.cpus
    )
    with ExitStack() as stack:
        # The device first: that it cannot be reached should not be said after half a minute of converting.
        bench = stack.enter_context(open_bench(asked.on, asked.runner))
        comparison = None
        if asked.open_rival is None:
            timing = bench.time(artifact.path, request)
        else:
            comparison, timing = _compare(bench, artifact, stack.enter_context(asked.open_rival()), request)
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


def _compare(bench: Bench, artifact: Artifact, other: Artifact, request: TimingRequest) -> tuple[Comparison, Timing]:
    """Time the model in turn with another one that takes the same input."""
    require(
        other.manifest.target == artifact.manifest.target, f"{other.path}: is not a .pte model, which --against needs"
    )
    check_program(other)
    ours, theirs = artifact.manifest, other.manifest
    require(
        (ours.batch, ours.preprocessing.image_size) == (theirs.batch, theirs.preprocessing.image_size),
        f"{other.path}: takes batches of {theirs.batch} at {theirs.preprocessing.image_size} px where {artifact.path} takes "
        f"{ours.batch} at {ours.preprocessing.image_size} px; compare models with the same input",
    )
    model = Rival(artifact.path, request.method, ours.method(request.method).gmacs)
    comparison, timings = compare(bench, model, Rival(other.path, DEFAULT_METHOD, theirs.gmacs), request)
    return comparison, joined(timings)
