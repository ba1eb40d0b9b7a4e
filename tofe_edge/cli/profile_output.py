"""What ``tofe-edge profile`` prints of an ExecuTorch program: for machines, for people, as a page."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.output import facts, table

if TYPE_CHECKING:
    from tofe_edge.cli.profile_executorch import Profiled
    from tofe_edge.runtimes.comparison import Comparison
    from tofe_edge.runtimes.etdump import Breakdown
    from tofe_edge.runtimes.sustained import Sustained
    from tofe_edge.runtimes.timing import Timing

_SHOWN_OPERATORS = 8
_BUSY = "runs took much longer than they computed: the machine was busy with something else"


def to_json(profiled: Profiled) -> dict[str, Any]:
    """The stable keys of ``--json``; ``sustained`` and ``against`` where they were asked for."""
    timing, manifest, request = profiled.timing, profiled.artifact.manifest, profiled.request
    method = manifest.method(request.method)
    stages, operators = (profiled.breakdown.stages, profiled.breakdown.operators) if profiled.breakdown else ((), ())
    document: dict[str, Any] = {
        "model": str(profiled.artifact.path),
        "on": profiled.where,
        "machine": None if timing.machine is None else asdict(timing.machine),
        "latency_ms": timing.latency.to_json(),
        "cpu_ms": timing.latency.cpu_ms,
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
    if profiled.sustained is not None:
        document["sustained"] = asdict(profiled.sustained)
        document["telemetry"] = [asdict(state) for state in timing.telemetry]
    if profiled.comparison is not None:
        document["against"] = {"model": profiled.rival, **_comparison_json(profiled.comparison)}
    return document


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


def describe(profiled: Profiled) -> str:
    """Facts, what was judged, and a table of stages and one of operators where it was traced."""
    parts = [facts(_facts(profiled))]
    if profiled.sustained is not None:
        parts.append(describe_sustained(profiled.sustained))
    if profiled.comparison is not None:
        parts.append(describe_comparison(profiled.comparison, profiled.rival or ""))
    if profiled.breakdown is not None:
        parts += _tables(profiled.breakdown)
    elif profiled.where != "host":
        parts.append("Time per stage and operator: run `tofe-edge profile` without --on, which traces on this machine.")
    return "\n\n".join(parts)


def _facts(profiled: Profiled) -> list[tuple[str, str]]:
    timing, manifest, request = profiled.timing, profiled.artifact.manifest, profiled.request
    method, times = manifest.method(request.method), timing.latency.to_json()
    planned = method.planned_memory_bytes
    rows = [
        ("where", ": ".join(filter(None, (profiled.where, machine_line(timing))))),
        ("latency", "  ".join(f"{name} {value:.2f} ms" for name, value in times.items())),
        ("CPU time", f"{timing.latency.cpu_ms:.2f} ms a run ({request.threads} thread{'s' * (request.threads > 1)})"),
        *([("beware", _BUSY)] if request.threads == 1 and times["p50"] > 1.5 * timing.latency.cpu_ms else []),
        ("load", f"{timing.load_ms:.0f} ms"),
        ("planned memory", "not known" if planned is None else f"{planned / 1e6:.2f} MB"),
    ]
    if timing.peak_rss_bytes is not None:
        rows.append(("peak memory", f"{timing.peak_rss_bytes / 1e6:.1f} MB resident"))
    return [*rows, ("rate", f"{manifest.batch * method.gmacs / times['p50'] * 1e3:.0f} GMACs/s at p50")]


def machine_line(timing: Timing) -> str:
    """Processor, architecture and cores; empty where the runtime did not tell."""
    machine = timing.machine
    if machine is None:
        return ""
    return ", ".join(
        filter(None, (machine.cpu_model, machine.arch, f"{machine.cores} core{'s' * (machine.cores > 1)}"))
    )


def describe_sustained(found: Sustained) -> str:
    """Whether it throttles, and how clocks and temperatures went."""
    verdict = {
        True: "it throttles",
        False: "it does not slow down",
        None: "a slowdown cannot be told from noise; measure for longer on a quiet device",
    }[found.throttles]
    if found.throttles is False and found.slowdown_high < 1:
        verdict = "it is faster at the end: the clock rose, or something else ran at first"
    lines = [
        f"Sustained for {found.seconds:.0f} s, {found.runs} runs: {verdict}.\nFirst quarter {found.first_ms:.2f} ms, last "
        f"{found.last_ms:.2f} ms: {found.slowdown:.2f} times ({found.slowdown_low:.2f} to {found.slowdown_high:.2f})"
    ]
    lines += [
        f"  {name}: {course.first:.1f} -> {course.last:.1f} degrees, at most {course.highest:.1f}"
        for name, course in found.celsius.items()
    ]
    lines += [
        f"  {name}: {course.first / 1e6:.2f} -> {course.last / 1e6:.2f} GHz, at least {course.lowest / 1e6:.2f}"
        for name, course in found.khz.items()
    ]
    if not found.celsius and not found.khz:
        lines.append("  This device tells neither temperatures nor clocks.")
    return "\n".join(lines)


def describe_comparison(found: Comparison, rival: str) -> str:
    """Which is faster here; against the dense net whether token reduction pays, and from where on."""
    ratio, dense = found.ratio, rival == "dense"
    verdict = {
        True: "Token reduction pays on this device" if dense else "The model is faster on this device",
        False: "Token reduction does not pay on this device" if dense else "The model is slower on this device",
        None: "The difference is within the noise; measure with more --runs on a quiet machine",
    }[found.pays]
    text = (
        f"{verdict}: {found.ms:.2f} ms against {found.against_ms:.2f} ms ({rival}), {ratio.value:.3f} of its time "
        f"({ratio.low:.3f} to {ratio.high:.3f}), at {found.gmacs_ratio:.3f} of its GMACs."
    )
    even = found.break_even
    if even is None:
        return text
    where = "any share" if even.value >= 1 else f"{even.value:.0%} ({even.low:.0%} to {even.high:.0%})"
    return f"{text}\nOverhead beyond the GMACs {found.overhead_ms:+.2f} ms: break-even at {where} of its GMACs."


def _tables(breakdown: Breakdown) -> list[str]:
    traced = sum(share.ms for share in breakdown.stages)
    stages = [[share.name, f"{share.ms:.2f}", f"{share.ms / traced:.0%}"] for share in breakdown.stages]
    largest, rest = breakdown.operators[:_SHOWN_OPERATORS], breakdown.operators[_SHOWN_OPERATORS:]
    rows = [[share.name, f"{share.ms:.2f}", str(share.count)] for share in largest]
    if rest:
        others = f"{sum(share.ms for share in rest):.2f}", str(sum(share.count for share in rest))
        rows.append([f"{len(rest)} other kinds", *others])
    return [table(stages, ["stage", "ms", "share"]), table(rows, ["operator", "ms", "number"])]
