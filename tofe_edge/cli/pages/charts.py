"""Charts as inline SVG: numbers in, markup out.

Drawn for a width of 360 units, so that their text is legible on a phone and grows on a larger screen. Colours come from the
style sheet, by class; lines differ in their dashes too. Names that are not ours stand in tables and legends, never in a drawing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from markupsafe import Markup

STYLES = 4
"""How many lines can be told apart in one chart."""

WIDTH = 360
_HEIGHT = 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 22, 34
_ROW = 13
"""Height of a line of text."""

_BINS = 36
_STRETCHES = 160
_LARGEST = 1e300
"""Larger values are drawn at this one: the difference of two would not be finite."""
_LEAST_SHARE = 1e-9
"""Values closer to each other than this share of their size are drawn as equal."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """A range of values, and the round ones in it."""

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]

    def share(self, value: float) -> float:
        """Return the place of a value between both ends, 0 to 1; values outside stand at the end."""
        return min(max((_bounded(value) - self.low) / (self.high - self.low), 0.0), 1.0)


@dataclass(frozen=True)
class Line:
    """A named curve; its points in the order of x."""

    name: str
    points: Points
    band: Points = ()
    """Lowest and highest value around each point; empty for none."""
    dots: Points = ()
    """The measured values that the line is drawn through."""


@dataclass(frozen=True)
class Mark:
    """An upright line at a value of x, with a short label."""

    at: float
    label: str


@dataclass(frozen=True)
class Words:
    """The title, description and axis labels (with units) of a chart."""

    title: str
    description: str
    x: str
    y: str


def axis(values: Iterable[float], most_ticks: int = 5, from_zero: bool = False) -> Axis:
    """Return an axis over all values, with a margin if they are equal; from 0 to 1 if there are none.

    Raises:
        ValueError: a value is not finite.
    """
    bounded = [_bounded(value) for value in values] or [0.0, 1.0]
    low, high = min(bounded), max(bounded)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    size = max(abs(low), abs(high))
    if high - low <= max(size * _LEAST_SHARE, 1e-290):
        margin = size * 0.1 or 1.0
        low, high = (low if from_zero else low - margin), high + margin
    step = _round_step((high - low) / most_ticks)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = tuple(min(max(number * step, low), high) for number in range(first, last + 1))
    return Axis(low, high, ticks, tuple(_label(tick, step) for tick in ticks))


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: a value that was measured."""
    return float(np.percentile(samples, percent, method="inverted_cdf"))


def percentiles(samples_ms: Sequence[float]) -> dict[int, float]:
    """Return p50, p90 and p99, in milliseconds: values that were measured."""
    return {percent: percentile(samples_ms, percent) for percent in (50, 90, 99)}


