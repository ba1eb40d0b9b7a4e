"""Medians of times and how sure they are, without assuming a distribution: latencies have none with a name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value, and the ends of the interval that holds the true one in 95 % of such measurements."""

    value: float
    low: float
    high: float


def median_of(samples: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Median of independent samples and its interval between two of them, by the sign test.

    With fewer than 6 samples no two of them enclose the median with 95 %: the interval is open (infinite).

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("there are no samples")
    ordered = sorted(samples)
    cut = _left_out(len(ordered), confidence)
    low, high = (-math.inf, math.inf) if cut is None else (ordered[cut], ordered[-1 - cut])
    return Estimate(float(np.median(ordered)), low, high)


def _left_out(count: int, confidence: float) -> int | None:
    """How many samples may be left out at either end; ``None`` where even all of them are not enough."""
    tail, most = 0.0, (1 - confidence) / 2
    for cut in range(count // 2 + 1):
        # The probability that at most `cut` of `count` samples lie below the median.
        tail += math.comb(count, cut) / 2.0**count if count < 1000 else _normal_term(count, cut)
        if tail > most:
            return cut - 1 if cut else None
    return None


def _normal_term(count: int, cut: int) -> float:
    # comb(count, cut) overflows a float beyond a thousand samples.
    return math.exp(math.lgamma(count + 1) - math.lgamma(cut + 1) - math.lgamma(count - cut + 1) - count * math.log(2))
