"""``tofe-edge convert``: choose, lower, check, write artifact and manifest."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tofe_edge.cli.converted import describe, to_json
from tofe_edge.cli.options import (
    add_checkpoint,
    open_checkpoint,
    open_profile,
    positive_float,
    positive_int,
    require,
)
from tofe_edge.cli.output import emit
from tofe_edge.cli.select import add_budget, choose_for
from tofe_edge.errors import GateError
from tofe_edge.files import workshop, write_bytes
from tofe_edge.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from converters.pipeline import Calibration
    from profiles import DeviceProfile
    from tofe_edge.artifact import Artifact
    from tofe_edge.checkpoint import Checkpoint
    from tofe_edge.inputs import Inputs
    from tofe_edge.parity import Parity

_CALIBRATION_IMAGES = 256
_CHECK_IMAGES = 64
_CALIBRATION_SEED = 1
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Settings:
    """What to build, after defaults of profile and command line have been settled."""

    checkpoint: Checkpoint
    reason: str
    target: str
    precision: str
    profile: str | None
    int8_mode: Literal["dynamic", "static"]
    """Read where the precision is int8."""
    variant: tuple[str, ...] = ()
    """What else makes the artifact differ from the profile's plain one; part of its name."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = commands.add_parser("convert", help="make a checked model file for a device")
    add_budget(parser)
    add_checkpoint(parser)
    parser.add_argument("--target", choices=("executorch", "coreml"), help="default: the profile's, else executorch")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), help="default: the profile's, else int8")
    parser.add_argument(
        "--int8-mode",
        choices=("dynamic", "static"),
        default="dynamic",
        help="ranges of activations: per token as it runs, or fixed on calibration images (default: dynamic)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="images for int8: weights are rounded with regard to them, and --max-accuracy-drop is held on them "
        "(default: crops of two sample photographs, no drop)",
    )
    parser.add_argument(
        "--calibration-images",
        type=positive_int,
        default=_CALIBRATION_IMAGES,
        metavar="N",
        help=f"how many of them (default: {_CALIBRATION_IMAGES})",
    )
    parser.add_argument(
        "--max-accuracy-drop",
        type=positive_float,
        metavar="POINTS",
        help="top-1 that int8 may cost on the calibration images; the most sensitive layers stay in fp32 for it "
        "(default: 0.5 where there are images)",
    )
    parser.add_argument(
        "--elastic",
        type=_budgets,
        default=(),
        metavar="G[,G...]",
        help="further budgets in GMACs, as methods of the same file that share its weights",
    )
    parser.add_argument("--batch", type=positive_int, default=1, metavar="N", help="images a run (default: 1)")
    parser.add_argument(
        "--image-size", type=positive_int, metavar="PX", help="side of the input (default: the checkpoint's)"
    )
    parser.add_argument(
        "--selection",
        choices=("topk", "rank"),
        default="topk",
        help="topk and index_select on the CPU, or ranks and one-hot products in the delegate (default: topk)",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="output folder (default: out)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Convert; nothing is left in the output folder unless the result passes its parity gates."""
    from tofe_edge.artifact import Artifact, with_parity, write_manifest

    settings = _settle(args)
    file_name = f"{artifact_name(settings)}.pte"
    with workshop(args.out) as folder, progress_bar("reading images", total=3, unit="step") as bar:
        calibration, samples = _read_images(args, settings)
        bar.update(1)
        bar.set_description(f"lowering to {settings.target}, {settings.precision} (a minute or two)")
        draft = _lower(args, settings, calibration, folder / file_name)
        bar.update(1)
        bar.set_description("checking against the reference")
        parity = _check_methods(draft, settings.checkpoint, samples)
        manifest = with_parity(draft.manifest, {**parity.to_json(), "source": samples.source})
        write_manifest(draft.path, manifest)
        bar.update(1)
        artifact = Artifact(args.out / file_name, manifest)
        # Both files are complete; two renames within one folder put them in place.
        draft.path.replace(artifact.path)
        draft.manifest_path.replace(artifact.manifest_path)
    reason = settings.reason
    emit(args.json, to_json(artifact, reason, parity), describe(artifact, reason, parity, samples.source))
    return 0


def _check_methods(draft: Artifact, checkpoint: Checkpoint, samples: Inputs) -> Parity:
    """Parity of the default method; raises :class:`GateError` where any method fails its gates."""
    from tofe_edge.cli.parity import check

    parities = {name: check(draft, checkpoint, samples, method=name) for name in draft.manifest.methods}
    for name, parity in parities.items():
        if not parity.passed:
            which = f"{draft.path.name}, method {name}" if draft.manifest.further_methods else draft.path.name
            raise GateError(f"{which}: not written, it differs from the reference: {'; '.join(parity.failures)}")
    return next(iter(parities.values()))


def artifact_name(settings: Settings) -> str:
    """``checkpoint-profile-precision-variant``, reduced to characters that are safe in any file name."""
    precision = "int8_static" if (settings.precision, settings.int8_mode) == ("int8", "static") else settings.precision
    parts = [settings.checkpoint.name, settings.profile, precision, *settings.variant]
    return _UNSAFE.sub("_", "-".join(part for part in parts if part))[:150].lstrip(".-")


def _settle(args: argparse.Namespace) -> Settings:
    profile = open_profile(args.profile) if args.profile else None
    if args.checkpoint:
        checkpoint, reason = open_checkpoint(args.checkpoint, args.backbone), "named with --checkpoint"
        _warn_over_budget(checkpoint, profile, args.max_gmacs)
    else:
        require(
            args.backbone is None, "--backbone names the net of plain dense weights; give their file with --checkpoint"
        )
        choice = choose_for(profile, args.max_gmacs)
        checkpoint, reason = choice.checkpoint, choice.reason
    return Settings(
        checkpoint,
        reason,
        target=args.target or (profile.defaults.target if profile else "executorch"),
        precision=args.precision or (profile.defaults.precision if profile else "int8"),
        profile=profile.name if profile else None,
        int8_mode=args.int8_mode,
        variant=_variant(args),
    )


def _variant(args: argparse.Namespace) -> tuple[str, ...]:
    parts = (
        "elastic" if args.elastic else "",
        f"batch{args.batch}" if args.batch > 1 else "",
        f"{args.image_size}px" if args.image_size else "",
        args.selection if args.selection != "topk" else "",
    )
    return tuple(filter(None, parts))


def _warn_over_budget(checkpoint: Checkpoint, profile: DeviceProfile | None, max_gmacs: float | None) -> None:
    from tofe_edge.budget import TOLERANCE

    limit = max_gmacs or (profile.budget.gmacs.value if profile else None)
    if limit is not None and checkpoint.gmacs > limit * (1 + TOLERANCE):
        print(
            f"tofe-edge: warning: {checkpoint.name} needs {checkpoint.gmacs:.2f} GMACs, over the budget of {limit:.2f}",
            file=sys.stderr,
        )


def _budgets(text: str) -> tuple[float, ...]:
    """An argparse type: numbers of GMACs, separated by commas."""
    try:
        return tuple(positive_float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of GMACs such as 0.5,0.4") from error


def _read_images(args: argparse.Namespace, settings: Settings) -> tuple[Calibration | None, Inputs]:
    """What int8 may look at (sample photographs without ``--calibration``) and other images to check the result on."""
    from converters.pipeline import Calibration
    from tofe_edge.inputs import load_photographs, load_unlabelled

    spec = settings.checkpoint.preprocessing
    if args.image_size is not None:
        _check_image_size(settings.checkpoint, args.image_size)
        spec = replace(spec, image_size=args.image_size)
    if args.calibration is None:
        require(
            args.max_accuracy_drop is None, "--max-accuracy-drop is held on images; give a folder with --calibration"
        )
        require(
            (settings.precision, settings.int8_mode) != ("int8", "static"),
            "static int8 needs calibration images; give a folder with --calibration",
        )
        if settings.precision != "int8":
            return None, load_photographs(spec)
        # Other crops than those of the check. Two photographs are enough to round weights by: with them the shipped
        # net's logits are 17.7 dB from fp32 on 1300 images, without 16.4, with 256 training images 17.6.
        crops = load_photographs(spec, _CALIBRATION_SEED)
        return Calibration(tuple(map(_dense, crops.pixels)), None), load_photographs(spec)
    require(settings.precision == "int8", f"--calibration serves int8; leave it out for {settings.precision}")
    class_ids = settings.checkpoint.classes.ids
    inputs = load_unlabelled(args.calibration, spec, args.calibration_images + _CHECK_IMAGES, class_ids=class_ids)
    require(len(inputs.pixels) > 1, f"{args.calibration}: one image cannot serve both calibration and check; add more")
    require(
        args.max_accuracy_drop is None or inputs.labels is not None,
        f"{args.calibration}: --max-accuracy-drop needs labelled images, DIR/<class id>/<image>",
    )
    checked, labels = min(_CHECK_IMAGES, len(inputs.pixels) // 2), inputs.labels
    served = slice(checked, checked + args.calibration_images)
    calibration = Calibration(tuple(map(_dense, inputs.pixels[served])), labels[served] if labels else None)
    return calibration, replace(inputs, pixels=inputs.pixels[:checked], labels=labels[:checked] if labels else None)


def _check_image_size(checkpoint: Checkpoint, image_size: int) -> None:
    """Refuse a size that the net cannot have before images of that size fill the memory."""
    from tofe_edge.backbones import create_host
    from tofe_edge.resolution import check_image_size

    check_image_size(create_host(checkpoint.backbone_name, checkpoint.overrides).spec, image_size)


def _dense(pixels: npt.NDArray[np.float32]) -> torch.Tensor:
    """A tensor without the zero strides of a broadcast batch axis, which the exporter refuses."""
    import torch

    return torch.from_numpy(pixels.copy())


def _lower(args: argparse.Namespace, settings: Settings, calibration: Calibration | None, path: Path) -> Artifact:
    from converters.pipeline import ConvertRequest, convert
    from converters.sensitivity import MAX_ACCURACY_DROP
    from tofe_edge.artifact import open_artifact, write_manifest

    request = ConvertRequest(
        checkpoint=settings.checkpoint,
        target=settings.target,
        precision=settings.precision,
        profile=settings.profile,
        file_name=path.name,
        int8_mode=settings.int8_mode,
        calibration=calibration,
        max_accuracy_drop=None if args.calibration is None else args.max_accuracy_drop or MAX_ACCURACY_DROP,
        further_gmacs=args.elastic,
        batch=args.batch,
        image_size=args.image_size,
        selection=args.selection,
    )
    conversion = convert(request)
    write_bytes(path, conversion.program)
    write_manifest(path, conversion.manifest)
    return open_artifact(path)
