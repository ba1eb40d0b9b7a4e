"""``tofe-edge reduce``: make a ToFe checkpoint of a dense net, in minutes and without labels."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tofe_edge.cli.options import add_dense_weights, keywords, positive_float, positive_floats, positive_int
from tofe_edge.cli.output import emit, facts, table
from tofe_edge.model.choices import source_facts, source_json
from tofe_edge.workflows.reduce import Reduced, reduce


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add_dense_weights(parser, required=True)
    add(
        "--backbone",
        metavar="NAME",
        help="the net of the weights: lvvit_s, lvvit_m or a timm vision transformer (default: by the config beside the weights, "
        "or by their shapes; deit_tiny_patch16_224 with --pretrained)",
    )
    add(
        "--image-size",
        type=positive_int,
        metavar="PX",
        help="side of the input, to which positions are interpolated (default: the weights' own)",
    )
    add("--images", type=Path, required=True, metavar="DIR", help="64 to 2000 images, unlabelled; 1000 are good")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--target-gmacs", type=positive_float, metavar="G", help="whole-net budget")
    budget.add_argument("--share", type=positive_float, metavar="S", help="the same as a share of the dense net's")
    budget.add_argument(
        "--max-latency-ms",
        type=positive_float,
        metavar="T",
        help="milliseconds per image, as the latency table of --profile predicts them",
    )
    add("--profile", metavar="P", help="for --max-latency-ms: a profile from `tofe-edge calibrate`")
    add(
        "--elastic",
        type=positive_floats,
        default=(),
        metavar="B,B",
        help="further budgets in the same unit that the net is to meet with other token counts",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the draw of images and of the selectors (default: 0)")
    add("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write (.safetensors)")


def run(args: argparse.Namespace) -> int:
    """Reduce, write."""
    reduced = reduce(args.weights, args.images, args.out, **keywords(reduce, args))
    emit(args.json, to_json(reduced), _describe(reduced))
    return 0


def to_json(reduced: Reduced) -> dict[str, Any]:
    """The document of ``--json``."""
    checkpoint = reduced.checkpoint
    return {
        "checkpoint": str(checkpoint.path),
        "gmacs": checkpoint.gmacs,
        "dense_gmacs": checkpoint.dense_gmacs,
        **source_json(checkpoint),
        **asdict(reduced.report),
    }


def _describe(reduced: Reduced) -> str:
    checkpoint, report = reduced.checkpoint, reduced.report
    without = ", ".join(f"{value:.3f} without {part}" for part, value in report.without.items())
    rows = [
        *source_facts(checkpoint),
        ("selections", f"before blocks {', '.join(map(str, report.stages))}; {report.plans} plans tried"),
        ("GMACs", f"{checkpoint.gmacs:.3f} of {checkpoint.dense_gmacs:.3f} dense"),
        ("fitted to", f"{report.fitted_to} images, judged on {report.judged_on} others"),
        ("divergence", f"{report.outcomes[0].divergence:.3f} {report.measure}; {without}"),
        *(("warning", warning) for warning in (checkpoint.training or {})["warnings"]),
    ]
    written = [("wrote", checkpoint.path), ("next", ["tofe-edge", "convert", "--checkpoint", checkpoint.path])]
    budgets = [
        [
            f"{one.target:.3g} {one.unit}",
            f"{one.cost:.3f}",
            ", ".join(map(str, one.counts)),
            f"{one.divergence:.3f}",
            f"{one.agreement:.1f} %",
        ]
        for one in report.outcomes
    ]
    headers = ["budget", "cost", "tokens kept", "divergence", "agrees with dense"]
    return f"{facts(rows)}\n\n{table(budgets, headers)}\n\n{facts(written)}"
