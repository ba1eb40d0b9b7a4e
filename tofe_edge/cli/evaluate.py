"""``tofe-edge evaluate``: accuracy of a checkpoint in eager PyTorch, and how many tokens it takes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tofe_edge.cli.options import add_data, add_device, add_naming, keywords
from tofe_edge.cli.output import emit, facts, table
from tofe_edge.cli.pages.rendering import write_html
from tofe_edge.cli.pages.tokens import EvaluationPage, render_evaluation
from tofe_edge.errors import require
from tofe_edge.evaluation.prediction import CountDistribution
from tofe_edge.io.files import check_place
from tofe_edge.model.choices import source_facts, source_json
from tofe_edge.workflows.evaluate import EvaluationReport, evaluate
from tofe_edge.workflows.sources import open_checkpoint

_EXAMPLES = 3
"""Images of the page with the fewest tokens, and with the most."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("checkpoint", metavar="CKPT", help="a shipped checkpoint's name or a file")
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="the net of plain dense weights (default: by the config beside them, or by their shapes)",
    )
    add_naming(parser)
    parser.add_argument(
        "--mode", choices=("batch", "instance", "dense"), help="token counts (default: batch; dense for a dense model)"
    )
    add_device(parser, "where to run")
    add_data(parser, "labelled images: DIR/<class id>/<image>, a .csv of path,label, or a .tar or folder of .tar")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="with --mode instance: write a page with histograms of token counts and the images at both ends",
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    require(args.data is not None, "evaluate needs labelled images: --data DIR")
    if args.html is not None:
        require(args.mode == "instance", "--html shows how token counts differ; add --mode instance")
        check_place(args.html, folder=False)
    checkpoint = open_checkpoint(args.checkpoint, args.backbone, args.labels, args.preprocessing)
    require(
        args.html is None or args.html.resolve() != checkpoint.path.resolve(),
        f"{args.html}: is the checkpoint; choose another file for --html",
    )
    if args.html is not None and args.html.exists():
        data, place = args.data.resolve(), args.html.resolve()
        require(
            data != place and data not in place.parents, f"{args.html}: is of --data; choose another file for --html"
        )
    args.labels = args.preprocessing = None  # they are in the checkpoint now
    examples = 0 if args.html is None else _EXAMPLES
    report = evaluate(checkpoint, args.data, extremes=examples, **keywords(evaluate, args))
    if report.extremes is not None:
        page = EvaluationPage(
            checkpoint=checkpoint.name,
            source=str(args.data),
            evaluation=report.evaluation,
            shipped=report.shipped_counts,
            patch_tokens=report.extremes.patch_tokens,
            distributions=report.distribution,
            fewest=report.extremes.fewest(),
            most=report.extremes.most(),
            class_names=checkpoint.classes.names,
        )
        write_html(args.html, render_evaluation(page))
    emit(args.json, _json(report, args.html), describe(report, args.html))
    return 0


def _json(report: EvaluationReport, page: Path | None) -> dict[str, Any]:
    """``distribution`` is there if token counts differ from image to image."""
    result = report.evaluation
    document = {
        "checkpoint": report.checkpoint.name,
        "mode": report.mode,
        "device": report.device,
        **result.to_json(),
        "mean_reused": [round(value, 3) for value in result.mean_reused],
        "unreadable": [str(path) for path in result.unreadable],
        "left_out": report.coverage.to_json(),
        **source_json(report.checkpoint, report.coverage.remarks),
        "wrote": [] if page is None else [str(page)],
    }
    if report.distribution:
        document["distribution"] = [
            {"stage": stage, **one.to_json(), "shipped": count, "mean_minus_shipped": round(one.mean - count, 3)}
            for stage, (one, count) in enumerate(zip(report.distribution, report.shipped_counts), start=1)
        ]
    return document


def describe(report: EvaluationReport, page: Path | None) -> str:
    """Facts, the distribution of token counts if they differ, and what was written last."""
    result, distribution, shipped = report.evaluation, report.distribution, report.shipped_counts
    low, high = result.top1_interval
    rows = [
        ("checkpoint", f"{report.checkpoint.name}, {report.mode}, on {report.device}"),
        *source_facts(report.checkpoint),
        ("top-1", f"{result.top1:.2f} % (95 % interval {low:.1f} to {high:.1f})"),
        ("top-5", f"{result.top5:.2f} %"),
        ("images", f"{result.images}" + (f" ({len(result.unreadable)} unreadable)" if result.unreadable else "")),
        ("GMACs", f"{result.gmacs:.3f}"),
    ]
    if result.mean_kept:
        rows.append(("tokens kept", ", ".join(f"{count:.1f}" for count in result.mean_kept)))
        rows.append(("reused", ", ".join(f"{count:.2f}" for count in result.mean_reused)))
    rows += [("warning", remark) for remark in report.coverage.remarks]
    blocks = [facts(rows)]
    if distribution:
        blocks.append(_figures(distribution, shipped))
    if page is not None:
        blocks.append(facts([("wrote", page)]))
    return "\n\n".join(blocks)


def _figures(distribution: Sequence[CountDistribution], shipped: Sequence[int]) -> str:
    rows = [
        [
            f"stage {stage}",
            f"{one.mean:.1f}",
            f"{count}",
            f"{one.mean - count:+.1f}",
            f"{one.std:.1f}",
            *(f"{value:.0f}" for value in (one.least, *one.percentiles, one.most)),
        ]
        for stage, (one, count) in enumerate(zip(distribution, shipped), start=1)
    ]
    return table(
        rows,
        ["tokens", "mean", "shipped", "difference", "std", "min", "5 %", "25 %", "50 %", "75 %", "95 %", "max"],
    )
