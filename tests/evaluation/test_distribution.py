"""Distributions of token counts: from tallied counts the same as from the images one by one."""

from __future__ import annotations

import statistics
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.evaluation.usage import PERCENTILES, distributions

images = st.integers(1, 4).flatmap(
    lambda stages: st.lists(st.tuples(*[st.integers(1, 196)] * stages), min_size=1, max_size=60)
)


@given(images)
def test_a_tally_gives_what_single_images_give(counts: list[tuple[int, ...]]) -> None:
    found = distributions(sorted(Counter(counts).items()))
    assert len(found) == len(counts[0])
    for one, column in zip(found, zip(*counts)):
        assert one.mean == pytest.approx(statistics.fmean(column))
        assert one.std == pytest.approx(statistics.pstdev(column))
        assert (one.least, one.most) == (min(column), max(column))
        assert one.percentiles == pytest.approx([np.percentile(column, at) for at in PERCENTILES])
        assert Counter(dict(one.histogram)) == Counter(column)
        assert list(one.histogram) == sorted(one.histogram)


def test_json_has_the_keys_that_others_read() -> None:
    (one,) = distributions([((5,), 3), ((9,), 1)])
    assert one.to_json() == {
        "mean": 6.0, "std": 1.732, "min": 5, "max": 9,
        "percentiles": {"p5": 5.0, "p25": 5.0, "p50": 5.0, "p75": 6.0, "p95": 8.4},
        "histogram": {"5": 3, "9": 1},
    }  # fmt: skip


def test_of_nothing_and_of_dense_nets_there_is_none() -> None:
    assert distributions([]) == () == distributions([((), 5)])
