"""A reference's predictions for a stream of images, with a batch of them in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.evaluation.reference import Reference
from tofe_edge.io.dataset import Sample
from tofe_edge.io.inputs import none_usable, read_inputs
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.io.progress import progress_bar


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
