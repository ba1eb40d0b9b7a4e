"""How fast a converted model runs, here or on another device, and where the time goes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.errors import DeviceError, InputError, require
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, Method, open_artifact
from tofe_edge.io.progress import progress_bar, warn
from tofe_edge.io.targets import target_of
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.runtimes import coreml
from tofe_edge.runtimes.affinity import bound_to
from tofe_edge.runtimes.bench import Bench
from tofe_edge.runtimes.comparison import Comparison, Rival, compare
from tofe_edge.runtimes.coreml_counts import Share, by_operator, by_stage, costs, in_total
from tofe_edge.runtimes.coreml_device import OnDevice, Placement, time_on_device
from tofe_edge.runtimes.coreml_names import function_name
from tofe_edge.runtimes.devices.opening import open_bench
from tofe_edge.runtimes.etdump import Breakdown, break_down, stage_names
from tofe_edge.runtimes.executorch import check_program
from tofe_edge.runtimes.mil import load_program, open_package
from tofe_edge.runtimes.sustained import Sustained, judge
from tofe_edge.runtimes.timing import DEFAULT_RUNS, Timing, TimingRequest, joined
from tofe_edge.workflows.dense_twin import make_dense_twin
from tofe_edge.workflows.parity import find_reference
from tofe_edge.workflows.run import Model, artifact_of
from tofe_edge.workflows.sources import StrPath

DENSE = "dense"
"""What to compare with: the same net without token reduction."""


@dataclass(frozen=True)
class LatencyReport:
    """The latency of one method of a program, and what explains it.

    Attributes:
        where: the bench: ``host``, ``ssh://pi@kitchen``.
        breakdown: time per stage and operator; ``None`` if it was not traced: on another device, or the trace is unknown.
        sustained: whether the device throttles, if that was asked for.
        comparison: with ``rival``, if that was asked for.
        rival: ``dense``, or the path of another model.
    """

    artifact: Artifact
    request: TimingRequest
    where: str
    timing: Timing
    breakdown: Breakdown | None
    sustained: Sustained | None
    comparison: Comparison | None
    rival: str | None


@dataclass(frozen=True)
class PackageReport:
    """What one method of a Core ML package computes, and on a Mac how fast.

    Attributes:
        operators: counts by type of operator, most multiply-accumulates first.
        stages: the same by stage.
        total: of all operators.
        timed: by choice of compute units; empty if this is not a Mac.
        placement: where Core ML means to run the operators, for the first choice.
        runs: timed runs per choice.
    """

    artifact: Artifact
    method: Method
    operators: tuple[Share, ...]
    stages: tuple[Share, ...]
    total: Share
    timed: tuple[OnDevice, ...]
    placement: tuple[Placement, ...]
    runs: int


def profile(
    model: StrPath | Model | Artifact,
    *,
    on: str = "host",
    runner: Path | None = None,
    cpus: str = "",
    threads: int | None = None,
    runs: int | None = None,
    sustained: float | None = None,
    against: StrPath | None = None,
    compute_units: str | None = None,
    method: str = DEFAULT_METHOD,
    checkpoint: StrPath | Checkpoint | None = None,
    backbone: str | None = None,
) -> LatencyReport | PackageReport:
    """Measure the latency of a converted model.

    Args:
        on: where: ``host``, ``ssh://[user@]host[:port]``, ``adb`` or ``adb://SERIAL``.
        runner: folder of a native runner built for the device.
        cpus: cores to run on, as ``0,2-3``; any if empty.
        threads: of the runtime (1 if not given).
        runs: timed runs (50 if not given).
        sustained: run for so many seconds and compare the last quarter with the first.
        against: another model to time in turn with this one; ``dense`` for the same net without token reduction.
        compute_units: where Core ML may run a package, on a Mac; every choice if not given.
        method: which budget of an elastic model.
        checkpoint: what the model was made from, for ``against="dense"``; found by checksum if it is a shipped one.
        backbone: the net, if the checkpoint has plain dense weights.

    Returns:
        A :class:`LatencyReport`; a :class:`PackageReport` for a Core ML package.

    Raises:
        InputError: the options do not go together, or the model or the device is not there.
        DeviceError: the device or the runtime fails.

    Example:
        >>> import tofe_edge as te
        >>> report = te.profile(artifact, runs=5)
        >>> report.where, len(report.timing.latency.samples_ms), len(report.breakdown.stages)
        ('host', 5, 7)
    """
    require(against is None or sustained is None, "--against and --sustained: one at a time")
    require(runs is None or sustained is None, "--runs and --sustained: one at a time")
    for name, value in (("checkpoint", checkpoint), ("backbone", backbone)):
        require(value is None or against == DENSE, f"--{name} is for --against dense")
    artifact = artifact_of(model)
    chosen = artifact.manifest.method(method)
    if not has_benches(artifact):
        bench_options = {"on": on != "host", "runner": runner, "cpus": cpus, "sustained": sustained, "against": against}
        for name, given in bench_options.items():
            require(not given, f"--{name} is for .pte models; {artifact.path} is measured on a Mac alone")
        require(threads is None, "--threads is for .pte models; Core ML has its own threads, see --compute-units")
        return _profile_package(artifact, chosen, compute_units, runs or DEFAULT_RUNS)
    require(compute_units is None, "--compute-units is for .mlpackage models; use --threads")
    check_program(artifact)
    request = TimingRequest(method, runs or DEFAULT_RUNS, duration_s=sustained, threads=threads or 1, cpus=cpus)
    with ExitStack() as stack:
        # The device first: that it cannot be reached should not be said after half a minute of converting.
        bench = stack.enter_context(open_bench(on, runner))
        comparison = None
        if against is None:
            timing = bench.time(artifact.path, request)
        else:
            if against == DENSE:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tofe-edge-")))
                other = _dense_twin(artifact, find_reference(artifact, checkpoint, backbone), folder)
            else:
                other = open_artifact(Path(against))
            comparison, timing = _compare(bench, artifact, other, request)
        return LatencyReport(
            artifact=artifact,
            request=request,
            where=bench.name,
            timing=timing,
            breakdown=trace(artifact, request.threads, method, cpus) if bench.name == "host" else None,
            sustained=None if sustained is None else judge(timing.latency, timing.telemetry),
            comparison=comparison,
            rival=None if against is None else str(against),
        )


def has_benches(artifact: Artifact) -> bool:
    """Whether benches (this machine, ssh, adb) run the model; Core ML packages run on a Mac alone."""
    return target_of(artifact.manifest).native_runner


def trace(artifact: Artifact, threads: int, method: str = DEFAULT_METHOD, cpus: str = "") -> Breakdown | None:
    """Time per stage and operator on these cores; ``None``, with a warning, if the trace has an unknown shape."""
    try:
        with bound_to(cpus):
            return break_down(artifact, threads, method)
    except DeviceError as error:
        # What was measured before must not be thrown away.
        warn(f"no breakdown: {error}")
        return None


def _dense_twin(artifact: Artifact, checkpoint: Checkpoint, folder: Path) -> Artifact:
    with progress_bar("converting the dense net (half a minute)", total=1, unit="net") as bar:
        twin = make_dense_twin(artifact, checkpoint, folder)
        bar.update(1)
    return twin


def _compare(bench: Bench, artifact: Artifact, other: Artifact, request: TimingRequest) -> tuple[Comparison, Timing]:
    """Time the model in turn with another one that takes the same input."""
    require(has_benches(other), f"{other.path}: is not a .pte model, which --against needs")
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


def _profile_package(artifact: Artifact, method: Method, compute_units: str | None, runs: int) -> PackageReport:
    """Count, and measure if there is Core ML: the compute units asked for, or each choice with ``all`` first."""
    program = load_program(open_package(artifact.path), function_name(method.name))
    try:
        counted = costs(program.operations, program.function.inputs)
    except InputError as error:
        raise InputError(f"{artifact.path}: {error}") from error
    timed: Sequence[OnDevice] = ()
    placement: tuple[Placement, ...] = ()
    if coreml.has_core_ml():
        choices = [units for units in coreml.COMPUTE_UNITS if compute_units in (None, units)]
        timed = [time_on_device(artifact, method.name, units, runs) for units in choices]
        try:
            placement = timed[0].placement()
        except DeviceError as error:
            # The latency has been measured; a plan that is not to be had must not throw it away.
            warn(f"no placement: {error}")
    return PackageReport(
        artifact=artifact,
        method=method,
        operators=tuple(by_operator(counted)),
        stages=tuple(by_stage(counted, stage_names(artifact.manifest))),
        total=in_total(counted),
        timed=tuple(timed),
        placement=placement,
        runs=runs,
    )
