"""Options that several commands share."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.errors import InputError

if TYPE_CHECKING:
    from tofe_edge.io.preprocessing import Preprocessing
    from tofe_edge.model.checkpoint import Checkpoint
    from tofe_edge.profiles import DeviceProfile


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def positive_float(text: str) -> float:
    """An argparse type: a finite number greater than 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number greater than 0")
    return value


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """``--checkpoint`` and ``--backbone``."""
    parser.add_argument(
        "--checkpoint", metavar="C", help="a shipped checkpoint's name or a file (default: chosen by budget)"
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="the net of plain dense weights given with --checkpoint, such as deit_tiny_patch16_224",
    )


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
    """``--data``, ``--limit`` and ``--resize``."""
    parser.add_argument("--data", type=Path, metavar="DATA", help=help_text)
    parser.add_argument("--limit", type=positive_int, metavar="N", help="use N images, spread evenly over the classes")
    parser.add_argument(
        "--resize",
        choices=("short_side", "none"),
        help="none: images are stored at crop size already, only the centre is cut out (default: the model's own)",
    )


def add_method(parser: argparse.ArgumentParser) -> None:
    """``--method``."""
    parser.add_argument(
        "--method", default="forward", metavar="NAME", help="which budget of an elastic model (default: forward)"
    )


def add_runner(parser: argparse.ArgumentParser) -> None:
    """``--runner``, for commands with ``--on``."""
    parser.add_argument(
        "--runner",
        type=Path,
        metavar="DIR",
        help="folder of a tofe_runner built for the device (default: built here; Android needs it, docs/native.md)",
    )


def preprocessing_for(spec: Preprocessing, args: Any) -> Preprocessing:
    """The model's preprocessing, with ``--resize`` applied where it is given."""
    return spec if args.resize is None else replace(spec, resize=args.resize)


def open_checkpoint(name: str, backbone: str | None) -> Checkpoint:
    """A checkpoint by name or path; with ``backbone``, plain dense weights become a dense checkpoint.

    Raises:
        InputError: there is no such checkpoint, or the weights are of another net.
    """
    if backbone is not None:
        from tofe_edge.model.checkpoint import describe_dense

        return describe_dense(Path(name), backbone)
    from tofe_edge.model.zoo import find_checkpoint

    return find_checkpoint(name)


def open_profile(name: str) -> DeviceProfile:
    """A device profile by name or path. Raises ``profiles.ProfileError``."""
    from tofe_edge.profiles import load_profile

    return load_profile(name)


def require(condition: bool, message: str) -> None:
    """Raise :class:`InputError` with ``message`` unless ``condition``."""
    if not condition:
        raise InputError(message)
