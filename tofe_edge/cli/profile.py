"""``tofe-edge profile``: how fast a converted model runs, here or on another device, and where the time goes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tofe_edge.cli.options import (
    add_checkpoint,
    add_method,
    add_model,
    add_on,
    add_provider,
    keywords,
    positive_float,
    positive_int,
)
from tofe_edge.cli.output import check_html_place, emit, facts, milliseconds, paragraph, table, threads
from tofe_edge.cli.pages.profile import ProfilePage, render
from tofe_edge.cli.pages.rendering import write_html
from tofe_edge.errors import require
from tofe_edge.evaluation.golden import golden_path_of, read_golden
from tofe_edge.io.targets import target_of
from tofe_edge.profiles import profile_names
from tofe_edge.runtimes.breakdown import Breakdown
from tofe_edge.runtimes.comparison import Comparison, Sustained
from tofe_edge.runtimes.coreml import COMPUTE_UNITS
from tofe_edge.runtimes.coreml_device import OnDevice
from tofe_edge.runtimes.latency import WARM_UP_RUNS
from tofe_edge.runtimes.reports import DENSE, Engine, LatencyReport, PackageReport
from tofe_edge.runtimes.timing import Timing
from tofe_edge.workflows.profile import profile
from tofe_edge.workflows.run import load

_OPERATORS_SHOWN = 8
_BUSY = (
    "runs took much longer than they computed, or than the fastest ones: the machine was busy with something else, or its "
    "clock changed; figures are rounded for it"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_model(parser)
    parser.add_argument("--runs", type=positive_int, metavar="N", help="timed runs (default: 50)")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="threads (default: 1)")
    add_on(parser)
    parser.add_argument(
        "--sustained",
        type=positive_float,
        metavar="SECONDS",
        help="run for so long and compare the last quarter with the first: does the device throttle?",
    )
    parser.add_argument(
        "--against",
        metavar="dense|MODEL",
        help="time another model in turn with this one and say which pays; dense: the same net without token reduction",
    )
    parser.add_argument(
        "--compute-units",
        choices=COMPUTE_UNITS,
        help="where Core ML may run an .mlpackage, on a Mac (default: every choice, all first)",
    )
    add_provider(parser)
    parser.add_argument(
        "--engine",
        choices=("tensorrt",),
        help="build an engine from an .onnx model by the trtexec of the board that --on names, time and check it there",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the charts")
    add_method(parser)
    add_checkpoint(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    name = str(args.model)
    require(
        args.model.exists() or name not in profile_names(),
        f"{name} is a device's profile, and a model is measured here; did you mean `tofe-edge devices {name}`?",
    )
    artifact = load(args.model).artifact
    if args.html is not None:
        require(
            target_of(artifact.manifest).native_runner,
            f"--html is for .pte models, not for {args.model}",
        )
        # Now, as a measurement takes a while.
        check_html_place(args.html, (artifact.path, artifact.manifest_path, golden_path_of(artifact.path)))
    report = profile(artifact, **keywords(profile, args))
    if isinstance(report, PackageReport):
        emit(args.json, _package_json(report), _package_text(report))
        return 0
    text = _text(report)
    if args.html is not None:
        _write_page(args.html, report)
        text += f"\n\n{facts([('wrote', args.html)])}"
    emit(args.json, _json(report), text)
    return 0 if report.engine is None or report.engine.parity.passed else 1


def _write_page(path: Path, report: LatencyReport) -> None:
    artifact, timing, breakdown = report.artifact, report.timing, report.breakdown
    golden = golden_path_of(artifact.path)
    page = ProfilePage(
        manifest=artifact.manifest,
        golden=read_golden(golden, artifact) if golden.is_dir() else None,
        method=report.request.method,
        where="this machine" if report.where == "host" else report.where,
        machine=_machine(timing),
        threads=report.request.threads,
        samples_ms=timing.latency.samples_ms,
        busy=timing.busy,
        started_s=timing.latency.started_s,
        cpu_ms=timing.latency.cpu_ms,
        load_ms=timing.load_ms,
        planned_bytes=artifact.manifest.method(report.request.method).planned_memory_bytes,
        peak_rss_bytes=timing.peak_rss_bytes,
        readings=timing.telemetry,
        stages=breakdown.stages if breakdown else (),
        operators=breakdown.operators if breakdown else (),
        sustained=_sustained_text(report.sustained) if report.sustained else "",
        against=_comparison_text(report) if report.comparison else "",
    )
    write_html(path, render(page))


def _json(report: LatencyReport) -> dict[str, Any]:
    """The stable keys of ``--json``; ``sustained`` and ``against`` if they were asked for."""
    timing, manifest, request = report.timing, report.artifact.manifest, report.request
    method = manifest.method(request.method)
    stages, operators = (report.breakdown.stages, report.breakdown.operators) if report.breakdown else ((), ())
    document: dict[str, Any] = {
        "model": str(report.artifact.path),
        "on": report.where,
        "machine": None if timing.machine is None else asdict(timing.machine),
        "latency_ms": timing.latency.to_json(),
        "cpu_ms": timing.latency.cpu_ms,
        "busy": timing.busy,
        "load_ms": timing.load_ms,
        "threads": request.threads,
        "runs": len(timing.latency.samples_ms),
        "warm_up_runs": timing.warm_up,
        "method": request.method,
        "batch": manifest.batch,
        "planned_memory_bytes": method.planned_memory_bytes,
        "peak_rss_bytes": timing.peak_rss_bytes,
        "gmacs": method.gmacs,
        "stages": [{"name": share.name, "ms": share.ms} for share in stages],
        "operators": [{"name": share.name, "ms": share.ms, "count": share.count} for share in operators],
    }
    if report.engine is not None:
        document["engine"] = _engine_json(report.engine)
    if report.nodes is not None:
        document["nodes"] = dict(report.nodes)
    if report.sustained is not None:
        document["sustained"] = asdict(report.sustained)
        document["telemetry"] = [asdict(state) for state in timing.telemetry]
    if report.comparison is not None:
        document["against"] = {"model": report.rival, **_comparison_json(report.comparison)}
    return document


def _engine_json(engine: Engine) -> dict[str, Any]:
    return {
        "name": "tensorrt",
        "version": engine.version,
        "flags": list(engine.flags),
        "power_mode": engine.power_mode,
        "gpu_clocks": engine.gpu_clocks,
        "gpu_ms": engine.gpu.to_json(),
        "parity": {**engine.parity.to_json(), "passed": engine.parity.passed},
    }


def _engine_facts(engine: Engine) -> list[tuple[str, str]]:
    parity = engine.parity
    mode = f", power mode {engine.power_mode}" if engine.power_mode else ""
    verdict = "passed" if parity.passed else f"FAILED: {'; '.join(parity.failures)}"
    kept = ", ".join(f"{share:.1%}" for share in parity.kept_overlap) or "all (dense)"
    return [
        ("engine", f"TensorRT {engine.version}, {' '.join(engine.flags)}{mode}"),
        *([("GPU clocks", engine.gpu_clocks)] if engine.gpu_clocks else []),
        ("GPU time", "  ".join(f"{name} {value:.2f} ms" for name, value in engine.gpu.to_json().items())),
        ("parity", f"SNR {parity.snr_db:.1f} dB, kept tokens {kept}, on {parity.images} golden inputs: {verdict}"),
    ]


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "p50_ms": comparison.against_ms,
        "gmacs": comparison.against_gmacs,
        "time_ratio": comparison.ratio.value,
        "time_ratio_low": comparison.ratio.low,
        "time_ratio_high": comparison.ratio.high,
        "gmacs_ratio": comparison.gmacs_ratio,
        "overhead_ms": comparison.overhead_ms,
        "break_even": None if comparison.break_even is None else asdict(comparison.break_even),
        "pays": comparison.pays,
    }


def _text(report: LatencyReport) -> str:
    """Facts, what was judged, and a table of stages and one of operators if it was traced."""
    parts = [facts(_facts(report))]
    if report.sustained is not None:
        parts.append(paragraph(_sustained_text(report.sustained)))
    if report.comparison is not None:
        parts.append(paragraph(_comparison_text(report)))
    if report.breakdown is not None:
        parts += _tables(report.breakdown)
    elif report.where != "host":
        parts.append(
            paragraph(
                "Time per stage and operator: run `tofe-edge profile` without --on, which traces on this machine."
            )
        )
    return "\n\n".join(parts)


def _facts(report: LatencyReport) -> list[tuple[str, str]]:
    timing, manifest, request = report.timing, report.artifact.manifest, report.request
    method, times = manifest.method(request.method), timing.latency.to_json()
    planned = method.planned_memory_bytes
    rows = [
        ("where", ": ".join(filter(None, (report.where, _machine(timing))))),
        ("latency", "  ".join(f"{name} {milliseconds(value, timing.busy)}" for name, value in times.items())),
        ("CPU time", f"{timing.latency.cpu_ms:.2f} ms per run ({threads(request.threads)})"),
        *([("beware", _BUSY)] if timing.busy else []),
        ("load", "not known" if timing.load_ms is None else f"{timing.load_ms:.0f} ms"),
        ("planned memory", "not known" if planned is None else f"{planned / 1e6:.2f} MB"),
    ]
    if timing.peak_rss_bytes is not None:
        rows.append(("peak memory", f"{timing.peak_rss_bytes / 1e6:.1f} MB resident"))
    if report.engine is not None:
        rows += _engine_facts(report.engine)
    if report.nodes is not None:
        rows.append(("operators", ", ".join(f"{count} by {name}" for name, count in report.nodes.items())))
    return [*rows, ("rate", f"{manifest.batch * method.gmacs / times['p50'] * 1e3:.0f} GMACs/s at p50")]


def _machine(timing: Timing) -> str:
    """Processor, architecture and cores; empty if the runtime does not tell."""
    machine = timing.machine
    if machine is None:
        return ""
    return ", ".join(
        filter(None, (machine.cpu_model, machine.arch, f"{machine.cores} core{'s' * (machine.cores > 1)}"))
    )


def _sustained_text(result: Sustained) -> str:
    """Say whether it throttles, and how clocks and temperatures went."""
    verdict = {
        True: "it throttles",
        False: "it does not slow down",
        None: "a slowdown cannot be told from noise; measure for longer on a quiet device",
    }[result.throttles]
    if result.throttles is False and result.slowdown_high < 1:
        verdict = "it is faster at the end: the clock rose, or something else ran at first"
    lines = [
        f"Sustained for {result.seconds:.0f} s, {result.runs} runs: {verdict}.\nFirst quarter {result.first_ms:.2f} ms, last "
        f"{result.last_ms:.2f} ms: {result.slowdown:.2f} times ({result.slowdown_low:.2f} to {result.slowdown_high:.2f})"
    ]
    lines += [
        f"  {name}: {course.first:.1f} -> {course.last:.1f} degrees, at most {course.highest:.1f}"
        for name, course in result.celsius.items()
    ]
    lines += [
        f"  {name}: {course.first / 1e6:.2f} -> {course.last / 1e6:.2f} GHz, at least {course.lowest / 1e6:.2f}"
        for name, course in result.khz.items()
    ]
    if not result.celsius and not result.khz:
        lines.append("  This device tells neither temperatures nor clocks.")
    return "\n".join(lines)


def _comparison_text(report: LatencyReport) -> str:
    """Say which is faster here; against the dense net whether token reduction pays, and from where on."""
    result, rival, busy = report.comparison, report.rival or "", report.timing.busy
    assert result is not None
    ratio, dense = result.ratio, rival == DENSE
    verdict = {
        True: "Token reduction pays on this device" if dense else "The model is faster on this device",
        False: "Token reduction does not pay on this device" if dense else "The model is slower on this device",
        None: "The difference is within the noise; measure with more --runs on a quiet machine",
    }[result.pays]
    digits = 2 if busy else 3
    text = (
        f"{verdict}: {milliseconds(result.ms, busy)} against {milliseconds(result.against_ms, busy)} ({rival}), "
        f"{ratio.value:.{digits}f} of its time ({ratio.low:.{digits}f} to {ratio.high:.{digits}f}), "
        f"at {result.gmacs_ratio:.3f} of its GMACs."
    )
    even = result.break_even
    if even is None:
        return text
    if result.overhead_ms <= 0:
        return f"{text}\nIt saves at least as much time as GMACs: there is no overhead that a smaller reduction would not pay for."
    return (
        f"{text}\nOverhead beyond the GMACs {milliseconds(result.overhead_ms, busy)}: break-even at {even.value:.0%} "
        f"({even.low:.0%} to {even.high:.0%}) of its GMACs."
    )


def _tables(breakdown: Breakdown) -> list[str]:
    traced, computed = (sum(share.ms for share in one) for one in (breakdown.stages, breakdown.operators))
    stages = [[share.name, f"{share.ms:.2f}", f"{share.ms / traced:.0%}"] for share in breakdown.stages]
    operators = [(share.name, share.ms, share.count) for share in breakdown.operators]
    if not stages:
        return [
            table(
                [[name, f"{ms:.2f}", str(count)] for name, ms, count in _largest(operators)],
                ["operator", "ms", "number"],
            )
        ]
    rows = [[name, f"{ms:.2f}", str(count), f"{ms / traced:.0%}"] for name, ms, count in _largest(operators)]
    calls = max(0.0, traced - computed)
    rows += [["calls of stages and operators", f"{calls:.2f}", "", f"{calls / traced:.0%}"]]
    return [
        table([*stages, ["sum", f"{traced:.2f}", ""]], ["stage", "ms", "share"]),
        table(rows, ["operator", "ms", "number", "share"]),
        paragraph(f"Both tables: the {breakdown.statistic} of the traced runs, step by step."),
    ]


def _largest(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The first rows by themselves, the sums of the others together; a row is a name and numbers."""
    rest = rows[_OPERATORS_SHOWN:]
    others = (f"{len(rest)} other kinds", *map(sum, list(zip(*rest))[1:])) if rest else None
    return [*rows[:_OPERATORS_SHOWN], *([others] if others else [])]


