"""ToFe beside other methods: the same backbone, crops, steps, optimizer and GMACs.

    python -m research.compare_methods --weights deit_tiny.safetensors --data train --validation val \\
        --methods tofe,evit,tome,random --steps 600 --out research/results/methods.yaml
    python -m research.compare_methods … --methods all --checkpoint tofe_deit_tiny_063

Every method has the dense net's blocks up to the first selection, but for the smaller images, of which all blocks are
trained. It learns from the dense net: its logits, and the method's own loss. Where selectors are
learned, that takes the first part of the steps, on masked tokens. The result file is written after every method: a call
that was interrupted is repeated with the methods that are missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import host
from research.evit import EViT
from research.method import LowerResolution, Method
from research.results import Results, Training, open_results, render, row_of, write_results
from research.tofe import LearnedToFe, RandomToFe
from research.tome import ToMe
from research.training import Course, fit
from research.validation import Validation, open_validation, predict
from tofe_edge.errors import InputError
from tofe_edge.io.files import sha256_of
from tofe_edge.io.labels import default_classes
from tofe_edge.io.tensors import read_tensors
from tofe_edge.model.backbones import BackboneAdapter, create_backbone
from tofe_edge.model.backbones.spec import parse_stages
from tofe_edge.model.checkpoint import load_model
from tofe_edge.model.choices import imagenet
from tofe_edge.model.macs import dense_macs, gmacs
from tofe_edge.model.tofe import ToFe
from tofe_edge.model.zoo import find_checkpoint
from tofe_edge.training.batches import Source, TrainingSet
from tofe_edge.training.counts import read_images
from tofe_edge.training.recipe import TrainingConfig, read_recipe
from tofe_edge.training.running import Running
from tofe_edge.training.teacher import Teacher
from tofe_edge.training.trainer import TrainingBatch, examples

_CPU = torch.device("cpu")

METHODS: dict[str, Callable[[BackboneAdapter, float], Method]] = {
    "tofe": LearnedToFe,
    "evit": EViT,
    "evit_untrained": EViT,
    "tome": ToMe,
    "tome_untrained": ToMe,
    "random": RandomToFe,
    "resolution": LowerResolution,
    "resolution_untrained": LowerResolution,
}
"""All compared methods by name; those called untrained have the dense net's weights."""
TOFE = ("tofe", "tofe_given")


