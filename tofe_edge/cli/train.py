"""``tofe-edge train``: put ToFe on a dense backbone and train it to a budget."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.options import open_checkpoint, open_profile, positive_float, positive_int, require
from tofe_edge.cli.output import emit, facts

if TYPE_CHECKING:
    from tofe_edge.model.checkpoint import Checkpoint
    from tofe_edge.training.config import TrainingConfig

_NUMBERS = {
    "epochs": "passes over the training images",
    "fixed-epochs": "of these, with the backbone fixed",
    "learning-rate": "of selectors and approximators",
    "backbone-learning-rate": "of the backbone once it is free",
    "gathered-epochs": "of all, the last ones, with token counts fixed and frozen tokens left out",
    "final-learning-rate": "at the end of the cosine",
    "weight-decay": "of AdamW, on matrices",
    "cls-weight": "of the cross entropy",
    "approximation-weight": "of the approximation loss (Eq. 10)",
    "budget-weight": "of the budget loss (Eq. 14)",
    "distillation-weight": "of the KL divergence to the dense model's logits; 0 is the paper's recipe",
    "guidance-weight": "of the selectors' gap to what the dense model attends to later; 0 is the paper's recipe",
    "noise-decay-start": "share of the run, less its gathered epochs, after which the Gumbel noise fades; 1 is the paper's recipe",
    "crop-scale": "least share of an image in a random crop",
    "cutmix": "share of the crops that get a rectangle of another one; needs --cls-weight 0",
    "gradient-clip": "largest norm of the gradient",
}


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command; defaults are those of ``TrainingConfig``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="train ToFe on a dense backbone",
        description="An interrupted run goes on where it was when called again.",
    )
    parser.add_argument(
        "--backbone",
        default="deit_tiny_patch16_224",
        metavar="NAME",
        help="lvvit_s, lvvit_m or a timm vision transformer",
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights", type=Path, metavar="FILE", help="dense weights: .safetensors or .pth")
    weights.add_argument("--pretrained", action="store_true", help="fetch timm's published weights")
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="DATA[:REPEATS]",
        help="training images: as evaluate --data; may be repeated",
    )
    parser.add_argument(
        "--validation",
        type=Path,
        metavar="DATA",
        help="labelled images on which accuracy is measured at the end: as evaluate --data",
    )
    parser.add_argument(
        "--validation-resize", choices=("short_side", "none"), default="short_side", help="as evaluate --resize"
    )
    parser.add_argument(
        "--validation-name", metavar="TEXT", help="what the header calls these images (default: the folder's name)"
    )
    parser.add_argument(
        "--center-on",
        type=Path,
        metavar="DATA",
        help="images like those that the net will see, in a folder without labels or as evaluate --data, prepared as the "
        "validation images are; at the end selectors are moved so that instance mode keeps the shipped counts there on average "
        "(default: on held-out training images)",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--target-gmacs", type=positive_float, metavar="G", help="whole-net budget")
    target.add_argument(
        "--target-ms",
        type=positive_float,
        metavar="T",
        help="the same in milliseconds an image, as the latency table of --profile predicts them",
    )
    parser.add_argument("--profile", metavar="PROFILE", help="for --target-ms: a profile from `tofe-edge calibrate`")
    parser.add_argument(
        "--precision",
        choices=("int8", "fp32"),
        help="of the latency table (default: the profile's, where it has that table)",
    )
    for name, text in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=float, metavar="X", help=text)
    parser.add_argument(
        "--start",
        metavar="CKPT",
        help="go on from a ToFe checkpoint, such as that of the next larger budget (default: from the dense weights)",
    )
    parser.add_argument(
        "--start-share",
        type=float,
        metavar="X",
        help="begin X of the way from the dense backbone to that of --start: undoes what a long run learned by heart from few "
        "images (WiSE-FT; default: 1)",
    )
    parser.add_argument(
        "--select-before",
        metavar="A,B,C",
        help="blocks before which tokens are selected, from 0 (default: those of --start, or a quarter, a half and three quarters "
        "of the way, as in the paper; small budgets want earlier ones)",
    )
    parser.add_argument(
        "--views",
        type=int,
        metavar="N",
        help="prepare N random crops once, at the dense model's first selection, and draw from them in every epoch: "
        "several times as fast; the blocks before the first selection stay as they are (default: 0, fresh crops)",
    )
    parser.add_argument(
        "--views-dir", type=Path, metavar="DIR", help="where they are kept, for several runs (default: beside --out)"
    )
    parser.add_argument(
        "--token-counts",
        metavar="A,B,C",
        help="tokens kept in the gathered epochs (default: what the selectors have learned to keep)",
    )
    parser.add_argument("--batch-size", type=positive_int, metavar="N", help="images a step")
    parser.add_argument("--held-out", type=int, metavar="N", help="images kept aside for measuring token counts")
    parser.add_argument(
        "--budget", choices=("per_sample", "per_batch"), help="square each sample's gap, or the batch mean's"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of everything random (default: 0)")
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="where to train (default: auto)"
    )
    parser.add_argument("--name", metavar="NAME", help="the checkpoint's name (default: the file's)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write (.safetensors)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Train, measure, write."""
    from tofe_edge.model.backbones.spec import parse_stages
    from tofe_edge.training.run import TrainingRequest, train_checkpoint

    require(args.out.suffix == ".safetensors", f"{args.out}: a checkpoint's file name ends in .safetensors")
    if args.target_ms is None:
        require(args.profile is None, "--profile says where --target-ms is held; --target-gmacs holds everywhere")
        require(args.precision is None, "--precision is that of the latency table of --target-ms")
    else:
        require(args.profile is not None, "--target-ms is held by a device's latency table; say which with --profile")
    require(args.views_dir is None or args.views, "--views-dir is where --views are kept; say how many with --views N")
    require(args.start_share is None or args.start, "--start-share is a share of the way to --start; say which")
    require(args.start_share is None or 0 <= args.start_share <= 1, "--start-share: expected 0 to 1")
    request = TrainingRequest(
        backbone=args.backbone,
        weights=args.weights,
        pretrained=args.pretrained,
        data=tuple(args.data),
        validation=args.validation,
        validation_resize=args.validation_resize,
        validation_name=args.validation_name,
        name=args.name or args.out.stem,
        out=args.out,
        device=args.device,
        start=open_checkpoint(args.start, None) if args.start else None,
        start_share=1.0 if args.start_share is None else args.start_share,
        views=args.views_dir,
        profile=None if args.profile is None else open_profile(args.profile),
        precision=args.precision,
        stages=parse_stages(args.select_before) if args.select_before else None,
        center_on=args.center_on,
    )
    checkpoint = train_checkpoint(request, _config(args))
    emit(args.json, _to_json(checkpoint), _describe(checkpoint))
    return 0


