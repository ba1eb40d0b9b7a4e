"""``tofe-edge profile`` of a Core ML package: what it computes; and on a Mac how fast."""

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

_SHOWN_OPERATORS = 8


def run(args: argparse.Namespace, artifact: Artifact) -> int:
    """Count, and measure if there is Core ML."""
    require(args.threads is None, "--threads is for .pte models; Core ML has its own threads, see --compute-units")
    from tofe_edge.runtimes.coreml import has_core_ml

    document, text = _counted(artifact, artifact.manifest.method(args.method))
    if has_core_ml():
        measured, found = _measured(artifact, args)
        document, text = document | measured, f"{text}\n\n{found}"
    emit(args.json, {"model": str(args.model), **document}, text)
    return 0


def _counted(artifact: Artifact, method: Method) -> tuple[dict[str, Any], str]:
    from collections import Counter

    from tofe_edge.runtimes.coreml import has_core_ml
    from tofe_edge.runtimes.coreml_names import function_name
    from tofe_edge.runtimes.mil import load_program, open_package

    program = load_program(open_package(artifact.path), function_name(method.name))
    counts = Counter(operation.type for operation in program.operations if not operation.type.startswith("const"))
    operators = [{"name": name, "count": count} for name, count in counts.most_common()]
    document: dict[str, Any] = {
        "method": method.name,
        "gmacs": method.gmacs,
        "size_bytes": artifact.manifest.size_bytes,
        "operators": operators,
        "measured": False,
    }
    summary = facts(
        [
            ("method", f"{method.name}: {method.gmacs:.3f} GMACs"),
            ("size", f"{artifact.manifest.size_bytes / 1e6:.2f} MB"),
            ("operators", str(counts.total())),
            *([] if has_core_ml() else [("latency", "not measured: that needs a Mac")]),
        ]
    )
    rows = [[entry["name"], str(entry["count"])] for entry in operators[:_SHOWN_OPERATORS]]
    return document, f"{summary}\n\n{table(rows, ['operator', 'number'])}"


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
