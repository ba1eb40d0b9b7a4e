"""Predictions of the reference for a stream of images, and its accuracy on labelled ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_edge.evaluation.prediction import Prediction, reused_counts
from tofe_edge.evaluation.reference import Reference
from tofe_edge.evaluation.statistics import proportion_interval
from tofe_edge.io.dataset import Sample
from tofe_edge.io.inputs import none_usable, read_inputs
from tofe_edge.io.listing import LeftOut, Tally
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.backbones import Backbone
from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs


@dataclass(frozen=True)
class Predicted:
    """An image, its input ``(1, 3, H, W)`` float32, and what the reference says."""

    sample: Sample
    pixels: npt.NDArray[np.float32]
    prediction: Prediction


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, and why in one line."""

    sample: Sample
    reason: str


def predict_samples(
    reference: Reference, source: Path, samples: Sequence[Sample], spec: Preprocessing, batch: int = 16
) -> Iterator[Predicted | Unreadable]:
    """Predict the samples of ``source``; those of a batch that cannot be read come before the others of it.

    Raises:
        InputError: none of the samples can be read; known when all were tried.
    """
    loaded = read_inputs(samples, spec)
    unreadable, reason = 0, ""
    with progress_bar("evaluating", total=len(samples), unit="image") as bar:
        while some := list(islice(loaded, batch)):
            for item in some:
                if item.pixels is None:
                    unreadable, reason = unreadable + 1, reason or item.reason
                    yield Unreadable(item.sample, item.reason)
            readable = [(item.sample, item.pixels) for item in some if item.pixels is not None]
            if readable:
                predictions = reference.predict(np.concatenate([pixels for _, pixels in readable]))
                for (sample, pixels), prediction in zip(readable, predictions):
                    yield Predicted(sample, pixels, prediction)
            bar.update(len(some))
    if unreadable == len(samples):
        raise none_usable(source, unreadable, reason)


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
    """Images that could not be read and are not counted."""
    mean_reused: tuple[float, ...] = ()
    """Kept patches per selection that an earlier selection had frozen."""
    kept_counts: tuple[tuple[tuple[int, ...], int], ...] = ()
    """Token counts of an image, one per selection, and how many images have them; in the order of the counts."""
    left_out: tuple[LeftOut, ...] = ()
    """The unreadable ones by cause."""
    lost: tuple[int, ...] = ()
    """Classes of which every image is unreadable."""

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
        self._reused: Counter[tuple[int, ...]] = Counter()
        self._labels: set[int] = set()
        self._lost: set[int] = set()
        self._unreadable: list[Path] = []
        self._causes = Tally()

    def leave_out(self, item: Unreadable) -> None:
        self._unreadable.append(item.sample.location)
        self._causes.add_unreadable(item.sample.location, item.reason)
        self._lost.add(item.sample.label)

    def add(self, prediction: Prediction, label: int) -> None:
        best = np.argsort(-prediction.logits, kind="stable")[:5]
        self._labels.add(label)
        self._hits1 += int(best[0] == label)
        self._hits5 += int(label in best)
        self._kept[tuple(len(positions) for positions in prediction.kept)] += 1
        self._reused[reused_counts(prediction.kept, self._backbone.patch_tokens)] += 1

    def evaluation(self) -> Evaluation:
        images = self._kept.total()
        costs = [gmacs(tofe_macs(self._backbone, kept) if kept else dense_macs(self._backbone)) for kept in self._kept]
        weights = list(self._kept.values())
        interval = proportion_interval(self._hits1, images)
        return Evaluation(
            top1=100 * self._hits1 / images,
            top1_interval=(100 * interval.low, 100 * interval.high),
            top5=100 * self._hits5 / images,
            images=images,
            gmacs=float(np.average(costs, weights=weights)),
            mean_kept=_mean(self._kept),
            unreadable=tuple(self._unreadable),
            mean_reused=_mean(self._reused),
            kept_counts=tuple(sorted(self._kept.items())),
            left_out=self._causes.left_out,
            lost=tuple(sorted(self._lost - self._labels)),
        )


def _mean(tallied: Counter[tuple[int, ...]]) -> tuple[float, ...]:
    return tuple(np.average(list(tallied), axis=0, weights=list(tallied.values())).tolist())


def evaluate_samples(
    reference: Reference,
    source: Path,
    samples: Sequence[Sample],
    spec: Preprocessing,
    batch: int = 16,
    witness: Callable[[Predicted], None] | None = None,
) -> Evaluation:
    """Top-1 and top-5 of a reference on the samples of ``source``, with ``batch`` inputs at a time in memory.

    Args:
        witness: called with every prediction.

    Raises:
        InputError: none of the samples can be read.
    """
    tally = _Tally(reference.model.backbone.spec)
    for item in predict_samples(reference, source, samples, spec, batch):
        if isinstance(item, Predicted):
            tally.add(item.prediction, item.sample.label)
            if witness is not None:
                witness(item)
        else:
            tally.leave_out(item)
    return tally.evaluation()
