"""Accuracy of the reference on labelled images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tofe_edge.errors import InputError
from tofe_edge.inputs import Inputs
from tofe_edge.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.progress import progress_bar
from tofe_edge.reference import Reference


@dataclass(frozen=True)
class Evaluation:
    """Accuracy in per cent, with 95 % Wilson intervals; ``gmacs`` is the mean over images in instance mode."""

    top1: float
    top1_interval: tuple[float, float]
    top5: float
    images: int
    gmacs: float
    mean_kept: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The stable keys of ``tofe-edge evaluate --json``, and the interval and mean kept counts."""
        return {
            "top1": round(self.top1, 3),
            "top1_interval": [round(value, 3) for value in self.top1_interval],
            "top5": round(self.top5, 3),
            "images": self.images,
            "gmacs": round(self.gmacs, 4),
            "mean_kept": [round(value, 2) for value in self.mean_kept],
        }


def evaluate(reference: Reference, inputs: Inputs) -> Evaluation:
    """Top-1 and top-5 of a reference on labelled inputs.

    Raises:
        InputError: the inputs have no labels.
    """
    if inputs.labels is None:
        raise InputError("accuracy needs labelled images; give a folder of class folders with --data")
    spec = reference.model.backbone.spec
    hits1 = hits5 = 0
    costs: list[float] = []
    kept: list[list[int]] = []
    with progress_bar("evaluating", total=len(inputs.pixels), unit="image") as bar:
        for prediction, label in zip(reference.predict_all(inputs.pixels), inputs.labels):
            best = np.argsort(-prediction.logits, kind="stable")[:5]
            hits1 += int(best[0] == label)
            hits5 += int(label in best)
            counts = [len(positions) for positions in prediction.kept]
            costs.append(gmacs(tofe_macs(spec, counts) if counts else dense_macs(spec)))
            kept.append(counts)
            bar.update(1)
    images = len(inputs.pixels)
    return Evaluation(
        top1=100 * hits1 / images,
        top1_interval=wilson_interval(hits1, images),
        top5=100 * hits5 / images,
        images=images,
        gmacs=float(np.mean(costs)),
        mean_kept=tuple(np.mean(kept, axis=0).tolist()) if kept[0] else (),
    )


def wilson_interval(hits: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % confidence interval of a rate, in per cent (Wilson 1927)."""
    rate = hits / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)
