"""``tofe-edge profile`` of a Core ML package: what it computes; on a Mac how fast, elsewhere a forecast of where."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import require
from tofe_edge.cli.output import emit, facts, table
from tofe_edge.io.progress import warn

if TYPE_CHECKING:
    import argparse

    from tofe_edge.io.artifact import Artifact, Method
    from tofe_edge.runtimes.coreml_device import OnDevice, Placement
    from tofe_edge.runtimes.coreml_forecast import Departure, Share

_SHOWN_OPERATORS = 8


def run(args: argparse.Namespace, artifact: Artifact) -> int:
    """Count, forecast, and measure where there is Core ML."""
    require(args.threads is None, "--threads is for .pte models; Core ML has its own threads, see --compute-units")
    from tofe_edge.runtimes.coreml import has_core_ml

    document, text = _counted(artifact, artifact.manifest.method(args.method))
    if has_core_ml():
        measured, found = _measured(artifact, args)
        document, text = document | measured, f"{text}\n\n{found}"
    emit(args.json, {"model": str(args.model), **document}, text)
    return 0


def _counted(artifact: Artifact, method: Method) -> tuple[dict[str, Any], str]:
    from tofe_edge.errors import InputError
    from tofe_edge.runtimes import coreml_forecast
    from tofe_edge.runtimes.coreml_names import function_name
    from tofe_edge.runtimes.etdump import stage_names
    from tofe_edge.runtimes.mil import load_program, open_package

    program = load_program(open_package(artifact.path), function_name(method.name))
    inputs = program.function.inputs
    try:
        costs = coreml_forecast.costs(program.operations, inputs)
    except InputError as error:
        raise InputError(f"{artifact.path}: {error}") from error
    operators, total = coreml_forecast.by_operator(costs), coreml_forecast.in_total(costs)
    stages = coreml_forecast.by_stage(costs, stage_names(artifact.manifest))
    leaving = coreml_forecast.forecast(costs, inputs)
    document: dict[str, Any] = {
        "method": method.name,
        "gmacs": method.gmacs,
        "graph_gmacs": total.macs / 1e9,
        "size_bytes": artifact.manifest.size_bytes,
        "weight_bytes": total.weight_bytes,
        "operators": [asdict(share) for share in operators],
        "stages": [asdict(share) for share in stages],
        "forecast": [asdict(departure) for departure in leaving],
        "measured": False,
    }
    gone = sum(departure.count for departure in leaving)
    share = sum(departure.macs for departure in leaving) / max(total.macs, 1)
    summary = facts(
        [
            ("method", f"{method.name}: {method.gmacs:.3f} GMACs by formula, {total.macs / 1e9:.3f} in the graph"),
            ("size", f"{artifact.manifest.size_bytes / 1e6:.2f} MB, weights {total.weight_bytes / 1e6:.2f} MB"),
            ("operators", f"{total.count}; forecast to leave the Neural Engine: {gone}, with {share:.1%} of the MACs"),
            ("placement", f"a forecast from public reports; Apple publishes no list ({coreml_forecast.NO_LIST})"),
            *_latency_fact(),
        ]
    )
    parts = [summary, table([_row(share) for share in stages], ["stage", "operators", "MMACs", "weights, kB"])]
    parts.append(table(_rows(operators), ["operator", "number", "MMACs", "weights, kB"]))
    parts.append(_forecast_table(leaving))
    return document, "\n\n".join(parts)


def _latency_fact() -> list[tuple[str, str]]:
    from tofe_edge.runtimes.coreml import has_core_ml

    return (
        [] if has_core_ml() else [("latency", "not measured: that needs a Mac; what is below is counts and a forecast")]
    )


def _row(share: Share) -> list[str]:
    return [share.name, str(share.count), f"{share.macs / 1e6:.2f}", f"{share.weight_bytes / 1e3:.1f}"]


def _rows(operators: list[Share]) -> list[list[str]]:
    """The costliest by themselves, the others together."""
    from tofe_edge.runtimes.coreml_forecast import Share

    shown, rest = operators[:_SHOWN_OPERATORS], operators[_SHOWN_OPERATORS:]
    rows = [_row(share) for share in shown]
    if rest:
        name = f"{len(rest)} other kinds"
        sums = [sum(getattr(share, key) for share in rest) for key in ("count", "macs", "weight_bytes")]
        rows.append(_row(Share(name, *sums)))
    return rows


def _forecast_table(leaving: list[Departure]) -> str:
    """One row a reason."""
    if not leaving:
        return "forecast: no operator is known to leave the Neural Engine"
    reasons: dict[tuple[str, str], list[Departure]] = {}
    for departure in leaving:
        reasons.setdefault((departure.reason, departure.source), []).append(departure)
    sources = list(dict.fromkeys(source for _, source in reasons))
    rows = [[_names(those), reason, f"[{sources.index(source) + 1}]"] for (reason, source), those in reasons.items()]
    notes = [f"[{number}] {source}" for number, source in enumerate(sources, start=1)]
    return "\n".join([table(rows, ["forecast to leave the Neural Engine", "reason", "source"]), *notes])


def _names(departures: list[Departure]) -> str:
    if len(departures) > _SHOWN_OPERATORS:
        return f"{sum(departure.count for departure in departures)} of {len(departures)} kinds"
    return ", ".join(f"{departure.count} {departure.operator}" for departure in departures)


def _measured(artifact: Artifact, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Latency for the compute units asked for, or for each choice with ``all`` first, and the placement of the first."""
    from tofe_edge.errors import DeviceError
    from tofe_edge.runtimes.coreml import COMPUTE_UNITS
    from tofe_edge.runtimes.coreml_device import time_on_device
    from tofe_edge.runtimes.latency import WARM_UP_RUNS

    choices = COMPUTE_UNITS if args.compute_units is None else (args.compute_units,)
    timed = [time_on_device(artifact, args.method, units, args.runs) for units in choices]
    first = timed[0]
    placement: tuple[Placement, ...] = ()
    try:
        placement = first.placement()
    except DeviceError as error:
        # The latency has been measured; a plan that is not to be had must not throw it away.
        warn(f"no placement: {error}")
    document: dict[str, Any] = {
        "measured": True,
        "compute_units": first.compute_units,
        "latency_ms": first.latency.to_json(),
        "cpu_ms": first.latency.cpu_ms,
        "load_ms": first.load_ms,
        "runs": args.runs,
        "warm_up_runs": WARM_UP_RUNS,
        "by_compute_units": [_timed(one) for one in timed],
        "placement": [asdict(part) for part in placement],
    }
    rows = [
        [one.compute_units, *(f"{value:.2f}" for value in one.latency.to_json().values()), f"{one.load_ms:.0f}"]
        for one in timed
    ]
    text = table(rows, ["compute units", *(f"{name}, ms" for name in first.latency.to_json()), "load, ms"])
    if placement:
        planned = [[part.operator, part.device, str(part.count), f"{part.share:.1%}"] for part in placement]
        headers = [f"Core ML's plan, {first.compute_units}", "device", "number", "share of work"]
        text = f"{text}\n\n{table(planned, headers)}"
    return document, text


def _timed(one: OnDevice) -> dict[str, Any]:
    return {"compute_units": one.compute_units, "latency_ms": one.latency.to_json(), "load_ms": one.load_ms}
