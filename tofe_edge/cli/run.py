"""``tofe-edge run``: the five likeliest classes of images."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import add_method, positive_float, positive_int, require
from tofe_edge.cli.output import emit, table

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tofe_edge.prediction import Prediction


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser("run", help="classify images with a converted model")
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .pte or .mlpackage with its manifest beside it")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="JPEG, PNG, WebP, BMP, GIF, TIFF or PPM")
    parser.add_argument("--threads", type=positive_int, default=1, metavar="N", help="threads (default: 1)")
    add_method(parser)
    parser.add_argument(
        "--deadline-ms",
        type=positive_float,
        metavar="T",
        help="let the measured latency choose the budget of an elastic model, image by image",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Classify every image; none is classified unless all can be read."""
    from runtimes.elastic import load_elastic
    from runtimes.loading import load_model
    from tofe_edge.artifact import open_artifact
    from tofe_edge.inputs import load_image
    from tofe_edge.prediction import top_classes

    artifact = open_artifact(args.model)
    manifest = artifact.manifest
    inputs = [load_image(path, manifest.preprocessing) for path in args.images]
    model: Callable[[npt.NDArray[np.float32]], Prediction]
    if args.deadline_ms is None:
        model = load_model(artifact, args.threads, args.method)
    else:
        require(args.method == "forward", "--deadline-ms chooses the method itself; leave --method out")
        model = load_elastic(artifact, args.threads, args.deadline_ms)
    document, blocks = [], []
    for path, pixels in zip(args.images, inputs):
        prediction = model(pixels)
        best = top_classes(prediction.logits, manifest.class_names)
        kept = [len(positions) for positions in prediction.kept]
        document.append({"image": str(path), "top5": [asdict(entry) for entry in best], "kept": kept})
        rows = [[f"{100 * entry.probability:5.1f} %", entry.name] for entry in best]
        blocks.append(f"{path}\n{table(rows, ['', 'class'])}")
    emit(args.json, document, "\n\n".join(blocks))
    return 0
