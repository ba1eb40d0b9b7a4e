"""Accuracy of the reference on labelled images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tofe_edge.backbones import Backbone
from tofe_edge.dataset import Sample
from tofe_edge.errors import InputError
from tofe_edge.inputs import Inputs, none_usable, read_inputs
from tofe_edge.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.prediction import Prediction
from tofe_edge.preprocessing import Preprocessing
from tofe_edge.progress import progress_bar
from tofe_edge.reference import Reference
from tofe_edge.statistics import proportion_interval


@dataclass(frozen=True)
class Evaluation:
    """Accuracy in per cent, with 95 % Wilson intervals; ``gmacs`` is the mean over images in instance mode."""

    top1: float
    top1_interval: tuple[float, float]
    top5: float
    images: int
    gmacs: float
    mean_kept: tuple[float, ...]
    unreadable: tuple[Path, ...] = ()
    """Where the images are that could not be read and are not counted."""

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


class _Tally:
    """Counts over images, however many there are."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._hits1 = self._hits5 = 0
        self._kept: Counter[tuple[int, ...]] = Counter()

    def add(self, prediction: Prediction, label: int) -> None:
        best = np.argsort(-prediction.logits, kind="stable")[:5]
        self._hits1 += int(best[0] == label)
        self._hits5 += int(label in best)
        self._kept[tuple(len(positions) for positions in prediction.kept)] += 1

    def evaluation(self, unreadable: Sequence[Path] = ()) -> Evaluation:
        images = self._kept.total()
        costs = [gmacs(tofe_macs(self._backbone, kept) if kept else dense_macs(self._backbone)) for kept in self._kept]
        weights = list(self._kept.values())
        return Evaluation(
            top1=100 * self._hits1 / images,
            top1_interval=wilson_interval(self._hits1, images),
            top5=100 * self._hits5 / images,
            images=images,
            gmacs=float(np.average(costs, weights=weights)),
            mean_kept=tuple(np.average(list(self._kept), axis=0, weights=weights).tolist()),
            unreadable=tuple(unreadable),
        )


def evaluate(reference: Reference, inputs: Inputs) -> Evaluation:
    """Top-1 and top-5 of a reference on labelled inputs in memory.

    Raises:
        InputError: the inputs have no labels.
    """
    if inputs.labels is None:
        raise InputError("accuracy needs labelled images; give a folder of class folders with --data")
    tally = _Tally(reference.model.backbone.spec)
    for prediction, label in zip(reference.predict_all(inputs.pixels), inputs.labels):
        tally.add(prediction, label)
    return tally.evaluation(inputs.unreadable)


def evaluate_samples(
    reference: Reference, source: Path, samples: Sequence[Sample], spec: Preprocessing, batch: int = 16
) -> Evaluation:
    """Top-1 and top-5 of a reference on the samples of ``source``, with ``batch`` inputs at a time in memory.

    Raises:
        InputError: none of the samples can be read.
    """
    tally = _Tally(reference.model.backbone.spec)
    loaded = read_inputs(samples, spec)
    unreadable: list[Path] = []
    reason = ""
    with progress_bar("evaluating", total=len(samples), unit="image") as bar:
        while some := list(islice(loaded, batch)):
            pixels = [item.pixels for item in some if item.pixels is not None]
            labels = [item.sample.label for item in some if item.pixels is not None]
            corrupt = [item for item in some if item.pixels is None]
            reason = reason or next((item.reason for item in corrupt), "")
            unreadable += [item.sample.location for item in corrupt]
            for prediction, label in zip(reference.predict(np.concatenate(pixels)) if pixels else (), labels):
                tally.add(prediction, label)
            bar.update(len(some))
    if len(unreadable) == len(samples):
        raise none_usable(source, len(unreadable), reason)
    return tally.evaluation(unreadable)


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a rate, in per cent (Wilson 1927)."""
    interval = proportion_interval(hits, trials)
    return 100 * interval.low, 100 * interval.high
