"""A model measured on a bench: alone, or in turn with another one that takes the same input."""

from __future__ import annotations

from collections.abc import Callable

from tofe_edge.errors import require
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact
from tofe_edge.io.targets import find_target
from tofe_edge.runtimes.bench import Bench
from tofe_edge.runtimes.comparison import Comparison, Rival, compare, judge
from tofe_edge.runtimes.reports import LatencyReport, ProfileRequest
from tofe_edge.runtimes.timing import Timing, TimingRequest, joined


def measure_on(
    bench: Bench, artifact: Artifact, asked: ProfileRequest, check: Callable[[Artifact], object]
) -> LatencyReport:
    """Time a model, without taking it apart.

    Args:
        check: raises if the bench cannot run a model, or should not; called for each one before anything is timed.

    Raises:
        InputError, DeviceError: as ``check`` and :meth:`Bench.time`; the other model does not take the same input.
    """
    request = TimingRequest(
        asked.method, asked.runs, duration_s=asked.sustained, threads=asked.threads or 1, cpus=asked.cpus
    )
    check(artifact)
    comparison = None
    if asked.open_rival is None:
        timing = bench.time(artifact.path, request)
    else:
        with asked.open_rival() as other:
            _check_rival(artifact, other)
            check(other)
            comparison, timing = _compare(bench, artifact, other, request)
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


def _check_rival(artifact: Artifact, other: Artifact) -> None:
    """Raise :class:`InputError` if another model is of another target, or takes other inputs."""
    ours, theirs = artifact.manifest, other.manifest
    suffix = find_target(ours.target).suffix
    require(theirs.target == ours.target, f"{other.path}: is not a {suffix} model, which --against needs")
    require(
        (ours.batch, ours.preprocessing.image_size) == (theirs.batch, theirs.preprocessing.image_size),
        f"{other.path}: takes batches of {theirs.batch} at {theirs.preprocessing.image_size} px where {artifact.path} takes "
        f"{ours.batch} at {ours.preprocessing.image_size} px; compare models with the same input",
    )


def _compare(bench: Bench, artifact: Artifact, other: Artifact, request: TimingRequest) -> tuple[Comparison, Timing]:
    """Time a model in turn with the default method of another one."""
    model = Rival(artifact.path, request.method, artifact.manifest.method(request.method).gmacs)
    comparison, timings = compare(bench, model, Rival(other.path, DEFAULT_METHOD, other.manifest.gmacs), request)
    return comparison, joined(timings)