def parse_methods(text: str) -> tuple[str, ...]:
    """``"evit,tome"`` or ``all`` to names, each once.

    Raises:
        InputError: a name is unknown.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return tuple(METHODS)
    unknown = sorted(set(names) - set(METHODS))
    if unknown:
        raise InputError(f"--methods: {unknown[0]!r} is unknown; choose from {', '.join(METHODS)}, or all")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Lab:
    """What all methods are made of, taught with and tested on."""

    teacher: ToFe
    data: TrainingSet
    images: Tensor
    """``(B, 3, H, W)``, on which learned token counts are measured."""
    validation: Validation
    course: Course
    target: float
    logs: Path

    def batches(self, steps: range) -> Iterator[TrainingBatch]:
        """Crops, and what the dense net makes of them."""
        return examples(self.data, Teacher(self.teacher, True), self.course.config, steps, Running(_CPU, workers=1))


def compare(lab: Lab, name: str, results: Results) -> None:
    """Train where the method is trained, evaluate, add to the results.

    Raises:
        InputError: the budget is out of the method's reach, or the disk is full.
    """
    torch.manual_seed(lab.course.config.seed)
    method = METHODS[name](lab.teacher.backbone, lab.target)
    training = Training("no")
    if not name.endswith("_untrained"):
        done = fit(method, lab.batches, lab.images, lab.course, lab.logs / name)
        training = Training("yes", done.steps, done.images, done.seconds)
    _add(lab, name, method, training, results)


def compare_checkpoint(lab: Lab, name: str, results: Results) -> None:
    """Evaluate a ToFe checkpoint, whose first blocks may be its own.

    Raises:
        InputError: there is none, or it is dense.
    """
    checkpoint = find_checkpoint(name)
    if checkpoint.token_counts is None:
        raise InputError(f"checkpoint {name!r} has no token counts: it is a dense backbone")
    method = LearnedToFe.of(load_model(checkpoint), checkpoint.token_counts)
    _add(lab, checkpoint.name, method, Training("elsewhere"), results)


def _add(lab: Lab, name: str, method: Method, training: Training, results: Results) -> None:
    logits, validation = predict(method, lab.validation), lab.validation
    labels = validation.labels.numpy()
    results.put(
        row_of(name, method.paper, method.gmacs(), method.describe(), training, logits, validation.dense, labels)
    )


_PACKAGES = ("torch", "timm", "numpy")
_SHA256_DIGITS = 16
_RECIPE = (
    "learning_rate=1e-3", "backbone_learning_rate=5e-5", "cls_weight=0", "distillation_weight=3", "budget_weight=67",
)  # fmt: skip


def run(arguments: argparse.Namespace, command: str) -> Path:
    """Compare the methods asked for; the file is written after each. Returns its path.

    Raises:
        InputError: an argument does not fit, data are unfit, or the disk is full.
    """
    names = parse_methods(arguments.methods)
    _check(arguments, names)
    config = _config(arguments)
    torch.set_num_threads(host.thread_count(arguments.threads))
    stages = parse_stages(arguments.select_before) if arguments.select_before else None
    net = create_backbone(arguments.backbone, stages=stages)
    net.load_dense(read_tensors(arguments.weights))
    teacher = ToFe(net).eval().requires_grad_(False)
    classes = imagenet() if net.spec.classes == 1000 else default_classes(net.spec.classes)
    sources = tuple(Source.parse(text) for text in arguments.data)
    data = TrainingSet.find(sources, classes.ids, config.held_out, config.seed)
    validation = open_validation(
        teacher, arguments.validation, classes.ids, arguments.validation_resize, arguments.limit
    )
    settings = _settings(arguments, config, sources, net.spec.stages, validation)
    results = open_results(arguments.out, settings, _call(command))
    course = Course(config, arguments.steps, arguments.selecting_share)
    logs = arguments.out.with_suffix(".logs")
    images = read_images(data.counted, net.preprocessing)
    lab = Lab(teacher, data, images, validation, course, arguments.target_gmacs, logs)
    dense = row_of(
        "dense",
        arguments.backbone,
        gmacs(dense_macs(net.spec)),
        "–",
        Training("elsewhere"),
        validation.dense,
        validation.dense,
        validation.labels.numpy(),
    )
    results.put(dense)
    for name in arguments.checkpoint:
        compare_checkpoint(lab, name, results)
        write_results(arguments.out, results, TOFE)
    for name in names:
        print(f"{name}: {METHODS[name].__name__}", file=sys.stderr)
        compare(lab, name, results)
        write_results(arguments.out, results, TOFE)
    print(render(results, TOFE), end="\n\n")
    out: Path = arguments.out
    return out


def _check(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    if not names and not arguments.checkpoint:
        raise InputError("--methods: names no method, and there is no --checkpoint; nothing to compare")
    if not 0 <= arguments.selecting_share < 1:
        raise InputError(f"--selecting-share {arguments.selecting_share:g}: is in [0, 1)")
    for name in ("steps", "limit"):
        number = getattr(arguments, name)
        if number is not None and number < 1:
            raise InputError(f"--{name.replace('_', '-')} {number}: is at least 1")


def _config(arguments: argparse.Namespace) -> TrainingConfig:
    recipe = read_recipe(None, [*_RECIPE, *arguments.settings])
    return TrainingConfig(**recipe.hyper_parameters(), target_gmacs=arguments.target_gmacs)


def _settings(
    arguments: argparse.Namespace,
    config: TrainingConfig,
    sources: Sequence[Source],
    selections: Sequence[int],
    validation: Validation,
) -> dict[str, Any]:
    """What rows that stand beside each other have in common."""
    # Steps stand in each row: a method that costs more a step may get fewer, and its row says so.
    ignored = ("epochs", "fixed_epochs", "gathered_epochs")
    return {
        "backbone": arguments.backbone,
        "weights": arguments.weights.name,
        "weights_sha256": sha256_of(arguments.weights)[:_SHA256_DIGITS],
        "selections": list(selections),
        "data": [f"{source.folder.resolve().name} x{source.repeats}" for source in sources],
        "validation": arguments.validation.resolve().name,
        "validation_resize": arguments.validation_resize,
        "validation_images": len(validation.labels),
        **({"validation_unreadable": validation.unreadable} if validation.unreadable else {}),
        "selecting_share": arguments.selecting_share,
        **{key: value for key, value in config.to_json().items() if key not in ignored},
    }


def _call(command: str) -> dict[str, Any]:
    return {
        "date": host.today(),
        "command": command,
        "threads": torch.get_num_threads(),
        "host": host.facts(),
        "versions": host.versions(_PACKAGES),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--backbone", default="deit_tiny_patch16_224", metavar="NAME", help="(%(default)s)")
    add("--select-before", metavar="A,B,C", help="blocks before which tokens are selected (default: the paper's)")
    add("--weights", type=Path, required=True, metavar="FILE", help="the dense net's")
    add("--data", action="append", required=True, metavar="DATA[:N]", help="as of `tofe-edge train`; may be repeated")
    add("--validation", type=Path, required=True, metavar="DATA", help="labelled images to test on")
    add("--validation-resize", choices=("short_side", "none"), default="short_side", help="as `evaluate --resize`")
    add("--limit", type=int, metavar="N", help="test on N of them, evenly over classes (default: all)")
    add("--target-gmacs", type=float, default=0.63, metavar="G", help="whole net (%(default)s)")
    add("--methods", default="", metavar="A,B", help=f"{', '.join(METHODS)}, or all")
    add("--checkpoint", action="append", default=[], metavar="NAME", help="a ToFe checkpoint to stand beside them")
    add("--steps", type=int, default=600, metavar="N", help="of training (%(default)s)")
    add(
        "--selecting-share", type=float, default=0.2, metavar="X", help="of them in which selectors learn (%(default)s)"
    )
    add(
        "--set",
        action="append",
        dest="settings",
        default=[],
        metavar="KEY=VALUE",
        help=f"a hyper-parameter as of `tofe-edge train --set` (here: {', '.join(_RECIPE)})",
    )
    add("--threads", default="all", metavar="N", help="of the CPU (%(default)s)")
    add("--out", type=Path, required=True, metavar="FILE", help="the result file; rows in it are kept")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit code."""
    return host.run_benchmark("research.compare_methods", parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
