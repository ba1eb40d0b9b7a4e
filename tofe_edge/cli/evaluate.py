"""``tofe-edge evaluate``: accuracy of a checkpoint in eager PyTorch, and how many tokens it takes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.evaluate_output import describe, to_json
from tofe_edge.cli.options import add_data, open_checkpoint, preprocessing_for, require
from tofe_edge.cli.output import emit

if TYPE_CHECKING:
    from tofe_edge.evaluation.evaluate import Evaluation
    from tofe_edge.evaluation.image_tokens import Extremes
    from tofe_edge.evaluation.usage import CountDistribution
    from tofe_edge.model.checkpoint import Checkpoint

_EXAMPLES = 3
"""Images of the page with the fewest tokens, and with the most."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate", help="accuracy of a checkpoint on labelled images"
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="a shipped checkpoint's name or a file")
    parser.add_argument("--backbone", metavar="NAME", help="the net of plain dense weights")
    parser.add_argument(
        "--mode", choices=("batch", "instance", "dense"), help="token counts (default: batch; dense for a dense model)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="where to run (default: auto)"
    )
    add_data(parser, "labelled images: DIR/<class id>/<image>, a .csv of path,label, or a .tar or folder of .tar")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="with --mode instance: write a page with histograms of token counts and the images at both ends",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from tofe_edge.evaluation.evaluate import evaluate_samples
    from tofe_edge.evaluation.image_tokens import Extremes
    from tofe_edge.evaluation.reference import load_reference
    from tofe_edge.evaluation.usage import distributions
    from tofe_edge.io.dataset import find_samples, sample_evenly
    from tofe_edge.io.files import check_place

    require(args.data is not None, "evaluate needs labelled images: --data DIR")
    if args.html is not None:
        require(args.mode == "instance", "--html shows how token counts differ; add --mode instance")
        check_place(args.html, folder=False)
    checkpoint = open_checkpoint(args.checkpoint, args.backbone)
    require(
        args.html is None or args.html.resolve() != checkpoint.path.resolve(),
        f"{args.html}: is the checkpoint; choose another file for --html",
    )
    if args.html is not None and args.html.exists():
        data, page = args.data.resolve(), args.html.resolve()
        require(data != page and data not in page.parents, f"{args.html}: is of --data; choose another file for --html")
    reference = load_reference(checkpoint, args.mode, args.device)
    spec = preprocessing_for(checkpoint.preprocessing, args)
    samples = sample_evenly(find_samples(args.data, checkpoint.classes.ids), args.limit)
    extremes = Extremes(_EXAMPLES, checkpoint.classes.names, reference.model.backbone.spec.patch_tokens, spec)
    witness = extremes.see if args.html is not None else None
    result = evaluate_samples(reference, args.data, samples, spec, witness=witness)
    found = distributions(result.kept_counts) if reference.mode == "instance" else ()
    if args.html is not None:
        _write_page(args, checkpoint, result, found, extremes)
    where = f"{checkpoint.name}, {reference.mode}, on {reference.device.type}"
    shipped = checkpoint.token_counts.kept if checkpoint.token_counts else ()
    document = {
        "checkpoint": checkpoint.name,
        "mode": reference.mode,
        "device": reference.device.type,
        **to_json(result, found, shipped),
        "wrote": [] if args.html is None else [str(args.html)],
    }
    emit(args.json, document, describe(where, result, found, shipped, args.html))
    return 0


def _write_page(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    result: Evaluation,
    found: Sequence[CountDistribution],
    extremes: Extremes,
) -> None:
    from tofe_edge.cli.pages.evaluation import EvaluationPage, write_page

    assert checkpoint.token_counts is not None  # the reference was loaded for instance-adaptive counts
    write_page(
        args.html,
        EvaluationPage(
            checkpoint=checkpoint.name,
            source=str(args.data),
            evaluation=result,
            shipped=checkpoint.token_counts.kept,
            patch_tokens=extremes.patch_tokens,
            found=found,
            fewest=extremes.fewest(),
            most=extremes.most(),
            class_names=checkpoint.classes.names,
        ),
    )
