"""Intervals of medians against the binomial distribution, and against many drawn samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tofe_edge.runtimes.medians import median_of


def left_out(count: int) -> int | None:
    """From the distribution itself: how many samples the interval may leave out at either end."""
    fitting = [cut for cut in range(count // 2 + 1) if binom.cdf(cut, count, 0.5) <= 0.025]
    return max(fitting, default=None)


@pytest.mark.parametrize("count", [1, 5, 6, 7, 8, 9, 10, 20, 50, 999, 1000, 1001, 5000])
def test_the_interval_lies_where_the_sign_test_puts_it(count: int) -> None:
    found, cut = median_of(range(count)), left_out(count)
    assert found.value == (count - 1) / 2
    assert (found.low, found.high) == ((-math.inf, math.inf) if cut is None else (cut, count - 1 - cut))


def test_the_interval_holds_the_median_in_95_of_100_measurements() -> None:
    generator = np.random.default_rng(0)
    # Latencies lean to one side; their median is not their mean.
    draws = generator.lognormal(0, 1, (2000, 30))
    held = [found.low <= 1 <= found.high for found in map(median_of, draws.tolist())]
    assert 0.945 <= np.mean(held) <= 0.99


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200))
def test_the_median_is_within_its_interval(samples: list[float]) -> None:
    found = median_of(samples)
    assert found.low <= found.value <= found.high
    assert min(samples) <= found.value <= max(samples)


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="no samples"):
        median_of([])
