"""``tofe-edge profile`` of an ExecuTorch program: timed on a bench, judged, and taken apart where it runs here."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tofe_edge.cli.options import require
from tofe_edge.cli.output import check_html_place, emit
from tofe_edge.cli.profile_output import describe, describe_comparison, describe_sustained, machine_line, to_json

if TYPE_CHECKING:
    import argparse

    from tofe_edge.io.artifact import Artifact
    from tofe_edge.runtimes.bench import Bench
    from tofe_edge.runtimes.comparison import Comparison, Rival
    from tofe_edge.runtimes.etdump import Breakdown
    from tofe_edge.runtimes.sustained import Sustained
    from tofe_edge.runtimes.timing import Timing, TimingRequest


@dataclass(frozen=True)
class Profiled:
    """All that was found out about one method of a model."""

    artifact: Artifact
    request: TimingRequest
    where: str
    timing: Timing
    breakdown: Breakdown | None
    """``None`` where it was not traced: on another device, or by a runtime that cannot."""
    sustained: Sustained | None
    comparison: Comparison | None
    rival: str | None
    """What it was compared with."""


def run(args: argparse.Namespace, artifact: Artifact) -> int:
    """Measure and print."""
    if args.html is not None:
        from tofe_edge.evaluation.golden import golden_path_of

        # Now, as a measurement takes a while.
        check_html_place(args.html, (artifact.path, artifact.manifest_path, golden_path_of(artifact.path)))
    profiled = _profile(args, artifact)
    text = describe(profiled)
    if args.html is not None:
        _write_page(args.html, profiled)
        text += f"\n\nWrote {args.html}"
    emit(args.json, to_json(profiled), text)
    return 0


def _write_page(path: Path, profiled: Profiled) -> None:
    from tofe_edge.cli.pages.profile import ProfilePage, write_page
    from tofe_edge.evaluation.golden import golden_path_of, read_golden

    artifact, timing, breakdown = profiled.artifact, profiled.timing, profiled.breakdown
    golden = golden_path_of(artifact.path)
    page = ProfilePage(
        manifest=artifact.manifest,
        golden=read_golden(golden, artifact) if golden.is_dir() else None,
        method=profiled.request.method,
        where="this machine" if profiled.where == "host" else profiled.where,
        machine=machine_line(timing),
        threads=profiled.request.threads,
        samples_ms=timing.latency.samples_ms,
        started_s=timing.latency.started_s,
        cpu_ms=timing.latency.cpu_ms,
        load_ms=timing.load_ms,
        planned_bytes=artifact.manifest.method(profiled.request.method).planned_memory_bytes,
        peak_rss_bytes=timing.peak_rss_bytes,
        readings=timing.telemetry,
        stages=breakdown.stages if breakdown else (),
        operators=breakdown.operators if breakdown else (),
        sustained=describe_sustained(profiled.sustained) if profiled.sustained else "",
        against=describe_comparison(profiled.comparison, profiled.rival or "") if profiled.comparison else "",
    )
    write_page(path, page)


def _profile(args: argparse.Namespace, artifact: Artifact) -> Profiled:
    from tofe_edge.runtimes.devices.opening import open_bench
    from tofe_edge.runtimes.executorch import check_program
    from tofe_edge.runtimes.sustained import judge
    from tofe_edge.runtimes.timing import DEFAULT_RUNS, TimingRequest

    artifact.manifest.method(args.method)
    check_program(artifact)
    request = TimingRequest(
        method=args.method,
        runs=args.runs or DEFAULT_RUNS,
        duration_s=args.sustained,
        threads=args.threads or 1,
        cpus=args.cpus,
    )
    with ExitStack() as stack:
        # The device first: that it cannot be reached should not be said after half a minute of converting.
        bench = stack.enter_context(open_bench(args.on, args.runner))
        rival = _rival(args, artifact, stack)
        comparison = None
        if rival is None:
            timing = bench.time(artifact.path, request)
        else:
            comparison, timing = _compare(bench, artifact, rival, request)
        return Profiled(
            artifact=artifact,
            request=request,
            where=bench.name,
            timing=timing,
            breakdown=_traced(artifact, request) if bench.name == "host" else None,
            sustained=None if args.sustained is None else judge(timing.latency, timing.telemetry),
            comparison=comparison,
            rival=args.against,
        )


def _rival(args: argparse.Namespace, artifact: Artifact, stack: ExitStack) -> Rival | None:
    """What to compare with: a model that is there, or the dense net, which is converted first."""
    if args.against is None:
        return None
    from tofe_edge.io.artifact import DEFAULT_METHOD, open_artifact
    from tofe_edge.io.targets import target_of
    from tofe_edge.runtimes.comparison import Rival
    from tofe_edge.runtimes.executorch import check_program

    if args.against == "dense":
        from tofe_edge.cli.parity import find_reference
        from tofe_edge.io.progress import progress_bar
        from tofe_edge.workflows.dense_twin import make_dense_twin

        checkpoint = find_reference(artifact, args.checkpoint, args.backbone)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tofe-edge-")))
        with progress_bar("converting the dense net (half a minute)", total=1, unit="net") as bar:
            other = make_dense_twin(artifact, checkpoint, folder)
            bar.update(1)
    else:
        other = open_artifact(Path(args.against))
        require(target_of(other.manifest).native_runner, f"{other.path}: is no .pte model, which --against needs")
    check_program(other)
    ours, theirs = artifact.manifest, other.manifest
    require(
        (ours.batch, ours.preprocessing.image_size) == (theirs.batch, theirs.preprocessing.image_size),
        f"{other.path}: takes batches of {theirs.batch} at {theirs.preprocessing.image_size} px where {artifact.path} takes "
        f"{ours.batch} at {ours.preprocessing.image_size} px; compare models with the same input",
    )
    return Rival(other.path, DEFAULT_METHOD, theirs.gmacs)


def _compare(bench: Bench, artifact: Artifact, rival: Rival, request: TimingRequest) -> tuple[Comparison, Timing]:
    from tofe_edge.runtimes.comparison import Rival, compare
    from tofe_edge.runtimes.timing import joined

    mine = Rival(artifact.path, request.method, artifact.manifest.method(request.method).gmacs)
    comparison, timings = compare(bench, mine, rival, request)
    return comparison, joined(timings)


def _traced(artifact: Artifact, request: TimingRequest) -> Breakdown | None:
    from tofe_edge.cli.tracing import traced

    return traced(artifact, request.threads, request.method, request.cpus)
