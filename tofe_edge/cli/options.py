"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any


def keywords(function: Callable[..., Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that are keyword parameters of a workflow, by the same names."""
    parameters = signature(function).parameters.values()
    return {
        one.name: getattr(args, one.name) for one in parameters if one.kind == one.KEYWORD_ONLY and one.name in args
    }


def positive_int(text: str) -> int:
    """Convert an argument to a whole number of at least 1, which every runtime can hold."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    if value >= 2**31:
        raise argparse.ArgumentTypeError(f"{text} is more than {2**31 - 1}")
    return value


def positive_float(text: str) -> float:
    """Convert an argument to a finite number greater than 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number greater than 0")
    return value


def positive_floats(text: str) -> tuple[float, ...]:
    """Convert an argument to numbers greater than 0, separated by commas."""
    try:
        return tuple(positive_float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.5,0.4") from error


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``MODEL``."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a .pte, .mlpackage or .onnx with its manifest beside it"
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint`` and ``--backbone``."""
    parser.add_argument(
        "--checkpoint", metavar="C", help="a shipped checkpoint's name or a file (default: chosen by budget)"
    )
    add_backbone(parser)


def add_backbone(parser: argparse._ActionsContainer) -> None:
    """Add ``--backbone``."""
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="the net of plain dense weights, such as deit_tiny_patch16_224 "
        "(default: by the config beside them, or by their shapes)",
    )


def add_naming(parser: argparse._ActionsContainer) -> None:
    """Add ``--labels`` and ``--preprocessing``."""
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="class names in the order of the logits: a text file, one per line, a JSON file, a folder of class folders, or "
        "imagenet (default: what the checkpoint, or the config beside the weights, says)",
    )
    parser.add_argument(
        "--preprocessing",
        metavar="P",
        help="imagenet, inception or clip (mean and standard deviation), or a JSON or YAML file with mean, std, crop_pct, "
        "interpolation (default: the checkpoint's, the config's beside the weights, or the backbone's name's)",
    )


def add_dense_weights(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Add ``--weights`` or ``--pretrained``, ``--labels`` and ``--preprocessing``."""
    weights = parser.add_mutually_exclusive_group(required=required)
    weights.add_argument(
        "--weights", type=Path, metavar="FILE", help="dense weights: safetensors or PyTorch's, of any suffix"
    )
    weights.add_argument("--pretrained", action="store_true", help="fetch timm's published weights")
    add_naming(parser)


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Add ``--profile``, ``--max-gmacs`` and ``--max-latency-ms``."""
    parser.add_argument(
        "--profile", metavar="P", help="a shipped device profile, or a YAML file; `tofe-edge devices` lists them"
    )
    parser.add_argument(
        "--max-gmacs",
        type=positive_float,
        metavar="G",
        help="budget in 1e9 multiply-accumulates, in place of the profile's",
    )
    parser.add_argument(
        "--max-latency-ms",
        type=positive_float,
        metavar="T",
        help="what one image may take on the profile's device, by the table that `tofe-edge calibrate` measured there; "
        "chooses checkpoint, token counts and precision",
    )


def add_data(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Add ``--data``, ``--limit``, ``--resize`` and ``--allow-empty``."""
    parser.add_argument("--data", type=Path, metavar="DATA", help=help_text)
    parser.add_argument(
        "--limit", type=positive_int, metavar="N", help="use N images, spread evenly over the classes (default: all)"
    )
    parser.add_argument(
        "--resize",
        choices=("short_side", "none"),
        help="none: images are stored at crop size already, only the centre is cut out (default: the model's own)",
    )
    add_allow_empty(parser)


def add_allow_empty(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-empty``."""
    parser.add_argument(
        "--allow-empty",
        action="store_true",
        help="go on without classes of which there is a folder, but no image that can be read",
    )


def add_device(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--device``, for what computes in PyTorch."""
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help=f"{what} (default: auto)")


def add_method(parser: argparse.ArgumentParser) -> None:
    """Add ``--method``."""
    parser.add_argument(
        "--method", default="forward", metavar="NAME", help="which budget of an elastic model (default: forward)"
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``."""
    parser.add_argument(
        "--threads", type=positive_int, default=1, metavar="N", help="threads of the runtime (default: 1)"
    )


def add_provider(parser: argparse.ArgumentParser) -> None:
    """Add ``--provider``."""
    parser.add_argument(
        "--provider",
        metavar="NAME",
        help="what computes an .onnx model: cuda, tensorrt, openvino, qnn, … if ONNX Runtime was built with it (default: cpu)",
    )


def add_on(parser: argparse.ArgumentParser) -> None:
    """Add ``--on``, ``--runner`` and ``--cpus``: where a model is timed."""
    parser.add_argument(
        "--on",
        default="host",
        metavar="WHERE",
        help="host, ssh://[USER@]HOST[:PORT], adb or adb://SERIAL (default: host)",
    )
    add_runner(parser)
    parser.add_argument("--cpus", default="", metavar="LIST", help="cores to run on, as 0,2-3 (default: any)")


def add_runner(parser: argparse._ActionsContainer) -> None:
    """Add ``--runner``, for commands with ``--on``."""
    parser.add_argument(
        "--runner",
        type=Path,
        metavar="DIR",
        help="folder of a tofe_runner built for the device (default: built here; Android needs it, docs/native.md)",
    )
