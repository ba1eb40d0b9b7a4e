"""``tofe-edge calibrate``: measure the parts of a net on a device, and write the table into its profile."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tofe_edge.cli.options import add_checkpoint, add_on, keywords, positive_int
from tofe_edge.cli.output import emit, facts, latency_facts, threads
from tofe_edge.runtimes.latency import BUSY
from tofe_edge.workflows.calibrate import CalibrationReport, calibrate


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--profile", required=True, metavar="P", help="the device's profile: a shipped one, or a file")
    add_on(parser)
    add_checkpoint(parser)
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=("fp32", "int8"),
        default=["int8", "fp32"],
        help="one table for each (default: both; int8 is dynamic)",
    )
    parser.add_argument("--threads", type=positive_int, metavar="N", help="threads (default: the profile's)")
    parser.add_argument("--quick", action="store_true", help="fewer points, and no search for steps: half the time")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where the profile with the table goes (default: the profile's own file, ./NAME.yaml for a shipped one)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that holds something else")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the profile is written when all is measured."""
    report = calibrate(args.profile, precisions=args.precision, **keywords(calibrate, args))
    document = {
        "profile": report.profile,
        "wrote": str(report.out),
        "on": report.where,
        "tables": [
            {**asdict(table), "runs": measured.runs, "disturbed": round(measured.disturbed, 3)}
            for table, measured in report.tables
        ],
    }
    emit(args.json, document, _text(report))
    return 0


def _text(report: CalibrationReport) -> str:
    rows: list[tuple[str, Any]] = [("profile", f"{report.profile}, measured on {report.where}")]
    for table, measured in report.tables:
        net = f"{table.backbone}, {table.precision}, {threads(table.threads)}"
        spread = f"the median of all runs is {measured.disturbed - 1:.0%} above undisturbed ones, which count"
        if measured.disturbed > BUSY:
            spread += "; the device was busy: stop other work and calibrate again if it need not be"
        rows += [("", ""), ("net", net), *latency_facts(table), ("spread", spread)]
    return facts([*rows, ("", ""), ("wrote", report.out)])
