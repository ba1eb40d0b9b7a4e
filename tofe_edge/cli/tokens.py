"""``tofe-edge tokens``: which tokens of images each stage keeps, freezes and reuses, as pictures, a table or JSON."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tofe_edge.cli.options import add_backbone, add_data, add_device, add_naming, keywords, positive_int
from tofe_edge.cli.output import emit, facts, table
from tofe_edge.cli.pages.contact_sheet import contact_sheet
from tofe_edge.cli.pages.rendering import write_html
from tofe_edge.cli.pages.tokens import TokensPage, render_tokens
from tofe_edge.errors import require
from tofe_edge.evaluation.image_tokens import ImageTokens
from tofe_edge.io.files import check_place, write_bytes
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.model.choices import source_facts, source_json
from tofe_edge.workflows.sources import open_checkpoint
from tofe_edge.workflows.tokens import TokenReport, trace_tokens

_DRAWN = 16
"""Rows of pictures that a page or sheet is still looked through with."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("checkpoint", metavar="CKPT", help="a shipped checkpoint's name or a file")
    add_backbone(parser)
    add_naming(parser)
    parser.add_argument("--image", type=Path, nargs="+", metavar="FILE", help="JPEG, PNG, WebP, BMP, GIF, TIFF or PPM")
    add_data(parser, "images: as for evaluate, or a folder of images without classes")
    parser.add_argument(
        "--mode", choices=("batch", "instance"), default="batch", help="token counts (default: batch, the shipped ones)"
    )
    add_device(parser, "where to run")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the pictures")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the pictures as one, one row per image")
    parser.add_argument(
        "--draw",
        type=positive_int,
        default=_DRAWN,
        metavar="N",
        help=f"draw N images of --data, spread evenly over the classes (default: {_DRAWN}); all are counted",
    )


def run(args: argparse.Namespace) -> int:
    """Trace the images, write what was asked for, and print."""
    require((args.image is None) != (args.data is None), "tokens needs images: either --image FILE or --data DATA")
    require(args.image is None or args.limit is None, "--limit is for --data; leave images out of --image instead")
    _check_places(args)
    checkpoint = open_checkpoint(args.checkpoint, args.backbone, args.labels, args.preprocessing)
    report = trace_tokens(checkpoint, images=args.image, **keywords(trace_tokens, args))
    written = _write(args, report)
    emit(args.json, _json(report, written), _text(report, written, each=args.image is not None))
    return 0


def _check_places(args: argparse.Namespace) -> None:
    """Refuse, before minutes are spent, to write over what is read, or a page over a picture."""
    places = [path for path in (args.html, args.png) if path is not None]
    read = {path.resolve() for path in (*(args.image or ()), Path(args.checkpoint))}
    read |= {args.data.resolve()} if args.data else set()
    for path in places:
        check_place(path, folder=False)
        require(path.resolve() not in read, f"{path}: is what is to be read; choose another file to write")
        in_data = args.data is not None and path.exists() and args.data.resolve() in path.resolve().parents
        require(not in_data, f"{path}: is a file of --data; choose another to write")
    require(len({path.resolve() for path in places}) == len(places), "--html and --png name one file; give two")


def _write(args: argparse.Namespace, report: TokenReport) -> list[Path]:
    drawn = report.drawn
    require(bool(drawn) or not (args.html or args.png), "none of the images to be drawn can be read; raise --draw")
    if args.html is not None:
        page = TokensPage(
            checkpoint=report.checkpoint.name,
            mode=args.mode,
            source="" if args.data is None else str(args.data),
            usage=report.usage,
            drawn=drawn,
            class_names=report.checkpoint.classes.names,
        )
        write_html(args.html, render_tokens(page))
    if args.png is not None:
        write_bytes(args.png, contact_sheet(drawn))
    return [path for path in (args.html, args.png) if path is not None]


def _json(report: TokenReport, written: list[Path]) -> dict[str, Any]:
    usage = report.usage
    return {
        "checkpoint": report.checkpoint.name,
        "mode": report.mode,
        "device": report.device,
        "patch_tokens": usage.patch_tokens,
        "images": [_image_json(image, report.checkpoint) for image in report.traced.images],
        "summary": {
            "images": usage.images,
            "mean_kept": [round(count, 3) for count in usage.kept],
            "mean_reused": [round(count, 3) for count in usage.reused],
            "reused_share": [round(share, 5) for share in usage.reused_share],
            "mean_usage": round(usage.stages_computed, 4),
        },
        "unreadable": [str(path) for path in report.traced.unreadable],
        "left_out": report.coverage.to_json(),
        **source_json(report.checkpoint, report.coverage.remarks),
        "wrote": [str(path) for path in written],
    }


def _image_json(image: ImageTokens, checkpoint: Checkpoint) -> dict[str, Any]:
    ids, best = checkpoint.classes.ids, image.best
    prediction = best and {
        "class_id": ids[best.index],
        "name": best.name,
        "probability": round(best.probability, 6),
    }
    return {
        "image": str(image.location),
        "prediction": prediction,
        "label": None if image.label is None else ids[image.label],
        "kept": [list(positions) for positions in image.kept],
        "kept_counts": list(image.counts),
        "reused": list(image.reused),
    }


def _text(report: TokenReport, written: list[Path], each: bool) -> str:
    """Facts, the mean of each stage and, with ``each``, one line per image; what was written last."""
    usage, traced = report.usage, report.traced
    unreadable = f" ({len(traced.unreadable)} unreadable)" if traced.unreadable else ""
    stages = len(usage.kept) + 1
    rows = [
        ("checkpoint", f"{report.checkpoint.name}, {report.mode}, on {report.device}"),
        *source_facts(report.checkpoint),
        ("images", f"{usage.images}{unreadable}"),
        *(("warning", remark) for remark in report.coverage.remarks),
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
                f"{image.best.name} {image.best.probability:.1%}" if image.best else "",
                ", ".join(map(str, image.counts)),
                ", ".join(map(str, image.reused)),
            ]
            for image in traced.images
        ]
        blocks.append(table(lines, ["image", "class", "kept", "reused"]))
    blocks += [facts([("wrote", path) for path in written])] if written else []
    return "\n\n".join(blocks)
