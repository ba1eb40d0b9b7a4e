"""``tofe-edge parity``: does a converted model predict what the reference predicts?"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import add_checkpoint, add_data, add_method, open_checkpoint, positive_float, positive_int
from tofe_edge.cli.output import emit
from tofe_edge.errors import InputError

if TYPE_CHECKING:
    from tofe_edge.evaluation.parity import Gates
    from tofe_edge.io.artifact import Artifact
    from tofe_edge.model.checkpoint import Checkpoint
    from tofe_edge.workflows.checking import Checked, InMemory, Streamed


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "parity", help="compare a converted model with the PyTorch reference"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .pte or .mlpackage with its manifest beside it")
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="where the reference runs (default: auto)"
    )
    parser.add_argument("--threads", type=positive_int, default=1, metavar="N", help="threads of XNNPACK (default: 1)")
    add_method(parser)
    add_checkpoint(parser)
    add_data(
        parser, "labelled images: DIR/<class id>/<image>, a CSV file or tar shards (default: crops of two photographs)"
    )
    parser.add_argument(
        "--max-drop", type=_points, metavar="POINTS", help="fail where top-1 falls by more; needs --data"
    )
    parser.add_argument(
        "--min-agreement",
        type=_per_cent,
        metavar="PERCENT",
        help="fail where fewer top-1 classes agree, on however few images (default: by precision, from 100 images on)",
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the gates as JUnit-XML")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with the statistics and the worst images"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Compare and print; exit code 1 where a gate fails."""
    from tofe_edge.cli.parity_output import describe, to_json
    from tofe_edge.evaluation.analysis import analyse
    from tofe_edge.io.artifact import open_artifact
    from tofe_edge.workflows.checking import check

    begun = time.perf_counter()
    artifact = open_artifact(args.model)
    checkpoint = find_reference(artifact, args.checkpoint, args.backbone)
    pictures = _pictures(args, artifact, checkpoint)
    checked = check(
        artifact,
        checkpoint,
        pictures,
        device=args.device,
        threads=args.threads,
        method=args.method,
        adjust=_adjustment(args),
    )
    parity, unreadable = checked.parity, getattr(pictures, "unreadable", [])
    analysis = None
    if parity.finite:
        analysis = analyse(checked.reference, checked.artifact, checked.labels, checked.names)
    if args.junit is not None:
        _write_junit(args.junit, str(args.model), checked, time.perf_counter() - begun)
    if args.html is not None:
        from tofe_edge.cli.pages.parity import write_page

        write_page(
            args.html, artifact.manifest, parity, analysis, pictures.source, lambda name: _thumbnail(pictures, name)
        )
    document = to_json(str(args.model), pictures.source, unreadable, checked, analysis, artifact.manifest)
    emit(args.json, document, describe(pictures.source, unreadable, checked, analysis, artifact.manifest))
    return 0 if parity.passed else 1


def _pictures(args: argparse.Namespace, artifact: Artifact, checkpoint: Checkpoint) -> InMemory | Streamed:
    from tofe_edge.cli.options import preprocessing_for
    from tofe_edge.io.dataset import find_samples, sample_evenly
    from tofe_edge.io.inputs import load_photographs
    from tofe_edge.workflows.checking import InMemory, Streamed

    if args.data is None:
        return InMemory(load_photographs(preprocessing_for(artifact.manifest.preprocessing, args)))
    # Labels by the checkpoint's classes: those of the manifest are among the things that are checked.
    samples = sample_evenly(find_samples(args.data, checkpoint.classes.ids), args.limit)
    return Streamed(str(args.data), samples, args.resize)


def _adjustment(args: argparse.Namespace) -> Callable[[Gates], Gates]:
    def adjusted(gates: Gates) -> Gates:
        if args.min_agreement is not None:
            # Whoever names a rate wants it gated, however few the images.
            gates = replace(gates, min_top1_agreement=args.min_agreement, min_images_for_rate=1)
        return gates if args.max_drop is None else replace(gates, max_drop=args.max_drop)

    return adjusted


def _thumbnail(pictures: InMemory | Streamed, name: str) -> bytes | None:
    """A small JPEG of an image of the data; ``None`` where there is no file to show."""
    from tofe_edge.workflows.checking import Streamed

    return pictures.thumbnail(name) if isinstance(pictures, Streamed) else None


def _write_junit(path: Path, model: str, checked: Checked, seconds: float) -> None:
    from tofe_edge.cli.junit import Case, junit_xml
    from tofe_edge.io.files import write_bytes

    cases = [Case(gate.name, gate.passed, gate.message, 0.0) for gate in checked.parity.gates]
    if cases:
        cases[0] = replace(cases[0], seconds=seconds)
    write_bytes(path, junit_xml(f"parity of {model}", cases).encode())


def _points(text: str) -> float:
    """An argparse type: a number of points of accuracy, zero allowed."""
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not a number of points from 0 to 100")
    return value


def _per_cent(text: str) -> float:
    """An argparse type: 0 < per cent <= 100, as a share."""
    value = positive_float(text) / 100
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is not a percentage of at most 100")
    return value


def find_reference(artifact: Artifact, name: str | None, backbone: str | None) -> Checkpoint:
    """The checkpoint an artifact was made from: a shipped one by checksum, or the one named.

    Raises:
        InputError: it is not a shipped one and none is named, or the one named is another.
    """
    from tofe_edge.model.zoo import find_by_checksum

    manifest = artifact.manifest
    if name is None:
        found = find_by_checksum(manifest.checkpoint_sha256)
        if found is None:
            raise InputError(
                f"{artifact.path}: was made from {manifest.checkpoint!r}, which is not shipped; name its file with --checkpoint"
            )
        return found
    checkpoint = open_checkpoint(name, backbone)
    if checkpoint.sha256() != manifest.checkpoint_sha256:
        raise InputError(
            f"{checkpoint.path}: is not the checkpoint that {artifact.path} was made from ({manifest.checkpoint!r})"
        )
    return checkpoint
