"""Axes and charts: for any finite values, coordinates are finite and within the drawing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.cli.pages.charts import (
    WIDTH,
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
points = st.lists(st.tuples(finite, finite), min_size=1, max_size=40).map(sorted)

_COMMAND = re.compile(r"([MLHVz])([^MLHVz]*)")


def places_of(drawing: str) -> list[tuple[float, float]]:
    """All absolute places that a drawing names, its size as the last."""
    root = ElementTree.fromstring(drawing)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    found = []
    for element in root.iter():
        if element.tag == "path":
            x = y = 0.0
            for command, numbers in _COMMAND.findall(element.attrib["d"]):
                given_numbers = [float(number) for number in numbers.split()]
                if command in "ML":
                    x, y = given_numbers
                elif command == "H":
                    (x,) = given_numbers
                elif command == "V":
                    (y,) = given_numbers
                found.append((x, y))
        elif element.tag == "circle":
            found.append((float(element.attrib["cx"]), float(element.attrib["cy"])))
        elif element.tag == "text":
            found.append((float(element.attrib["x"]), float(element.attrib["y"])))
    assert width == WIDTH
    return [*found, (width, height)]


def check(drawing: str) -> None:
    assert "nan" not in drawing and "inf" not in drawing
    *found, (width, height) = places_of(drawing)
    assert found
    assert all(0 <= x <= width and 0 <= y <= height for x, y in found)


@given(values, st.booleans())
def test_an_axis_holds_its_values_and_has_ticks_within(found: list[float], from_zero: bool) -> None:
    made = axis(found, from_zero=from_zero)
    assert made.low < made.high
    assert all(0 <= made.share(value) <= 1 for value in found)
    assert 1 <= len(made.ticks) <= 8
    assert all(made.low <= tick <= made.high for tick in made.ticks)
    assert len(made.labels) == len(set(made.labels)) == len(made.ticks)


@given(st.lists(finite, min_size=2, max_size=9))
def test_a_larger_value_never_stands_before_a_smaller_one(found: list[float]) -> None:
    made = axis(found)
    shares = [made.share(value) for value in sorted(found)]
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    ("found", "labels"),
    [
        ([0.0, 10.0], ("0", "2", "4", "6", "8", "10")),
        ([4.84, 5.34], ("4.9", "5.0", "5.1", "5.2", "5.3")),
        ([-1.0, 1.0], ("-1.0", "-0.5", "0.0", "0.5", "1.0")),
        ([0.0, 2e7], ("0", "5e+06", "1e+07", "1.5e+07", "2e+07")),
    ],
)
def test_ticks_are_round(found: list[float], labels: tuple[str, ...]) -> None:
    assert axis(found).labels == labels


def test_equal_values_get_a_margin_and_none_an_axis_from_0_to_1() -> None:
    assert (axis([5.0, 5.0]).low, axis([5.0, 5.0]).high) == (4.5, 5.5)
    assert (axis([0.0]).low, axis([0.0]).high) == (-1.0, 1.0)
    assert (axis([]).low, axis([]).high) == (0.0, 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="cannot be drawn"):
        axis([1.0, value])


@given(values, st.lists(finite, max_size=3))
def test_histograms_stay_within_their_drawing(samples: list[float], at: list[float]) -> None:
    check(histogram(samples, [Mark(value, f"p{number}") for number, value in enumerate(at)], WORDS))


@given(points, points, finite)
def test_curves_and_stairs_stay_within_their_drawing(
    one: list[tuple[float, float]], two: list[tuple[float, float]], at: float
) -> None:
    band = [(min(y, at), max(y, at)) for _, y in one]
    lines = [Line("one", one, band), Line("two", two)]
    check(line_chart(lines, WORDS))
    check(line_chart(lines, WORDS, over=(0.0, abs(at))))
    check(line_chart([Line("one", one, dots=two)], WORDS, marks=[Mark(at, "here")], from_zero=True, steps=at > 0))


@given(finite)
def test_gauges_are_filled_from_nothing_to_all(share: float) -> None:
    filled = float(re.findall(r'class="fill" width="([^"]+)"', gauge(share))[0])
    assert 0 <= filled <= 100


def test_a_histogram_counts_every_sample_once() -> None:
    drawing = histogram([1.0] * 3 + [2.0], [], WORDS)
    *_, (_, height) = places_of(drawing)
    bars = re.findall(r'class="fill" d="([^"]+)"', drawing)[0].split("M")[1:]
    bottoms_and_tops = [tuple(map(float, re.findall(r"V([\d.]+)", bar))) for bar in bars]
    heights = [bottom - top for top, bottom in bottoms_and_tops]
    assert len(heights) == 2 and heights[0] == pytest.approx(3 * heights[1], abs=0.05) and max(heights) < height


counted = st.dictionaries(st.integers(0, 600), st.integers(1, 10**6), min_size=1, max_size=80)


def bars_of(drawing: str) -> list[tuple[float, float, float]]:
    """Left, right and height of each bar."""
    path = re.findall(r'class="fill" d="([^"]+)"', drawing)[0]
    found = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)H([\d.]+)V[\d.]+z", path)
    return [(float(left), float(right), float(bottom) - float(top)) for left, bottom, top, right in found]


@given(counted, st.integers(0, 600))
def test_bars_of_whole_numbers_are_equally_wide_and_within_their_drawing(numbers: dict[int, int], at: int) -> None:
    drawing = count_histogram(numbers, [Mark(at, "shipped")], WORDS, over=(0, 600))
    check(drawing)
    bars = bars_of(drawing)
    assert 1 <= len(bars) <= 36
    widths = [right - left for left, right, _ in bars]
    assert max(widths) - min(widths) < 0.05


def test_bars_of_whole_numbers_count_each_once() -> None:
    # 900 images: as many bars as fit, and each number has its own.
    heights = {10: 100, 11: 200, 30: 600}
    bars = bars_of(count_histogram(heights, [], WORDS))
    assert len(bars) == 3
    unit = bars[0][2]
    assert [height / unit for *_, height in bars] == pytest.approx([1, 2, 6], rel=0.01)
    assert bars[0][1] == bars[1][0] < bars[2][0]
    # A hundred numbers share 36 bars by three.
    wide = bars_of(count_histogram(dict.fromkeys(range(100), 10), [], WORDS))
    assert len(wide) == 34 and wide[0][2] == pytest.approx(3 * wide[-1][2], abs=0.1)


def test_stairs_rise_before_they_go_on() -> None:
    drawing = line_chart([Line("a", [(0.0, 1.0), (10.0, 2.0)])], WORDS, from_zero=True, steps=True)
    path = re.findall(r'class="line s0" d="([^"]+)"', drawing)[0]
    assert re.fullmatch(r"M46 [\d.]+V22H348", path)


def test_a_chart_of_nothing_is_nothing() -> None:
    charts = (count_histogram({}, [], WORDS), histogram([], [], WORDS), line_chart([Line("a", [])], WORDS))
    assert "".join((*charts, legend([Line("a", [])]))) == ""


def test_words_and_names_are_text() -> None:
    root = ElementTree.fromstring(line_chart([Line("<b>", [(0, 1), (1, 2)])], WORDS))
    assert [element.text for element in root if element.tag in ("title", "desc")] == ["A <title>", "description & more"]
    assert "<b>" not in legend([Line("<b>", []), Line("c", [])])


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=300))
def test_samples_and_outliers_are_all_that_was_measured(measured: list[float]) -> None:
    samples, outliers = split_outliers(measured)
    assert sorted([*samples, *outliers]) == sorted(measured)
    assert len(outliers) <= len(measured) / 100 and percentile(measured, 99) in samples


def test_one_slow_run_in_two_hundred_is_an_outlier() -> None:
    assert split_outliers([5.0] * 150 + [6.0] * 49 + [500.0])[1] == [500.0]


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=500).map(sorted), st.integers(1, 50)
)
def test_a_shortened_line_has_few_points_each_within_its_band(
    points: list[tuple[float, float]], stretches: int
) -> None:
    line = shortened("latency", points, stretches)
    assert 1 <= len(line.points) <= stretches
    assert [x for x, _ in line.points] == sorted(x for x, _ in line.points)
    if len(points) > stretches:
        assert all(low <= y <= high for (_, y), (low, high) in zip(line.points, line.band))
        assert min(low for low, _ in line.band) == min(y for _, y in points)
        assert max(high for _, high in line.band) == max(y for _, y in points)
    else:
        assert list(line.points) == points and not line.band