def _package_json(report: PackageReport) -> dict[str, Any]:
    document: dict[str, Any] = {
        "model": str(report.artifact.path),
        "method": report.method.name,
        "gmacs": report.method.gmacs,
        "graph_gmacs": report.total.macs / 1e9,
        "size_bytes": report.artifact.manifest.size_bytes,
        "weight_bytes": report.total.weight_bytes,
        "operators": [asdict(share) for share in report.operators],
        "stages": [asdict(share) for share in report.stages],
        "forecast": None,  # earlier versions guessed what leaves the Neural Engine
        "measured": bool(report.timed),
    }
    if report.timed:
        first = report.timed[0]
        document |= {
            **_timed_json(first),
            "cpu_ms": first.latency.cpu_ms,
            "runs": report.runs,
            "warm_up_runs": WARM_UP_RUNS,
            "by_compute_units": [_timed_json(one) for one in report.timed],
            "placement": [asdict(part) for part in report.placement],
        }
    return document


def _timed_json(one: OnDevice) -> dict[str, Any]:
    return {"compute_units": one.compute_units, "latency_ms": one.latency.to_json(), "load_ms": one.load_ms}


def _package_text(report: PackageReport) -> str:
    method, total = report.method, report.total
    rows = [
        ("method", f"{method.name}: {method.gmacs:.3f} GMACs by formula, {total.macs / 1e9:.3f} in the graph"),
        ("size", f"{report.artifact.manifest.size_bytes / 1e6:.2f} MB, weights {total.weight_bytes / 1e6:.2f} MB"),
        ("operators", str(total.count)),
    ]
    if not report.timed:
        rows.append(("latency", "not measured: that needs a Mac; the tables below are counts"))
    parts = [facts(rows)]
    for what, shares in (("stage", report.stages), ("operator", report.operators)):
        counts = [(share.name, share.count, share.macs, share.weight_bytes) for share in shares]
        listed = [
            [name, str(count), f"{macs / 1e6:.2f}", f"{weight / 1e3:.1f}"]
            for name, count, macs, weight in (counts if what == "stage" else _largest(counts))
        ]
        parts.append(table(listed, [what, "number", "MMACs", "weights, kB"]))
    if report.timed:
        first = report.timed[0]
        times = [
            [one.compute_units, *(f"{value:.2f}" for value in one.latency.to_json().values()), f"{one.load_ms:.0f}"]
            for one in report.timed
        ]
        parts.append(table(times, ["compute units", *(f"{name}, ms" for name in first.latency.to_json()), "load, ms"]))
        if report.placement:
            planned = [[part.operator, part.device, str(part.count), f"{part.share:.1%}"] for part in report.placement]
            parts.append(
                table(planned, [f"Core ML's plan, {first.compute_units}", "device", "number", "share of work"])
            )
    return "\n\n".join(parts)
