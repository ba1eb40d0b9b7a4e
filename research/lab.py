"""The comparison of methods: what they are made of, taught with and tested on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from research.catalog import METHODS
from research.crops import batches_from_crops, prepare_crops
from research.freezing import Freezing
from research.method import Method
from research.results import Results, Training, row_of
from research.tables import accuracy_by_batch, reuse_by_stage
from research.training import Course, TrainingBatches, fit
from research.validation import Validation, predict, stems_of
from tofe_edge.errors import InputError
from tofe_edge.model.checkpoint import load_model
from tofe_edge.model.tofe import ToFe
from tofe_edge.model.zoo import find_checkpoint
from tofe_edge.training.batches import TrainingSet
from tofe_edge.training.teacher import TrainingBatch
from tofe_edge.training.views import ViewRecipe, Views, batches_from_views

_CPU = torch.device("cpu")


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


def compare(lab: Lab, name: str, results: Results, with_tables: bool) -> None:
    """Train where the method is trained, evaluate, add to the results.

    Raises:
        InputError: the budget is out of the method's reach, or the disk is full.
    """
    torch.manual_seed(lab.course.config.seed)
    method = METHODS[name](lab.teacher.backbone, lab.target)
    training = Training("no")
    if method.trained:
        done = fit(method, lab.batches(method), lab.views, lab.course, lab.logs / name)
        training = Training("yes", done.steps, done.images, done.seconds)
    _add(lab, name, method, training, None, results)
    if with_tables and isinstance(method, Freezing):
        _add_tables(lab, name, method, lab.validation.stems, results, method.selects and method.learns_counts)


def compare_checkpoint(lab: Lab, name: str, results: Results, with_tables: bool) -> None:
    """Evaluate a ToFe checkpoint, whose first blocks may be its own.

    Raises:
        InputError: there is none, or it is dense.
    """
    checkpoint = find_checkpoint(name)
    if checkpoint.token_counts is None:
        raise InputError(f"checkpoint {name!r} has no token counts: it is a dense backbone")
    method = Freezing.of(load_model(checkpoint), checkpoint.token_counts)
    stems = stems_of(method, lab.validation)
    _add(lab, checkpoint.name, method, Training("elsewhere"), stems, results)
    if with_tables:
        _add_tables(lab, checkpoint.name, method, stems, results, True)


def _add(lab: Lab, name: str, method: Method, training: Training, stems: Tensor | None, results: Results) -> None:
    logits, validation = predict(method, lab.validation, stems), lab.validation
    labels = validation.labels.numpy()
    results.put(
        row_of(name, method.paper, method.gmacs(), method.describe(), training, logits, validation.dense, labels)
    )


def _add_tables(lab: Lab, name: str, method: Freezing, stems: Tensor, results: Results, decides: bool) -> None:
    """Accuracy by batch size where selectors decide how many tokens they want; where counts are given, thresholds mean nothing."""
    if decides:
        results.tables[f"{name}, by batch size"] = [
            {
                "batch": row.batch,
                "top1": round(100 * row.top1.estimate, 2),
                "low": round(100 * row.top1.low, 2),
                "high": round(100 * row.top1.high, 2),
                "gmacs": round(row.gmacs, 4),
            }
            for row in accuracy_by_batch(method, stems, lab.validation.labels)
        ]
    results.tables[f"{name}, reused tokens"] = [
        {"stage": row.stage, "kept": row.kept, "reused": round(row.reused, 2), "share": round(row.share, 4)}
        for row in reuse_by_stage(method, stems)
    ]
