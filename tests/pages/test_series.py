"""Long measurements made short: nothing is moved, nothing invented."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.cli.pages.series import bulk_of, course, percentile

samples = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=300)


@given(samples)
def test_the_bulk_and_what_is_left_out_are_all_samples(found: list[float]) -> None:
    bulk = bulk_of(found)
    assert sorted([*bulk.samples, *bulk.left_out]) == sorted(found)
    assert len(bulk.left_out) <= len(found) / 100
    assert percentile(found, 99) in bulk.samples


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=500).map(sorted), st.integers(1, 50)
)
def test_a_course_has_few_points_each_within_its_band(points: list[tuple[float, float]], stretches: int) -> None:
    line = course("latency", points, stretches)
    assert 1 <= len(line.points) <= stretches
    assert [x for x, _ in line.points] == sorted(x for x, _ in line.points)
    if len(points) > stretches:
        assert all(low <= y <= high for (_, y), (low, high) in zip(line.points, line.band))
        assert min(low for low, _ in line.band) == min(y for _, y in points)
        assert max(high for _, high in line.band) == max(y for _, y in points)
    else:
        assert list(line.points) == points and not line.band


def test_one_slow_run_in_two_hundred_is_left_out() -> None:
    assert bulk_of([5.0] * 150 + [6.0] * 49 + [500.0]).left_out == (500.0,)
