"""What ``tofe-edge convert`` is asked for: its options, and what they come to with a profile's defaults."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tofe_edge.cli import convert_latency
from tofe_edge.cli.convert_choice import choose
from tofe_edge.cli.options import add_budget, add_checkpoint, open_profile, positive_float, positive_int, require

if TYPE_CHECKING:
    from tofe_edge.budget.latency import Forecast
    from tofe_edge.converters.quantize import Int8Mode
    from tofe_edge.converters.request import Layout, Selection, Target
    from tofe_edge.model.backbones import TokenCounts
    from tofe_edge.model.checkpoint import Checkpoint
    from tofe_edge.profiles import DeviceProfile

_CALIBRATION_IMAGES = 256
_DEPLOYMENT_TARGET = "iOS17"
_OWN_BACKENDS = {"executorch": "xnnpack", "coreml": "coreml"}
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Settings:
    """What to build, after defaults of profile and command line have been settled."""

    checkpoint: Checkpoint
    reason: str
    target: Target
    backend: Literal["xnnpack", "coreml"]
    precision: str
    profile: str | None
    int8_mode: Int8Mode
    """Read where the precision is int8."""
    selection: Selection
    deployment_target: str
    """The rest is read where the target is Core ML."""
    io: Literal["image", "tensor"] = "image"
    layout: Layout = "tokens_first"
    token_counts: TokenCounts | None = None
    """In place of the checkpoint's own."""
    forecast: Forecast | None = None
    """What it is predicted to take, where that is known."""
    threads: int = 1
    variant: tuple[str, ...] = ()
    """What else makes the artifact differ from the profile's plain one; part of its name."""

    @property
    def file_name(self) -> str:
        """``checkpoint-profile-precision-variant``, reduced to characters that are safe in any file name."""
        plain = {"xnnpack": "dynamic", "coreml": "weights"}[self.backend]
        changed = self.precision == "int8" and self.int8_mode != plain
        precision = f"int8_{self.int8_mode}" if changed else self.precision
        parts = [self.checkpoint.name, self.profile, precision, *self.variant]
        stem = _UNSAFE.sub("_", "-".join(part for part in parts if part))[:150].lstrip(".-")
        return stem + {"executorch": ".pte", "coreml": ".mlpackage"}[self.target]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    add_budget(parser)
    convert_latency.add_options(parser)
    add_checkpoint(parser)
    parser.add_argument("--target", choices=("executorch", "coreml"), help="default: the profile's, else executorch")
    parser.add_argument(
        "--backend",
        choices=("xnnpack", "coreml"),
        help="what an ExecuTorch program computes with (default: xnnpack)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8", "pal6", "pal4"),
        help="for Core ML alone fp16, and pal6 and pal4: weights from palettes of 64 or 16 values "
        "(default: the profile's, else int8)",
    )
    parser.add_argument(
        "--int8-mode",
        choices=("dynamic", "static", "weights"),
        help="ranges of activations: per token as it runs, or fixed on calibration images; or weights alone "
        "(default: dynamic for executorch, static with --reproducible, weights for coreml)",
    )
    parser.add_argument(
        "--reproducible",
        action="store_true",
        help="the same bytes out on 64-bit ARM and on x86 with AVX2; with XNNPACK, for fp32 and int8, which is then static "
        "and needs --calibration",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="images for int8 and palettes: weights are rounded with regard to them, and --max-accuracy-drop is held on them "
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
        help="top-1 that int8 or palettes may cost on the calibration images; the most sensitive layers stay in float for it "
        "(default: 0.5 where there are images)",
    )
    parser.add_argument(
        "--elastic",
        type=_budgets,
        default=(),
        metavar="G[,G...]",
        help="further budgets in GMACs, as methods of the same model that share its weights",
    )
    parser.add_argument("--batch", type=positive_int, default=1, metavar="N", help="images a run (default: 1)")
    parser.add_argument(
        "--image-size", type=positive_int, metavar="PX", help="side of the input (default: the checkpoint's)"
    )
    parser.add_argument(
        "--selection",
        choices=("topk", "rank"),
        help="topk and gather, or ranks and one-hot products, which every accelerator takes "
        "(default: topk; rank for Core ML devices with a Neural Engine)",
    )
    parser.add_argument(
        "--waive",
        metavar="TEXT",
        help="write the model even where it fails its parity gates; the failures and this reason go into the manifest",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="output folder (default: out)")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with parity, token map, and latency on this machine"
    )
    _add_coreml_options(parser.add_argument_group("Core ML"))


def _add_coreml_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--io",
        choices=("image", "tensor"),
        help="image: an image in, a class with probabilities out; tensor: normalised pixels in, logits out "
        "(default: image)",
    )
    group.add_argument(
        "--deployment-target",
        metavar="iOS17",
        help="the oldest system to load the model: iOS16, iOS17, iOS18, iOS26, for macOS 13, 14, 15, 26 too "
        "(default: the profile's, else iOS17)",
    )
    group.add_argument(
        "--layout",
        choices=("tokens_first", "channels_first"),
        help="order of axes; channels_first is Apple's advice for the Neural Engine (default: tokens_first)",
    )
    group.add_argument("--float32-selectors", action="store_true", help="score tokens in fp32 in an fp16 model")
    group.add_argument("--author", default="", metavar="TEXT", help="shown by Xcode")
    group.add_argument("--license", default="", metavar="TEXT", help="shown by Xcode")


