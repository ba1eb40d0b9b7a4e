"""``tofe-edge profile``: how fast a converted model runs on this machine, and where the time goes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import add_method, positive_int, require
from tofe_edge.cli.output import emit, facts, table

if TYPE_CHECKING:
    from tofe_edge.artifact import Artifact

_SHOWN_OPERATORS = 8


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "profile", help="measure latency, memory, and time per stage and operator"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .pte or .mlpackage with its manifest beside it")
    parser.add_argument("--runs", type=positive_int, default=50, metavar="N", help="timed runs (default: 50)")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="threads (default: 1)")
    parser.add_argument(
        "--compute-units",
        choices=("all", "cpu_only", "cpu_and_gpu", "cpu_and_ne"),
        help="where Core ML may run an .mlpackage, on a Mac (default: every choice, all first)",
    )
    add_method(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Time the model, then trace it."""
    from tofe_edge.artifact import open_artifact

    artifact = open_artifact(args.model)
    if artifact.manifest.target == "coreml":
        from tofe_edge.cli import profile_coreml

        return profile_coreml.run(args, artifact)
    require(args.compute_units is None, "--compute-units is for .mlpackage models; use --threads")
    return _run_executorch(args, artifact)


def _run_executorch(args: argparse.Namespace, artifact: Artifact) -> int:
    import torch

    from runtimes.etdump import Breakdown, break_down
    from runtimes.executorch import load
    from runtimes.latency import WARM_UP_RUNS, measure
    from tofe_edge.errors import DeviceError

    threads = args.threads or 1
    manifest = artifact.manifest
    size = manifest.preprocessing.image_size
    model = load(artifact, threads, args.method)
    pixels = torch.rand(manifest.batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    latency = measure(lambda: model.execute(pixels), args.runs)
    times = latency.to_json()
    try:
        breakdown = break_down(artifact, threads, args.method)
    except DeviceError as error:
        # The latency has been measured; a trace of an unknown shape must not throw it away.
        print(f"tofe-edge: warning: no breakdown: {error}", file=sys.stderr)
        breakdown = Breakdown((), ())
    planned = model.method.planned_memory_bytes
    traced = sum(share.ms for share in breakdown.stages)
    document = {
        "model": str(args.model),
        "latency_ms": times,
        "cpu_ms": latency.cpu_ms,
        "load_ms": model.load_ms,
        "threads": threads,
        "runs": args.runs,
        "warm_up_runs": WARM_UP_RUNS,
        "method": args.method,
        "batch": manifest.batch,
        "planned_memory_bytes": planned,
        "gmacs": model.method.gmacs,
        "stages": [{"name": share.name, "ms": share.ms} for share in breakdown.stages],
        "operators": [{"name": share.name, "ms": share.ms, "count": share.count} for share in breakdown.operators],
    }
    summary = facts(
        [
            ("latency", "  ".join(f"{name} {value:.2f} ms" for name, value in times.items())),
            ("CPU time", f"{latency.cpu_ms:.2f} ms a run ({threads} thread{'s' if threads > 1 else ''})"),
            ("load", f"{model.load_ms:.0f} ms"),
            ("planned memory", "not known" if planned is None else f"{planned / 1e6:.2f} MB"),
            ("rate", f"{manifest.batch * model.method.gmacs / times['p50'] * 1e3:.0f} GMACs/s at p50"),
        ]
    )
    stages = table(
        [[share.name, f"{share.ms:.2f}", f"{share.ms / traced:.0%}"] for share in breakdown.stages],
        ["stage", "ms", "share"],
    )
    largest = breakdown.operators[:_SHOWN_OPERATORS]
    rest = breakdown.operators[_SHOWN_OPERATORS:]
    rows = [[share.name, f"{share.ms:.2f}", str(share.count)] for share in largest]
    if rest:
        rows.append(
            [
                f"{len(rest)} other kinds",
                f"{sum(share.ms for share in rest):.2f}",
                str(sum(share.count for share in rest)),
            ]
        )
    emit(args.json, document, f"{summary}\n\n{stages}\n\n{table(rows, ['operator', 'ms', 'number'])}")
    return 0