def split_outliers(samples: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the samples without the few far above all others, and those few in rising order.

    The cut is where p99 ends, and its distance from the median once more.
    """
    cut = 2 * percentile(samples, 99) - percentile(samples, 50)
    return [one for one in samples if one <= cut], sorted(one for one in samples if one > cut)


def shortened(name: str, points: Points, stretches: int = _STRETCHES) -> Line:
    """Return a line with at most ``stretches`` points: the median of each equal stretch of x, in a band from its lowest to
    its highest value. Few points stay as they are, without a band."""
    if len(points) <= stretches:
        return Line(name, tuple(points))
    first, last = points[0][0], points[-1][0]
    parts: dict[int, list[tuple[float, float]]] = {}
    for x, y in points:
        share = (x - first) / (last - first) if last > first else 0.0
        parts.setdefault(min(int(share * stretches), stretches - 1), []).append((x, y))
    columns = [[*zip(*parts[key])] for key in sorted(parts)]
    return Line(name, [(median(x), median(y)) for x, y in columns], [(min(y), max(y)) for _, y in columns])


def gauge(share: float, gate: float | None = None) -> Markup:
    """Return a bar for a table row, filled from 0 to 1; the figure stands beside it. ``gate``: where a line stands."""
    filled = 100 * min(max(share, 0.0), 1.0)
    line = "" if gate is None else Markup('<rect class="gate" x="{:.2f}" width="1" height="10"/>').format(100 * gate)
    return Markup(
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="10"/>'
        '<rect class="fill" width="{:.2f}" height="10"/>{}</svg>'
    ).format(filled, line)


def figure(picture: Markup, caption: str = "") -> Markup:
    """Return a picture with a caption; nothing without a picture."""
    words = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
    return Markup("<figure>{}{}</figure>").format(picture, words) if picture else Markup("")


def histogram(samples: Sequence[float], marks: Sequence[Mark], words: Words) -> Markup:
    """Return a histogram. Leave out outliers before: they would squeeze the rest."""
    if not samples:
        return Markup("")
    across = axis([*samples, *(mark.at for mark in marks)], most_ticks=6)
    bins = _bins(len(samples))
    counts = np.histogram([across.share(sample) for sample in samples], bins=bins, range=(0, 1))[0].tolist()
    return _bars(across, [(n / bins, (n + 1) / bins, float(count)) for n, count in enumerate(counts)], marks, words)


def count_histogram(
    numbers: Mapping[int, int], marks: Sequence[Mark], words: Words, over: Sequence[float] = ()
) -> Markup:
    """Return a histogram of whole numbers whose bars all cover equally many of them, so that they can be compared.

    Args:
        numbers: how often each number came, at least once.
        over: values that the horizontal axis includes, to make charts comparable.
    """
    if not numbers:
        return Markup("")
    least, most = min(numbers), max(numbers)
    width = -(-(most - least + 1) // _bins(sum(numbers.values())))
    heights = Counter[int]()
    for number, times in numbers.items():
        heights[(number - least) // width] += times
    # A number stands in the middle of its bar.
    edges = [(least - 0.5 + n * width, least - 0.5 + (n + 1) * width) for n in heights]
    across = axis([*(edge for pair in edges for edge in pair), *(mark.at for mark in marks), *over], most_ticks=6)
    bars = [(across.share(left), across.share(right), float(heights[n])) for n, (left, right) in zip(heights, edges)]
    return _bars(across, bars, marks, words)


def line_chart(
    lines: Sequence[Line],
    words: Words,
    *,
    marks: Sequence[Mark] = (),
    over: Sequence[float] = (),
    from_zero: bool = False,
) -> Markup:
    """Return a chart of curves over a common x.

    Args:
        over: values that the horizontal axis includes, to make charts comparable.
        from_zero: the vertical axis begins at 0.
    """
    lines = [line for line in lines if line.points][:STYLES]
    if not lines:
        return Markup("")
    points = [point for line in lines for point in (*line.points, *line.dots)]
    heights = [*(y for _, y in points), *(edge for line in lines for pair in line.band for edge in pair)]
    across = axis([*(x for x, _ in points), *over, *(mark.at for mark in marks)], most_ticks=6)
    frame = _Frame(across, axis(heights, from_zero=from_zero), rows=len(marks))
    parts = []
    for number, line in enumerate(lines):
        places = [(frame.x(x), frame.y(y)) for x, y in line.points]
        if line.band:
            upper = [(x, frame.y(high)) for (x, _), (_, high) in zip(places, line.band)]
            lower = [(x, frame.y(low)) for (x, _), (low, _) in zip(places, line.band)]
            parts.append(f'<path class="band s{number}" d="{_path([*upper, *reversed(lower)])}z"/>')
        parts.append(f'<path class="line s{number}" d="{_path(places)}"/>')
        # A single point makes no line that could be seen.
        for x, y in line.dots or (line.points if len(places) == 1 else ()):
            parts.append(f'<circle class="s{number}" cx="{_at(frame.x(x))}" cy="{_at(frame.y(y))}" r="2.2"/>')
    return frame.drawing(words, "".join(parts), marks)


def legend(lines: Sequence[Line]) -> Markup:
    """Return the names of a chart's lines beside a piece of each; nothing for a single line."""
    entry = Markup(
        '<li><svg viewBox="0 0 26 10" aria-hidden="true"><path class="line s{}" d="M1 5H25"/></svg><bdi>{}</bdi></li>'
    )
    entries = Markup().join(entry.format(number, line.name) for number, line in enumerate(lines[:STYLES]))
    return Markup('<ul class="legend">{}</ul>').format(entries) if len(lines) > 1 else Markup("")


@dataclass(frozen=True)
class _Frame:
    """The plot's area within a drawing; ``rows`` lines of text stand above it."""

    across: Axis
    up: Axis
    rows: int = 0

    @property
    def bottom(self) -> float:
        return _ROW * self.rows + _HEIGHT - _BOTTOM

    def left(self, share: float) -> float:
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def x(self, value: float) -> float:
        return self.left(self.across.share(value))

    def y(self, value: float) -> float:
        return self.bottom - self.up.share(value) * (_HEIGHT - _TOP - _BOTTOM)

    def drawing(self, words: Words, content: str, marks: Sequence[Mark]) -> Markup:
        right, below = WIDTH - _RIGHT, self.bottom + _ROW
        grid = "".join(f"M{_LEFT} {_at(self.y(tick))}H{right}" for tick in self.up.ticks)
        texts = [_text(_LEFT - 5, self.y(tick) + 4, label, "end") for tick, label in zip(self.up.ticks, self.up.labels)]
        texts += [
            _text(self.x(tick), below, label, "middle") for tick, label in zip(self.across.ticks, self.across.labels)
        ]
        texts += [_text(0, 10, words.y, "start"), _text(right, below + _ROW + 2, words.x, "end")]
        # Each label stands on a row of its own and above all lines, so that no two meet however close their values are.
        labels = []
        for row, mark in enumerate(marks):
            x, y = self.x(mark.at), _TOP + _ROW * row
            shift, anchor = (4, "start") if x < WIDTH / 2 else (-4, "end")
            content += f'<path class="mark" d="M{_at(x)} {_at(y - 8)}V{_at(self.bottom)}"/>'
            labels.append(_text(x + shift, y, mark.label, anchor))
        return Markup(
            '<svg viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc><path class="grid" d="{}M{} {}H{}"/>{}{}{}</svg>'
        ).format(
            WIDTH, _at(self.bottom + _BOTTOM), words.title, words.description, grid, _LEFT, _at(self.bottom), right,
            Markup().join(texts), Markup(content), Markup().join(labels),
        )  # fmt: skip


def _bounded(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be drawn")
    return min(max(float(value), -_LARGEST), _LARGEST)


def _round_step(rough: float) -> float:
    """Return the least of 1, 2, 5 times a power of ten that is not below ``rough``."""
    power = float(10.0 ** math.floor(math.log10(rough)))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= rough * (1 - 1e-9)), 10 * power)


