"""``tofe-edge profile``: how fast a converted model runs, here or on another device, and where the time goes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tofe_edge.cli.options import add_checkpoint, add_method, add_runner, positive_float, positive_int, require


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "profile", help="measure latency, memory, and time per stage and operator, here or on a device"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .pte or .mlpackage with its manifest beside it")
    parser.add_argument("--runs", type=positive_int, metavar="N", help="timed runs (default: 50)")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="threads (default: 1)")
    parser.add_argument(
        "--on",
        default="host",
        metavar="WHERE",
        help="host, ssh://[USER@]HOST[:PORT], adb or adb://SERIAL (default: host)",
    )
    add_runner(parser)
    parser.add_argument("--cpus", default="", metavar="LIST", help="cores to run on, as 0,2-3 (default: any)")
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
        choices=("all", "cpu_only", "cpu_and_gpu", "cpu_and_ne"),
        help="where Core ML may run an .mlpackage, on a Mac (default: every choice, all first)",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the charts")
    add_method(parser)
    add_checkpoint(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Time the model where it is asked for, then trace it where that can be done."""
    from tofe_edge.io.artifact import open_artifact
    from tofe_edge.io.targets import target_of

    require(args.against is None or args.sustained is None, "--against and --sustained: one at a time")
    require(args.runs is None or args.sustained is None, "--runs and --sustained: one at a time")
    for name in ("checkpoint", "backbone"):
        given = getattr(args, name)
        require(given is None or args.against == "dense", f"--{name} is for --against dense")
    artifact = open_artifact(args.model)
    if not target_of(artifact.manifest).native_runner:
        from tofe_edge.cli import profile_coreml

        for name in ("on", "runner", "cpus", "sustained", "against", "html"):
            given = getattr(args, name)
            require(
                given in (None, "", "host"), f"--{name} is for .pte models; {args.model} is measured on a Mac alone"
            )
        return profile_coreml.run(args, artifact)
    require(args.compute_units is None, "--compute-units is for .mlpackage models; use --threads")
    from tofe_edge.cli import profile_executorch

    return profile_executorch.run(args, artifact)
