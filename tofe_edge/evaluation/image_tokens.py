"""What became of the tokens of single images: to be drawn, listed, and searched for those with the fewest and the most."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tofe_edge.evaluation.evaluate import Predicted, predict_samples
from tofe_edge.evaluation.prediction import MeanUsage, RankedClass, reused_counts, top_classes
from tofe_edge.evaluation.reference import Reference
from tofe_edge.io.dataset import UNLABELLED, Sample
from tofe_edge.io.listing import LeftOut, Tally
from tofe_edge.io.preprocessing import Preprocessing, denormalize


@dataclass(frozen=True)
class ImageTokens:
    """One image: its likeliest class and what each selection did with its patches."""

    location: Path
    best: RankedClass | None
    """``None`` if the net has no head."""
    label: int | None
    """The index of its class; ``None`` if it is not known."""
    patch_tokens: int
    kept: tuple[tuple[int, ...], ...]
    """Positions of kept patches per selection, best first."""
    pixels: npt.NDArray[np.uint8] | None = None
    """``(S, S, 3)`` as the net sees it, if it is to be drawn."""

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of kept patches per selection."""
        return tuple(map(len, self.kept))

    @property
    def reused(self) -> tuple[int, ...]:
        """How many of them an earlier selection had frozen."""
        return reused_counts(self.kept, self.patch_tokens)


@dataclass(frozen=True)
class Traced:
    """The readable images in their order, and the others."""

    images: tuple[ImageTokens, ...]
    unreadable: tuple[Path, ...]
    left_out: tuple[LeftOut, ...] = ()
    """The others by cause."""

    def mean_usage(self) -> MeanUsage:
        """Means over the images, of which there is at least one."""
        return MeanUsage(
            images=len(self.images),
            patch_tokens=self.images[0].patch_tokens,
            kept=tuple(np.mean([image.counts for image in self.images], axis=0).tolist()),
            reused=tuple(np.mean([image.reused for image in self.images], axis=0).tolist()),
        )


def image_tokens(
    predicted: Predicted, names: Sequence[str], patch_tokens: int, draw_by: Preprocessing | None
) -> ImageTokens:
    """The tokens of a prediction, with pixels if the preprocessing that made its input is passed."""
    label = predicted.sample.label
    return ImageTokens(
        location=predicted.sample.location,
        best=top_classes(predicted.prediction.logits, list(names), 1)[0] if names else None,
        label=None if label == UNLABELLED else label,
        patch_tokens=patch_tokens,
        kept=tuple(tuple(positions.tolist()) for positions in predicted.prediction.kept),
        pixels=None if draw_by is None else shown_pixels(predicted.pixels, draw_by),
    )


def shown_pixels(pixels: npt.NDArray[np.float32], spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """An input ``(1, 3, H, W)`` as the picture ``(H, W, 3)`` that it was made of."""
    return np.ascontiguousarray(denormalize(pixels[0], spec).transpose(1, 2, 0).astype(np.uint8))


def trace(
    reference: Reference,
    source: Path,
    samples: Sequence[Sample],
    spec: Preprocessing,
    names: Sequence[str],
    drawn: Collection[Sample] = (),
) -> Traced:
    """Predict the samples of ``source`` and keep what became of their tokens, with pixels of those in ``drawn``.

    Raises:
        InputError: none of the samples can be read.
    """
    patch_tokens, with_pixels = reference.model.backbone.spec.patch_tokens, frozenset(drawn)
    images: list[ImageTokens] = []
    unreadable: list[Path] = []
    tally = Tally()
    for predicted in predict_samples(reference, source, samples, spec):
        if isinstance(predicted, Predicted):
            images.append(
                image_tokens(predicted, names, patch_tokens, spec if predicted.sample in with_pixels else None)
            )
        else:
            unreadable.append(predicted.sample.location)
            tally.add_unreadable(predicted.sample.location, predicted.reason)
    return Traced(tuple(images), tuple(unreadable), tally.left_out)


class Extremes:
    """The images of a stream with the fewest and with the most tokens (Fig. 10), ``number`` each, with pixels."""

    def __init__(self, number: int, names: Sequence[str], patch_tokens: int, spec: Preprocessing) -> None:
        self.patch_tokens = patch_tokens
        self._number, self._names, self._spec = number, names, spec
        self._fewest: list[tuple[int, int, Predicted]] = []
        self._most: list[tuple[int, int, Predicted]] = []
        self._seen = 0

    def see(self, predicted: Predicted) -> None:
        """Take an image into account. Among equals the one seen first has the fewest, so that no image is at both ends."""
        total = sum(len(positions) for positions in predicted.prediction.kept)
        self._seen += 1
        for heap, sign in ((self._fewest, -1), (self._most, 1)):
            entry = (sign * total, sign * self._seen, predicted)
            if len(heap) < self._number:
                heapq.heappush(heap, entry)
            elif entry > heap[0]:
                heapq.heapreplace(heap, entry)

    def fewest(self) -> tuple[ImageTokens, ...]:
        """The fewest first; of a short stream one half at most, and the most the other, so that no image is in both."""
        return self._images(self._fewest, self._seen // 2)

    def most(self) -> tuple[ImageTokens, ...]:
        """The most first."""
        return self._images(self._most, self._seen - self._seen // 2)

    def _images(self, heap: list[tuple[int, int, Predicted]], at_most: int) -> tuple[ImageTokens, ...]:
        ranked = sorted(heap, key=lambda entry: entry[:2], reverse=True)[:at_most]
        return tuple(image_tokens(predicted, self._names, self.patch_tokens, self._spec) for *_, predicted in ranked)