def _label(tick: float, step: float) -> str:
    tick = 0.0 if abs(tick) < step / 2 else tick
    size = max(abs(tick), step)
    if size >= 1e6 or size < 1e-4:
        return f"{tick:.3g}"
    return f"{tick:.{min(max(0, -math.floor(math.log10(step) + 1e-9)), 9)}f}"


def _bins(samples: int) -> int:
    """Return as many bars as that many samples can fill."""
    return min(_BINS, max(1, 2 * round(math.sqrt(samples))))


def _bars(across: Axis, bars: Sequence[tuple[float, float, float]], marks: Sequence[Mark], words: Words) -> Markup:
    """Draw bars from one share of the horizontal axis to another, as high as the third number."""
    frame = _Frame(across, axis([height for *_, height in bars], from_zero=True), rows=len(marks))
    path = "".join(
        f"M{_at(frame.left(left))} {_at(frame.bottom)}V{_at(frame.y(height))}H{_at(frame.left(right))}V{_at(frame.bottom)}z"
        for left, right, height in bars
        if height
    )
    return frame.drawing(words, f'<path class="fill" d="{path}"/>', marks)


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(_at(x), _at(y), anchor, words)


def _path(places: Points) -> str:
    return "M" + "L".join(f"{_at(x)} {_at(y)}" for x, y in places)


def _at(coordinate: float) -> str:
    """Format a coordinate: hundredths of a unit are finer than any screen."""
    return f"{coordinate:.2f}".rstrip("0").rstrip(".")
