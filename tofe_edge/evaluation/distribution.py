"""How the number of kept tokens is distributed over images, a selection each (Fig. 9). Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class CountDistribution:
    """Numbers of tokens that one selection kept of at least one image."""

    mean: float
    std: float
    """Root of the mean squared difference from the mean."""
    percentiles: tuple[float, ...]
    """At :data:`PERCENTILES`, interpolated linearly."""
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