def settle(args: argparse.Namespace) -> Settings:
    """Options and the profile's defaults together. Raises :class:`InputError`."""
    profile = open_profile(args.profile) if args.profile else None
    checkpoint, reason, forecast = choose(args, profile)
    defaults = profile.defaults if profile else None
    target = _target(args.target or (defaults.target if defaults else "executorch"))
    require(target == "executorch" or args.backend != "xnnpack", "--backend xnnpack needs --target executorch")
    backend: Literal["xnnpack", "coreml"] = "coreml" if "coreml" in (target, args.backend) else "xnnpack"
    if backend != "coreml":
        for option in ("io", "deployment_target", "layout", "float32_selectors", "author", "license"):
            require(
                getattr(args, option) in (None, "", False),
                f"--{option.replace('_', '-')} is for Core ML; add --target coreml",
            )
    require(
        target == "coreml" or not (args.io == "image" or args.author or args.license),
        "--io image, --author and --license describe a Core ML package; add --target coreml",
    )
    own_target = defaults.target if defaults else "executorch"
    own_system = (defaults and defaults.deployment_target) or _DEPLOYMENT_TARGET
    own_selection = _usual_selection(backend, profile)
    settled = Settings(
        checkpoint,
        reason,
        target=target,
        backend=backend,
        precision=forecast.table.precision
        if forecast
        else args.precision or (defaults.precision if defaults else "int8"),
        profile=profile.name if profile else None,
        int8_mode=args.int8_mode or _usual_int8_mode(backend, args.reproducible),
        selection=args.selection or own_selection,
        deployment_target=own_system if args.deployment_target is None else args.deployment_target,
        io=args.io or ("image" if target == "coreml" else "tensor"),
        layout=args.layout or "tokens_first",
        token_counts=None if forecast is None or forecast.at_own_counts else forecast.counts,
        forecast=forecast,
        threads=defaults.threads if defaults else 1,
    )
    if backend == "coreml":
        require(
            args.on is None, "--on times ExecuTorch programs; a Core ML model is timed on a Mac, by `tofe-edge profile`"
        )
        require(forecast is None, "--max-latency-ms: latency is not predicted for Core ML; add --target executorch")
    elif forecast is None:
        settled = replace(settled, forecast=convert_latency.predicted(args, profile, checkpoint, settled.precision))
    if settled.forecast is not None:
        settled = replace(settled, threads=settled.forecast.table.threads)
    variant = (
        _name_of_target(settled) if (target, backend) != (own_target, _OWN_BACKENDS[own_target]) else "",
        *_shape_variant(args),
        str(settled.token_counts or "").replace(",", "_"),
        settled.selection if settled.selection != own_selection else "",
        "reproducible" if args.reproducible else "",
        *(_coreml_variant(args, settled, own_system) if backend == "coreml" else ()),
    )
    return replace(settled, variant=tuple(filter(None, variant)))


def _name_of_target(settings: Settings) -> str:
    """What tells an artifact from the one that the profile asks for: manifests stand beside both under one stem."""
    if settings.target == settings.backend:
        return settings.target
    return "xnnpack" if settings.backend == "xnnpack" else "coreml_delegate"


def _shape_variant(args: argparse.Namespace) -> tuple[str, ...]:
    return (
        "elastic" if args.elastic else "",
        f"batch{args.batch}" if args.batch > 1 else "",
        f"{args.image_size}px" if args.image_size else "",
    )


def _coreml_variant(args: argparse.Namespace, settings: Settings, own_system: str) -> tuple[str, ...]:
    return (
        "tensor" if settings.target == "coreml" and settings.io == "tensor" else "",
        "channels_first" if settings.layout == "channels_first" else "",
        "fp32_selectors" if args.float32_selectors else "",
        settings.deployment_target if settings.deployment_target != own_system else "",
    )


def _target(name: str) -> Target:
    return "coreml" if name == "coreml" else "executorch"


def _usual_int8_mode(backend: str, reproducible: bool) -> Int8Mode:
    if backend == "coreml":
        return "weights"
    return "static" if reproducible else "dynamic"


def _usual_selection(backend: str, profile: DeviceProfile | None) -> Selection:
    """topk and gather leave the Neural Engine, and tokens then travel to the CPU and back at each selection."""
    if backend == "xnnpack":
        return "topk"
    return "rank" if profile is None or any(unit.kind == "npu" for unit in profile.peaks.accelerators) else "topk"


def _budgets(text: str) -> tuple[float, ...]:
    """An argparse type: numbers of GMACs, separated by commas."""
    try:
        return tuple(positive_float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of GMACs such as 0.5,0.4") from error
