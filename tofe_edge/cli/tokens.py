"""``tofe-edge tokens``: which tokens of images each stage keeps, freezes and reuses, as pictures, a table or JSON."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import add_data, open_checkpoint, positive_int, preprocessing_for, require
from tofe_edge.cli.output import emit, facts, table

if TYPE_CHECKING:
    from tofe_edge.evaluation.image_tokens import ImageTokens, Traced
    from tofe_edge.evaluation.usage import MeanUsage
    from tofe_edge.io.dataset import Sample
    from tofe_edge.model.checkpoint import Checkpoint

_DRAWN = 16
"""Rows of pictures that a page or sheet is still looked through with."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "tokens", help="draw which tokens of images each stage keeps, freezes and reuses"
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="a shipped checkpoint's name or a file")
    parser.add_argument("--image", type=Path, nargs="+", metavar="FILE", help="JPEG, PNG, WebP, BMP, GIF, TIFF or PPM")
    add_data(parser, "images: as for evaluate, or a folder of images without classes")
    parser.add_argument(
        "--mode", choices=("batch", "instance"), default="batch", help="token counts (default: batch, the shipped ones)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="where to run (default: auto)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the pictures")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the pictures as one, a row an image")
    parser.add_argument(
        "--draw",
        type=positive_int,
        default=_DRAWN,
        metavar="N",
        help=f"draw N images of --data, spread evenly over the classes (default: {_DRAWN}); all are counted",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Trace the images, write what was asked for, and print."""
    require((args.image is None) != (args.data is None), "tokens needs images: either --image FILE or --data DATA")
    require(args.image is None or args.limit is None, "--limit is for --data; leave images out of --image instead")
    _check_places(args)
    checkpoint = open_checkpoint(args.checkpoint, None)
    require(
        checkpoint.token_counts is not None,
        f"{checkpoint.name}: is a dense model, which computes every token in every stage; give a ToFe checkpoint "
        "(tofe-edge checkpoints)",
    )
    from tofe_edge.evaluation.image_tokens import trace
    from tofe_edge.evaluation.reference import load_reference

    samples, drawn = _samples(args, checkpoint)
    spec = preprocessing_for(checkpoint.preprocessing, args)
    reference = load_reference(checkpoint, args.mode, args.device)
    source = args.data if args.data is not None else args.image[0].parent
    traced = trace(reference, source, samples, spec, checkpoint.classes.names, drawn)
    usage = traced.mean_usage()
    wrote = _write(args, checkpoint, traced, usage)
    document = {
        "checkpoint": checkpoint.name,
        "mode": reference.mode,
        "device": reference.device.type,
        "patch_tokens": usage.patch_tokens,
        "images": [_to_json(image, checkpoint) for image in traced.images],
        "summary": {
            "images": usage.images,
            "mean_kept": [round(count, 3) for count in usage.kept],
            "mean_reused": [round(count, 3) for count in usage.reused],
            "reused_share": [round(share, 5) for share in usage.reused_share],
            "mean_usage": round(usage.stages_computed, 4),
        },
        "unreadable": [str(path) for path in traced.unreadable],
        "wrote": [str(path) for path in wrote],
    }
    where = f"{checkpoint.name}, {reference.mode}, on {reference.device.type}"
    emit(args.json, document, _describe(where, traced, usage, wrote, each=args.image is not None))
    return 0


def _check_places(args: argparse.Namespace) -> None:
    """Before minutes are spent: nothing that is read is written over, and no page over a picture."""
    from tofe_edge.io.files import check_place

    places = [path for path in (args.html, args.png) if path is not None]
    read = {path.resolve() for path in (*(args.image or ()), Path(args.checkpoint))}
    read |= {args.data.resolve()} if args.data else set()
    for path in places:
        check_place(path, folder=False)
        require(path.resolve() not in read, f"{path}: is what is to be read; choose another file to write")
        in_data = args.data is not None and path.exists() and args.data.resolve() in path.resolve().parents
        require(not in_data, f"{path}: is a file of --data; choose another to write")
    require(len({path.resolve() for path in places}) == len(places), "--html and --png name one file; give two")


def _samples(args: argparse.Namespace, checkpoint: Checkpoint) -> tuple[list[Sample], list[Sample]]:
    """All images in their order, and those to be drawn.

    Raises:
        InputError: a file of --image cannot be read: it was meant. Those of --data are left out and counted.
    """
    from tofe_edge.evaluation.image_tokens import UNLABELLED
    from tofe_edge.io.dataset import Sample, find_samples, sample_evenly
    from tofe_edge.io.images import IMAGE_SUFFIXES, list_images

    if args.image is not None:
        samples = [Sample(path, UNLABELLED) for path in args.image]
        for sample in samples:
            sample.read()
        return samples, samples
    source: Path = args.data
    flat = source.is_dir() and any(
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") for path in source.iterdir()
    )
    found = (
        [Sample(path, UNLABELLED) for path in list_images(source)]
        if flat
        else find_samples(source, checkpoint.classes.ids)
    )
    samples = sample_evenly(found, args.limit)
    return samples, sample_evenly(samples, args.draw)


def _write(args: argparse.Namespace, checkpoint: Checkpoint, traced: Traced, usage: MeanUsage) -> list[Path]:
    drawn = [image for image in traced.images if image.pixels is not None]
    require(bool(drawn) or not (args.html or args.png), "none of the images to be drawn can be read; raise --draw")
    if args.html is not None:
        from tofe_edge.cli.pages.tokens import TokensPage, write_page

        source = "" if args.data is None else str(args.data)
        write_page(
            args.html,
            TokensPage(
                checkpoint=checkpoint.name,
                mode=args.mode,
                source=source,
                usage=usage,
                drawn=drawn,
                class_names=checkpoint.classes.names,
            ),
        )
    if args.png is not None:
        from tofe_edge.cli.pages.contact_sheet import contact_sheet
        from tofe_edge.io.files import write_bytes

        write_bytes(args.png, contact_sheet(drawn))
    return [path for path in (args.html, args.png) if path is not None]


def _to_json(image: ImageTokens, checkpoint: Checkpoint) -> dict[str, Any]:
    ids = checkpoint.classes.ids
    return {
        "image": str(image.location),
        "prediction": {
            "class_id": ids[image.best.index],
            "name": image.best.name,
            "probability": round(image.best.probability, 6),
        },
        "label": None if image.label is None else ids[image.label],
        "kept": [list(positions) for positions in image.kept],
        "kept_counts": list(image.counts),
        "reused": list(image.reused),
    }


def _describe(where: str, traced: Traced, usage: MeanUsage, wrote: Sequence[Path], each: bool) -> str:
    """Facts, the mean of each stage and, where ``each`` is wanted, a line an image; what was written last."""
    unreadable = f" ({len(traced.unreadable)} unreadable)" if traced.unreadable else ""
    stages = len(usage.kept) + 1
    rows = [
        ("checkpoint", where),
        ("images", f"{usage.images}{unreadable}"),
        ("usage", f"a patch is computed in {usage.stages_computed:.2f} of {stages} stages on average"),
    ]
    means = [
        [f"stage {stage}", f"{kept:.2f}", f"{reused:.2f}", f"{share:.2%}"]
        for stage, (kept, reused, share) in enumerate(zip(usage.kept, usage.reused, usage.reused_share), start=1)
    ]
    blocks = [facts(rows), table(means, ["", "tokens kept", "of them reused", "share"])]
    if each:
        lines = [
            [
                str(image.location),
                f"{image.best.name} {image.best.probability:.1%}",
                ", ".join(map(str, image.counts)),
                ", ".join(map(str, image.reused)),
            ]
            for image in traced.images
        ]
        blocks.append(table(lines, ["image", "class", "kept", "reused"]))
    blocks += [facts([("wrote", path) for path in wrote])] if wrote else []
    return "\n\n".join(blocks)
