"""The accuracy in a checkpoint's header: both modes of ToFe against the dense model, image by image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tofe_edge.evaluation.evaluate import Evaluation, Predicted, evaluate_samples
from tofe_edge.evaluation.reference import Mode, Reference
from tofe_edge.evaluation.statistics import bootstrap_difference, mcnemar
from tofe_edge.io.dataset import Sample, find_samples
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe


@dataclass(frozen=True)
class Examined:
    """The accuracy of a net, and on which images it was right: keys are their places."""

    evaluation: Evaluation
    right: dict[Path, bool]


@dataclass(frozen=True)
class Validation:
    """Labelled images to examine nets on."""

    source: Path
    samples: tuple[Sample, ...]
    resize: str
    """One of those of :class:`tofe_edge.io.preprocessing.Preprocessing`."""
    name: str
    remarks: tuple[str, ...] = ()
    """What the source leaves out."""

    @classmethod
    def find(
        cls,
        source: Path,
        class_ids: tuple[str, ...] | list[str],
        resize: str,
        name: str | None,
        allow_empty: bool = False,
    ) -> Validation:
        """List the images. Raises :class:`InputError` if the source is unfit."""
        found = find_samples(source, class_ids, allow_empty)
        remarks = tuple(f"validation: {remark}" for remark in found.coverage.remarks)
        return cls(source, tuple(found), resize, name or source.resolve().name, remarks)

    def examine(self, model: ToFe, counts: TokenCounts | None, mode: Mode) -> Examined:
        """Run a net on all images, on the CPU. Raises :class:`InputError` if none can be read."""
        right: dict[Path, bool] = {}

        def note(predicted: Predicted) -> None:
            right[predicted.sample.location] = int(predicted.prediction.logits.argmax()) == predicted.sample.label

        spec = replace(model.backbone.preprocessing, resize=self.resize)
        reference = Reference(model.eval(), counts, mode, torch.device("cpu"), model.backbone.preprocessing)
        return Examined(evaluate_samples(reference, self.source, self.samples, spec, witness=note), right)


def dense_record(dense: Examined, dataset: str) -> dict[str, Any]:
    """Return what the header of a dense net says of its accuracy."""
    found = dense.evaluation
    return {
        "top1": found.top1,
        "top1_interval": list(found.top1_interval),
        "top5": found.top5,
        "images": found.images,
        "dataset": dataset,
        "mode": "dense",
    }


def accuracy_record(dense: Examined, batch: Examined, instance: Examined, dataset: str) -> dict[str, Any]:
    """Return what the header says of accuracy, in per cent; intervals are 95 % ones.

    ``top1`` and ``top5`` are batch-adaptive. ``drop_points`` is what is lost to the dense model, ``p_value`` that of
    McNemar's exact test.
    """
    return {
        **_mode(dense, batch),
        "dense_top1": dense.evaluation.top1,
        "dense_top1_interval": list(dense.evaluation.top1_interval),
        "dense_top5": dense.evaluation.top5,
        "images": batch.evaluation.images,
        "dataset": dataset,
        "mode": "batch",
        "instance": {
            **_mode(dense, instance),
            "gmacs": round(instance.evaluation.gmacs, 4),
            "mean_kept": [round(mean, 2) for mean in instance.evaluation.mean_kept],
        },
    }


def _mode(dense: Examined, tofe: Examined) -> dict[str, Any]:
    pairs = np.array([[dense.right[place], right] for place, right in tofe.right.items() if place in dense.right])
    difference = bootstrap_difference(pairs[:, 0], pairs[:, 1])
    drop = {"estimate": -difference.estimate, "low": -difference.high, "high": -difference.low}
    return {
        "top1": tofe.evaluation.top1,
        "top1_interval": list(tofe.evaluation.top1_interval),
        "top5": tofe.evaluation.top5,
        "drop_points": {key: round(value, 2) for key, value in drop.items()},
        "p_value": float(f"{mcnemar(pairs[:, 0], pairs[:, 1]).p_value:.2g}"),
    }
