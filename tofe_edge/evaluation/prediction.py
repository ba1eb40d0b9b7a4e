"""What any form of the model predicts for one image, and what that says of patches: which each stage computes, and how often.

A net with S selections has S + 1 stages of blocks: the first computes every patch, stage s of the others those that
selection s kept. Positions count the patches of the image, row by row from the top left.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import InputError


@dataclass(frozen=True)
class Prediction:
    """What a net gives, float32, and per stage the image positions of kept patch tokens, best first."""

    output: npt.NDArray[np.float32]
    """Logits ``(classes,)``, an embedding ``(D,)`` or features ``(N, D)``: see :data:`tofe_edge.io.artifact.OUTPUTS`."""
    kept: tuple[npt.NDArray[np.int64], ...]
    margins: tuple[float, ...] = ()
    """Per stage: the score of the last kept token less that of the first frozen one; empty if they are not known."""

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """The output of a classifier."""
        return self.output

    @property
    def margin(self) -> float:
        """The least of the margins; infinite if they are not known."""
        return min(self.margins, default=math.inf)


Predictor = Callable[[npt.NDArray[np.float32]], Prediction]
"""An input ``(1, 3, H, W)`` to a prediction."""


@dataclass(frozen=True)
class RankedClass:
    """One line of a top-k list; ``probability`` is the softmax of the logits."""

    index: int
    name: str
    probability: float


def probabilities(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Softmax over the last axis, in float64."""
    with np.errstate(over="ignore"):  # finite logits may lie further apart than the largest float: probability 0
        shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    shares: npt.NDArray[np.float64] = shifted / shifted.sum(-1, keepdims=True)
    return shares


def top_classes(logits: npt.NDArray[np.float32], names: list[str], count: int = 5) -> list[RankedClass]:
    """The ``count`` likeliest classes, best first."""
    shares = probabilities(logits)
    best = np.argsort(-shares, kind="stable")[:count]
    return [RankedClass(int(index), names[index], float(shares[index])) for index in best]


def compose_selections(selections: Sequence[npt.ArrayLike], kept: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """Image positions of the kept patch tokens of each stage, best first.

    Args:
        selections: one per stage; selection s indexes that stage's input tokens, which stand in the order
            of selection s - 1.
        kept: ``(N^1, …, N^S)``.
    """
    positions: npt.NDArray[np.int64] | None = None
    result = []
    for selection, count in zip(selections, kept):
        index = np.asarray(selection, dtype=np.int64)
        positions = index if positions is None else positions[index]
        result.append(positions[:count])
    return result


Mask = npt.NDArray[np.bool_]
"""``(S, N)``: one row per selection, one column per patch."""


def kept_mask(kept: Sequence[npt.ArrayLike], patch_tokens: int) -> Mask:
    """Which patches each selection kept.

    Args:
        kept: per selection the positions of the patches it kept, in any order.
        patch_tokens: N.

    Raises:
        InputError: a position is not one of the N patches.
    """
    mask = np.zeros((len(kept), patch_tokens), np.bool_)
    for stage, positions in enumerate(kept):
        index = np.asarray(positions, np.int64)
        if index.size and not 0 <= int(index.min()) <= int(index.max()) < patch_tokens:
            raise InputError(f"stage {stage + 1} keeps a patch that is none of {patch_tokens}; convert the model again")
        mask[stage, index] = True
    return mask


def reused_mask(kept: Mask) -> Mask:
    """Which patches each selection kept although an earlier one, not only the last, had frozen them (Fig. 8, Table VII)."""
    frozen_so_far = np.logical_or.accumulate(~kept, axis=0)
    reused = np.zeros_like(kept)
    reused[1:] = kept[1:] & frozen_so_far[:-1]
    return reused


def stages_computed(kept: Mask) -> npt.NDArray[np.int64]:
    """How many of the S + 1 stages compute each patch: ``(N,)``, from 1 to S + 1 (last column of Fig. 8)."""
    computed: npt.NDArray[np.int64] = 1 + kept.sum(axis=0, dtype=np.int64)
    return computed


def reused_counts(kept: Sequence[npt.ArrayLike], patch_tokens: int) -> tuple[int, ...]:
    """How many patches each selection reuses. Raises :class:`InputError` as :func:`kept_mask`."""
    return tuple(reused_mask(kept_mask(kept, patch_tokens)).sum(axis=1).tolist())


@dataclass(frozen=True)
class MeanUsage:
    """Means over images; empty tuples for a net without selections."""

    images: int
    patch_tokens: int
    kept: tuple[float, ...]
    reused: tuple[float, ...]

    @property
    def reused_share(self) -> tuple[float, ...]:
        """Mean reused over mean kept patches per selection (the ratio of Table VII)."""
        return tuple(reused / kept if kept else 0.0 for kept, reused in zip(self.kept, self.reused))

    @property
    def stages_computed(self) -> float:
        """The mean number of the S + 1 stages that compute a patch."""
        return 1 + sum(self.kept) / self.patch_tokens


PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class CountDistribution:
    """Numbers of tokens that one selection kept of at least one image."""

    mean: float
    std: float
    """Root of the mean squared difference from the mean."""
    percentiles: tuple[float, ...]
    """The counts at :data:`PERCENTILES`, interpolated linearly."""
    histogram: tuple[tuple[int, int], ...]
    """Token count and number of images, by count; counts of no image are left out."""

    @property
    def least(self) -> int:
        return self.histogram[0][0]

    @property
    def most(self) -> int:
        return self.histogram[-1][0]

    def to_json(self) -> dict[str, Any]:
        """Stable keys: add, never rename."""
        return {
            "mean": round(self.mean, 3),
            "std": round(self.std, 3),
            "min": self.least,
            "max": self.most,
            "percentiles": {f"p{at}": round(value, 2) for at, value in zip(PERCENTILES, self.percentiles)},
            "histogram": {str(count): images for count, images in self.histogram},
        }


def distributions(tallied: Sequence[tuple[tuple[int, ...], int]]) -> tuple[CountDistribution, ...]:
    """A distribution for each selection.

    Args:
        tallied: token counts ``(N^1, …, N^S)`` of an image, and how many images, at least one, have them.
    """
    if not tallied:
        return ()
    counts = np.array([kept for kept, _ in tallied], np.int64)
    images = np.array([number for _, number in tallied], np.int64)
    return tuple(_distribution(column, images) for column in counts.T)


def _distribution(counts: np.ndarray[Any, Any], images: np.ndarray[Any, Any]) -> CountDistribution:
    histogram: Counter[int] = Counter()
    for count, number in zip(counts.tolist(), images.tolist()):
        histogram[count] += number
    every = np.repeat(counts, images)
    return CountDistribution(
        mean=float(every.mean()),
        std=float(every.std()),
        percentiles=tuple(np.percentile(every, PERCENTILES).tolist()),
        histogram=tuple(sorted(histogram.items())),
    )
