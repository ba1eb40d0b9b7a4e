"""The comparison of methods: what they are made of, taught with and tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from research.crops import batches_from_crops, prepare_crops
from research.evit import EViT
from research.method import Method
from research.resolution import LowerResolution
from research.results import Results, Training, row_of
from research.tofe import GivenToFe, LearnedToFe, RandomToFe
from research.tome import ToMe, ToMeEverywhere
from research.training import Course, TrainingBatches, fit
from research.validation import Validation, predict, stems_of
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import BackboneAdapter
from tofe_edge.model.checkpoint import load_model
from tofe_edge.model.tofe import ToFe
from tofe_edge.model.zoo import find_checkpoint
from tofe_edge.training.batches import TrainingBatch, TrainingSet
from tofe_edge.training.views import ViewRecipe, Views, batches_from_views

_CPU = torch.device("cpu")

METHODS: dict[str, Callable[[BackboneAdapter, float], Method]] = {
    "tofe": LearnedToFe,
    "tofe_given": GivenToFe,
    "evit": EViT,
    "evit_untrained": EViT,
    "tome": ToMe,
    "tome_untrained": ToMe,
    "tome_everywhere_untrained": ToMeEverywhere,
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
    recipe: ViewRecipe
    views: Views
    folder: Path
    """The folder of the views."""
    validation: Validation
    course: Course
    target: float
    logs: Path

    def batches(self, method: Method) -> TrainingBatches:
        """From tokens, or from the images of the same crops."""
        config = self.course.config
        if not type(method).from_images:

            def from_views(steps: range) -> Iterator[TrainingBatch]:
                return batches_from_views(self.views, config, steps, _CPU)

            return from_views
        preprocessing = self.teacher.backbone.preprocessing
        crops = prepare_crops(
            self.folder, self.data.train, preprocessing, self.recipe, len(self.views), method.image_size
        )

        def from_crops(steps: range) -> Iterator[TrainingBatch]:
            return batches_from_crops(crops, self.views, preprocessing, config, steps)

        return from_crops


def compare(lab: Lab, name: str, results: Results) -> None:
    """Train where the method is trained, evaluate, add to the results.

    Raises:
        InputError: the budget is out of the method's reach, or the disk is full.
    """
    torch.manual_seed(lab.course.config.seed)
    method = METHODS[name](lab.teacher.backbone, lab.target)
    training = Training("no")
    if not name.endswith("_untrained"):
        done = fit(method, lab.batches(method), lab.views, lab.course, lab.logs / name)
        training = Training("yes", done.steps, done.images, done.seconds)
    _add(lab, name, method, training, None, results)


def compare_checkpoint(lab: Lab, name: str, results: Results) -> None:
    """Evaluate a ToFe checkpoint, whose first blocks may be its own.

    Raises:
        InputError: there is none, or it is dense.
    """
    checkpoint = find_checkpoint(name)
    if checkpoint.token_counts is None:
        raise InputError(f"checkpoint {name!r} has no token counts: it is a dense backbone")
    method = LearnedToFe.of(load_model(checkpoint), checkpoint.token_counts)
    _add(lab, checkpoint.name, method, Training("elsewhere"), stems_of(method, lab.validation), results)


def _add(lab: Lab, name: str, method: Method, training: Training, stems: Tensor | None, results: Results) -> None:
    logits, validation = predict(method, lab.validation, stems), lab.validation
    labels = validation.labels.numpy()
    results.put(
        row_of(name, method.paper, method.gmacs(), method.describe(), training, logits, validation.dense, labels)
    )
