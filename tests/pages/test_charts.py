"""Axes and charts: for any finite values, coordinates are finite and within the drawing."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.cli.pages.charts import (
    Line,
    Mark,
    Words,
    axis,
    count_histogram,
    gauge,
    histogram,
    legend,
    line_chart,
    percentile,
    shortened,
    split_outliers,
)

WORDS = Words("A <title>", "description & more", "x, s", "ms")

finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.lists(finite, min_size=1, max_size=40)
points = st.lists(st.tuples(finite, finite), min_size=1, max_size=300).map(sorted)
counts = st.dictionaries(st.integers(0, 600), st.integers(1, 10**6), min_size=1, max_size=80)


def check(drawing: str) -> None:
    """Every coordinate of a drawing is a number within it."""
    root = ElementTree.fromstring(drawing)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    x, y = [], []
    for element in root.iter():
        for command, numbers in re.findall(r"([MLHVz])([^MLHVz]*)", element.get("d", "")):
            coordinates = [float(number) for number in numbers.split()]
            x += coordinates[:1] if command in "MLH" else []
            y += coordinates[-1:] if command in "MLV" else []
        x += [float(element.attrib[key]) for key in ("x", "cx") if key in element.attrib]
        y += [float(element.attrib[key]) for key in ("y", "cy") if key in element.attrib]
    assert x and all(0 <= one <= width for one in x) and all(0 <= one <= height for one in y)


def bars_of(drawing: str) -> list[tuple[float, float, float]]:
    """Left, right and height of each bar."""
    path = re.findall(r'class="fill" d="([^"]+)"', drawing)[0]
    bars = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)H([\d.]+)V[\d.]+z", path)
    return [(float(left), float(right), float(bottom) - float(top)) for left, bottom, top, right in bars]


@given(values, st.booleans())
def test_an_axis_holds_its_values_in_order_and_has_ticks_within(drawn: list[float], from_zero: bool) -> None:
    made = axis(drawn, from_zero=from_zero)
    shares = [made.share(value) for value in sorted(drawn)]
    assert made.low < made.high and shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    assert 1 <= len(made.ticks) <= 8 and all(made.low <= tick <= made.high for tick in made.ticks)
    assert len(made.labels) == len(set(made.labels)) == len(made.ticks)


@pytest.mark.parametrize(
    ("drawn", "labels"),
    [
        ([0.0, 10.0], ("0", "2", "4", "6", "8", "10")),
        ([4.84, 5.34], ("4.9", "5.0", "5.1", "5.2", "5.3")),
        ([-1.0, 1.0], ("-1.0", "-0.5", "0.0", "0.5", "1.0")),
        ([0.0, 2e7], ("0", "5e+06", "1e+07", "1.5e+07", "2e+07")),
        ([5.0, 5.0], ("4.6", "4.8", "5.0", "5.2", "5.4")),
        ([], ("0.0", "0.2", "0.4", "0.6", "0.8", "1.0")),
    ],
)
def test_ticks_are_round(drawn: list[float], labels: tuple[str, ...]) -> None:
    assert axis(drawn).labels == labels


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="cannot be drawn"):
        axis([1.0, value])


@given(values, points, points, counts, finite)
def test_charts_stay_within_their_drawing(
    samples: list[float],
    one: list[tuple[float, float]],
    two: list[tuple[float, float]],
    numbers: dict[int, int],
    at: float,
) -> None:
    marks = [Mark(at, "here"), Mark(samples[0], "there")]
    check(histogram(samples, marks, WORDS))
    check(line_chart([shortened("one", one), Line("two", two)], WORDS, over=(0.0, abs(at))))
    check(line_chart([Line("one", one, dots=two)], WORDS, marks=marks, from_zero=True))
    drawing = count_histogram(numbers, [Mark(min(numbers), "shipped")], WORDS, over=(0, 600))
    check(drawing)
    widths = [right - left for left, right, _ in bars_of(drawing)]
    assert 1 <= len(widths) <= 36 and max(widths) - min(widths) < 0.05
    assert 0 <= float(re.findall(r'class="fill" width="([^"]+)"', gauge(at))[0]) <= 100


def test_bars_are_as_high_as_their_counts() -> None:
    heights = [height for *_, height in bars_of(histogram([1.0] * 3 + [2.0], [], WORDS))]
    assert len(heights) == 2 and heights[0] == pytest.approx(3 * heights[1], abs=0.05)
    # 900 images: as many bars as fit, so that each number has its own.
    bars = bars_of(count_histogram({10: 100, 11: 200, 30: 600}, [], WORDS))
    assert [height / bars[0][2] for *_, height in bars] == pytest.approx([1, 2, 6], rel=0.01)
    assert bars[0][1] == bars[1][0] < bars[2][0]
    # A hundred numbers share 36 bars by three.
    wide = bars_of(count_histogram(dict.fromkeys(range(100), 10), [], WORDS))
    assert len(wide) == 34 and wide[0][2] == pytest.approx(3 * wide[-1][2], abs=0.1)


def test_words_and_names_are_text_and_a_chart_of_nothing_is_nothing() -> None:
    root = ElementTree.fromstring(line_chart([Line("<b>", [(0, 1), (1, 2)])], WORDS))
    assert [element.text for element in root if element.tag in ("title", "desc")] == ["A <title>", "description & more"]
    assert "&lt;b&gt;" in legend([Line("<b>", []), Line("c", [])])
    nothing = (count_histogram({}, [], WORDS), histogram([], [], WORDS), line_chart([Line("a", [])], WORDS))
    assert "".join((*nothing, legend([Line("a", [])]))) == ""


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=300))
def test_samples_and_outliers_are_all_that_was_measured(measured: list[float]) -> None:
    samples, outliers = split_outliers(measured)
    assert sorted([*samples, *outliers]) == sorted(measured)
    assert len(outliers) <= len(measured) / 100 and percentile(measured, 99) in samples
    assert split_outliers([5.0] * 150 + [6.0] * 49 + [500.0])[1] == [500.0]


@given(points, st.integers(1, 50))
def test_a_shortened_line_has_few_points_each_within_its_band(drawn: list[tuple[float, float]], stretches: int) -> None:
    drawn = [(abs(x) % 1e6, abs(y) % 1e6) for x, y in drawn]
    drawn.sort()
    line = shortened("latency", drawn, stretches)
    assert 1 <= len(line.points) <= stretches and sorted(x for x, _ in line.points) == [x for x, _ in line.points]
    if len(drawn) > stretches:
        assert all(low <= y <= high for (_, y), (low, high) in zip(line.points, line.band))
        edges = [edge for pair in line.band for edge in pair]
        assert (min(edges), max(edges)) == (min(y for _, y in drawn), max(y for _, y in drawn))
    else:
        assert list(line.points) == drawn and not line.band
