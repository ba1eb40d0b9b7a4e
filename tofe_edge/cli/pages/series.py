"""Long measurements made short enough to draw: medians of equal stretches, and what a few samples do far from all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from tofe_edge.cli.pages.charts import Line

_STRETCHES = 160


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: a value that was measured."""
    return float(np.percentile(samples, percent, method="inverted_cdf"))


@dataclass(frozen=True)
class Bulk:
    """Samples without the few far above all others."""

    samples: tuple[float, ...]
    left_out: tuple[float, ...]


def bulk_of(samples: Sequence[float]) -> Bulk:
    """Cut where the 99th percentile ends, and its distance from the median once more."""
    cut = 2 * percentile(samples, 99) - percentile(samples, 50)
    return Bulk(tuple(one for one in samples if one <= cut), tuple(sorted(one for one in samples if one > cut)))


def course(name: str, points: Sequence[tuple[float, float]], stretches: int = _STRETCHES) -> Line:
    """A line with at most ``stretches`` points: of each equal stretch of x the median, and a band from its least to its
    largest value. Few points stay as they are, without a band."""
    if len(points) <= stretches:
        return Line(name, tuple(points))
    first, last = points[0][0], points[-1][0]
    found: dict[int, list[tuple[float, float]]] = {}
    for x, y in points:
        share = (x - first) / (last - first) if last > first else 0.0
        found.setdefault(min(int(share * stretches), stretches - 1), []).append((x, y))
    parts = [found[key] for key in sorted(found)]
    return Line(
        name,
        tuple((median(x for x, _ in part), median(y for _, y in part)) for part in parts),
        tuple((min(y for _, y in part), max(y for _, y in part)) for part in parts),
    )