def _config(args: argparse.Namespace) -> TrainingConfig:
    from tofe_edge.training.config import TrainingConfig

    # Which latency table it is follows from the profile, and is no option.
    given = {field.name: getattr(args, field.name, None) for field in fields(TrainingConfig)}
    return TrainingConfig(**{name: value for name, value in given.items() if value is not None})


def _to_json(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "checkpoint": str(checkpoint.path),
        "token_counts": list(checkpoint.token_counts.kept) if checkpoint.token_counts else None,
        "gmacs": checkpoint.gmacs,
        "accuracy": checkpoint.accuracy,
        "training": checkpoint.training,
    }


def _describe(checkpoint: Checkpoint) -> str:
    rows = [
        ("tokens kept", f"{checkpoint.token_counts} per stage"),
        ("GMACs", f"{checkpoint.gmacs:.3f} of {checkpoint.dense_gmacs:.3f} dense"),
    ]
    budget = (checkpoint.training or {}).get("budget", {})
    if budget.get("unit") == "ms":
        threads = f"{budget['threads']} thread{'s' if budget['threads'] > 1 else ''}"
        where = f"{budget['profile']} in {budget['precision']} with {threads}"
        rows.append(
            ("latency", f"{budget['predicted']:.2f} ms predicted on {where}; the target was {budget['target']:g}")
        )
    if checkpoint.accuracy:
        accuracy = checkpoint.accuracy
        rows.append(
            ("top-1", f"{accuracy['top1']:.2f} %, dense {accuracy['dense_top1']:.2f} % on {accuracy['images']} images")
        )
    for warning in (checkpoint.training or {}).get("warnings", []):
        rows.append(("warning", warning))
    rows.append(("wrote", str(checkpoint.path)))
    return facts(rows)
