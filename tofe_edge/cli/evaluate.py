"""``tofe-edge evaluate``: accuracy of a checkpoint in eager PyTorch."""

from __future__ import annotations

import argparse
from typing import Any

from tofe_edge.cli.options import add_data, open_checkpoint, preprocessing_for, require
from tofe_edge.cli.output import emit, facts


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
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from tofe_edge.dataset import find_samples, sample_evenly
    from tofe_edge.evaluation import evaluate_samples
    from tofe_edge.reference import load_reference

    require(args.data is not None, "evaluate needs labelled images: --data DIR")
    checkpoint = open_checkpoint(args.checkpoint, args.backbone)
    reference = load_reference(checkpoint, args.mode, args.device)
    spec = preprocessing_for(checkpoint.preprocessing, args)
    samples = sample_evenly(find_samples(args.data, checkpoint.classes.ids), args.limit)
    result = evaluate_samples(reference, args.data, samples, spec)
    low, high = result.top1_interval
    document = {
        "checkpoint": checkpoint.name,
        "mode": reference.mode,
        "device": reference.device.type,
        **result.to_json(),
        "unreadable": [str(path) for path in result.unreadable],
    }
    rows = [
        ("checkpoint", f"{checkpoint.name}, {reference.mode}, on {reference.device.type}"),
        ("top-1", f"{result.top1:.2f} % (95 % interval {low:.1f} to {high:.1f})"),
        ("top-5", f"{result.top5:.2f} %"),
        ("images", f"{result.images}" + (f" ({len(result.unreadable)} unreadable)" if result.unreadable else "")),
        ("GMACs", f"{result.gmacs:.3f}"),
    ]
    if result.mean_kept:
        rows.append(("tokens kept", ", ".join(f"{count:.1f}" for count in result.mean_kept)))
    emit(args.json, document, facts(rows))
    return 0
