"""``tofe-edge train``: put ToFe on a dense backbone and train it to a budget."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tofe_edge.cli.options import add_allow_empty, add_dense_weights, keywords, positive_float
from tofe_edge.cli.output import emit, facts, threads
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.model.choices import source_facts
from tofe_edge.training.recipe import KEYS, shipped_recipes
from tofe_edge.workflows.train import train


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    shipped = " or ".join(shipped_recipes())
    keys = ", ".join(key if default is None else f"{key}={default}" for key, default in KEYS.items())
    parser.description = (
        f"{parser.description} Folders of other classes than the dense net's give it a new head, and a fifth of them is "
        "held out to measure accuracy on. "
        "An interrupted run goes on where it was when called again."
    )
    parser.epilog = f"Keys of a recipe and of --set, with their defaults: {keys}. docs/training.md says what they do."
    add = parser.add_argument
    add_dense_weights(parser)
    add(
        "--data",
        action="append",
        required=True,
        metavar="DATA[:REPEATS]",
        help="training images: as evaluate --data, or without labels if the recipe has cls_weight 0; may be repeated",
    )
    add(
        "--validation",
        type=Path,
        metavar="DATA",
        help="labelled images on which accuracy is measured at the end (default: of own classes a fifth of --data)",
    )
    add_allow_empty(parser)
    add(
        "--start",
        metavar="CKPT",
        help="go on from a ToFe checkpoint, best one of `reduce`; its budgets are those of the run if none is given",
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--target-gmacs",
        type=positive_float,
        metavar="G",
        help="whole-net budget; own classes without one give a dense net",
    )
    target.add_argument(
        "--target-ms",
        type=positive_float,
        metavar="T",
        help="the same in milliseconds per image, as the latency table of --set profile=PROFILE predicts them",
    )
    add(
        "--recipe",
        metavar="NAME",
        help=f"how to train: {shipped}, or a YAML file (default: paper; reduced for a --start of reduce; own_classes for other classes)",
    )
    add(
        "--set",
        action="append",
        dest="settings",
        default=[],
        metavar="KEY=VALUE",
        help="another value for a key of the recipe; may be repeated",
    )
    add("--out", type=Path, required=True, metavar="FILE", help="the checkpoint to write (.safetensors)")
    for key in KEYS:  # the options of earlier versions
        add(f"--{key.replace('_', '-')}", action=_AsSetting, dest="settings", help=argparse.SUPPRESS)
    parser.set_defaults(renamed=[])


class _AsSetting(argparse.Action):
    """An option of earlier versions: ``--key value`` is ``--set key=value``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setting = f"{self.option_strings[0][2:].replace('-', '_')}={values}"
        namespace.settings = [*namespace.settings, setting]
        namespace.renamed = [*namespace.renamed, setting]


def run(args: argparse.Namespace) -> int:
    """Train, measure, write."""
    if args.renamed:
        now = " ".join(f"--set {setting}" for setting in args.renamed)
        print(f"tofe-edge: note: options of earlier versions will go; write {now}", file=sys.stderr)
    checkpoint = train(args.data, args.out, **keywords(train, args))
    if checkpoint.path != Path():  # of several processes one writes
        emit(args.json, _to_json(checkpoint), _describe(checkpoint))
    return 0


def _to_json(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "checkpoint": str(checkpoint.path),
        "token_counts": list(checkpoint.token_counts.kept) if checkpoint.token_counts else None,
        "gmacs": checkpoint.gmacs,
        "accuracy": checkpoint.accuracy,
        "training": checkpoint.training,
    }


def _describe(checkpoint: Checkpoint) -> str:
    record = checkpoint.training or {}
    counts = checkpoint.token_counts
    rows: list[tuple[str, Any]] = [
        *source_facts(checkpoint),
        *_describe_own(checkpoint),
        ("tokens kept", f"{counts} per stage" if counts else "all (dense)"),
        ("GMACs", f"{checkpoint.gmacs:.3f} of {checkpoint.dense_gmacs:.3f} dense"),
    ]
    budget = record.get("budget", {})
    if budget.get("unit") == "ms":
        where = f"{budget['profile']} in {budget['precision']} with {threads(budget['threads'])}"
        rows.append(
            ("latency", f"{budget['predicted']:.2f} ms predicted on {where}; the target was {budget['target']:g}")
        )
    if accuracy := checkpoint.accuracy:
        dense = ""
        if "dense_top1" in accuracy:
            dense = f"; dense {_percent(accuracy['dense_top1'], accuracy.get('dense_top1_interval'))}"
        rows.append(("top-1", f"{_percent(accuracy['top1'], accuracy['top1_interval'])}{dense}"))
        rows.append(("measured on", f"{accuracy['images']} images, {accuracy['dataset']}; 95 % intervals"))
    rows += [("warning", warning) for warning in record.get("warnings", [])]
    rows.append(("wrote", checkpoint.path))
    if "dense" in record:
        rows.append(("", f"{checkpoint.path.with_name(record['dense'])}, the dense net"))
    rows.append(("next", ["tofe-edge", "convert", "--checkpoint", checkpoint.path]))
    return facts(rows)


def _percent(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:.2f} %" + (f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else "")


def _describe_own(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """What was learned from folders of own classes."""
    own = (checkpoint.training or {}).get("own_classes")
    if own is None:
        return []
    tuned = own["fine_tuned"]
    kept = "kept" if tuned and tuned["kept"] else "not kept, it did not help"
    how = f", {tuned['epochs']:g} epochs of fine-tuning ({kept})" if tuned else ""
    return [
        ("learned from", f"{own['trained_on']} pictures, {own['set_aside']} set aside for choices: a new head{how}")
    ]
