"""Charts as inline SVG: numbers in, markup out.

Drawn for a width of 360 units, so that their writing is legible on a phone and grows on a larger screen. Colours are the
style's, by class; lines differ in their dashes too. Names that are not ours stand in tables and legends, never in a drawing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tofe_edge.cli.pages.html import NOTHING, Html, name, text
from tofe_edge.cli.pages.scale import Axis, axis

STYLES = 4
"""Lines that can be told apart in one chart."""

WIDTH = 360
_HEIGHT = 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 22, 34
_ROW = 13
"""Height of a line of writing."""

_BINS = 36


@dataclass(frozen=True)
class Line:
    """A named curve; its points in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()
    """Lowest and highest value around each point; empty for none."""
    dots: Sequence[tuple[float, float]] = ()
    """What was measured, where the line is drawn through it."""


@dataclass(frozen=True)
class Mark:
    """An upright line at a value of x, with a few words of ours."""

    at: float
    label: str


@dataclass(frozen=True)
class Words:
    """What a chart says besides its drawing."""

    title: str
    description: str
    x: str
    """What goes along the horizontal axis, with its unit."""
    y: str


def gauge(share: float) -> Html:
    """A bar of a table's row, filled from 0 to 1; the figure stands beside it."""
    filled = 100 * min(max(share, 0.0), 1.0)
    return Html(
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="10"/>'
        f'<rect class="fill" width="{filled:.2f}" height="10"/></svg>'
    )


def histogram(samples: Sequence[float], marks: Sequence[Mark], words: Words) -> Html:
    """How many samples fell where. One that is far above all others is to be left out before: it would squeeze the rest."""
    if not samples:
        return NOTHING
    across = axis([*samples, *(mark.at for mark in marks)], most_ticks=6)
    shares = [across.share(sample) for sample in samples]
    bins = _bins(len(samples))
    counts = np.histogram(shares, bins=bins, range=(0, 1))[0].tolist()
    bars = [(index / bins, (index + 1) / bins, float(count)) for index, count in enumerate(counts)]
    return _bars(across, bars, marks, words)


def count_histogram(
    numbers: Mapping[int, int], marks: Sequence[Mark], words: Words, over: tuple[float, float] | None = None
) -> Html:
    """How often each whole number came: a bar covers as many of them as any other, so that the bars can be compared.

    Args:
        numbers: a whole number and how often it came, at least once.
        over: numbers that the horizontal axis reaches, for charts to be compared.
    """
    if not numbers:
        return NOTHING
    least, most = min(numbers), max(numbers)
    width = -(-(most - least + 1) // _bins(sum(numbers.values())))
    heights = Counter[int]()
    for number, times in numbers.items():
        heights[(number - least) // width] += times
    # A number stands in the middle of its bar.
    edges = [(least - 0.5 + index * width, least - 0.5 + (index + 1) * width) for index in heights]
    across = axis(
        [*(edge for pair in edges for edge in pair), *(mark.at for mark in marks), *(over or ())], most_ticks=6
    )
    bars = [
        (across.share(left), across.share(right), float(heights[index])) for index, (left, right) in zip(heights, edges)
    ]
    return _bars(across, bars, marks, words)


def line_chart(lines: Sequence[Line], words: Words, over: tuple[float, float] | None = None) -> Html:
    """Curves over a common x; ``over`` fixes the ends of the horizontal axis, for charts below each other."""
    return _curves(lines, words, over or (), (), _path, from_zero=False)


def step_chart(lines: Sequence[Line], words: Words, marks: Sequence[Mark] = ()) -> Html:
    """Staircases from zero: a point's value holds for all x from the one before, as a tile begun is paid for in full."""
    return _curves(lines, words, [mark.at for mark in marks], marks, _stairs, from_zero=True)


def fitted_chart(lines: Sequence[Line], words: Words, marks: Sequence[Mark] = ()) -> Html:
    """Curves from zero that were laid through the dots of their lines."""
    return _curves(lines, words, [mark.at for mark in marks], marks, _path, from_zero=True)


def legend(lines: Sequence[Line]) -> Html:
    """The names of a chart's lines beside a piece of each; nothing for a single line."""
    if len(lines) < 2:
        return NOTHING
    entries = "".join(
        f'<li><svg viewBox="0 0 26 10" aria-hidden="true"><path class="line s{number}" d="M1 5H25"/></svg>{name(line.name)}</li>'
        for number, line in enumerate(lines[:STYLES])
    )
    return Html(f'<ul class="legend">{entries}</ul>')


def _bins(samples: int) -> int:
    """As many bars as that many samples can fill."""
    return min(_BINS, max(1, 2 * round(math.sqrt(samples))))


def _bars(across: Axis, bars: Sequence[tuple[float, float, float]], marks: Sequence[Mark], words: Words) -> Html:
    """Bars from one share of the horizontal axis to another, as high as the third number."""
    frame = _Frame(across, axis([height for *_, height in bars], from_zero=True), rows=len(marks))
    path = "".join(
        f"M{_at(frame.left(left))} {_at(frame.bottom)}V{_at(frame.y(height))}H{_at(frame.left(right))}V{_at(frame.bottom)}z"
        for left, right, height in bars
        if height
    )
    return frame.drawing(words, f'<path class="fill" d="{path}"/>', marks)


def _curves(
    lines: Sequence[Line],
    words: Words,
    more_x: Sequence[float],
    marks: Sequence[Mark],
    draw: Callable[[Sequence[tuple[float, float]]], str],
    *,
    from_zero: bool,
) -> Html:
    lines = [line for line in lines if line.points][:STYLES]
    if not lines:
        return NOTHING
    points = [point for line in lines for point in (*line.points, *line.dots)]
    edges = [edge for line in lines for pair in line.band for edge in pair]
    across = axis([*(x for x, _ in points), *more_x], most_ticks=6)
    frame = _Frame(across, axis([*(y for _, y in points), *edges], from_zero=from_zero), rows=len(marks))
    parts = []
    for number, line in enumerate(lines):
        places = [(frame.x(x), frame.y(y)) for x, y in line.points]
        if line.band:
            upper = [(x, frame.y(high)) for (x, _), (_, high) in zip(places, line.band)]
            lower = [(x, frame.y(low)) for (x, _), (low, _) in zip(places, line.band)]
            parts.append(f'<path class="band s{number}" d="{_path([*upper, *reversed(lower)])}z"/>')
        parts.append(f'<path class="line s{number}" d="{draw(places)}"/>')
        # A single point makes no line that could be seen.
        for x, y in line.dots or (line.points if len(places) == 1 else ()):
            parts.append(f'<circle class="s{number}" cx="{_at(frame.x(x))}" cy="{_at(frame.y(y))}" r="2.2"/>')
    return frame.drawing(words, "".join(parts), marks)


@dataclass(frozen=True)
class _Frame:
    """The plot's area within a drawing; ``rows`` lines of writing stand above it."""

    across: Axis
    up: Axis
    rows: int = 0

    @property
    def top(self) -> float:
        return _TOP + _ROW * self.rows

    @property
    def bottom(self) -> float:
        return self.top + _HEIGHT - _TOP - _BOTTOM

    def left(self, share: float) -> float:
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def x(self, value: float) -> float:
        return self.left(self.across.share(value))

    def y(self, value: float) -> float:
        return self.bottom - self.up.share(value) * (self.bottom - self.top)

    def drawing(self, words: Words, content: str, marks: Sequence[Mark]) -> Html:
        return Html(
            f'<svg viewBox="0 0 {WIDTH} {_at(self.bottom + _BOTTOM)}" role="img"><title>{text(words.title)}</title>'
            f"<desc>{text(words.description)}</desc>{self._axes(words)}{content}"
            f"{self._marks(marks)}</svg>"
        )

    def _axes(self, words: Words) -> str:
        right, below = WIDTH - _RIGHT, self.bottom + _ROW
        rungs = "".join(f"M{_LEFT} {_at(self.y(tick))}H{right}" for tick in self.up.ticks)
        levels = "".join(
            f'<text x="{_LEFT - 5}" y="{_at(self.y(tick) + 4)}" text-anchor="end">{text(label)}</text>'
            for tick, label in zip(self.up.ticks, self.up.labels)
        )
        places = "".join(
            f'<text x="{_at(self.x(tick))}" y="{_at(below)}" text-anchor="middle">{text(label)}</text>'
            for tick, label in zip(self.across.ticks, self.across.labels)
        )
        return (
            f'<path class="grid" d="{rungs}M{_LEFT} {_at(self.bottom)}H{right}"/>{levels}{places}'
            f'<text x="0" y="10">{text(words.y)}</text>'
            f'<text x="{right}" y="{_at(below + _ROW + 2)}" text-anchor="end">{text(words.x)}</text>'
        )

    def _marks(self, marks: Sequence[Mark]) -> str:
        """Each label on a row of its own, so that no two meet however close their values are, and above all lines."""
        lines, labels = "", ""
        for row, mark in enumerate(marks):
            x, y = self.x(mark.at), _TOP + _ROW * row
            side, anchor = (4, "start") if x < WIDTH / 2 else (-4, "end")
            lines += f'<path class="mark" d="M{_at(x)} {_at(y - 8)}V{_at(self.bottom)}"/>'
            labels += f'<text x="{_at(x + side)}" y="{_at(y)}" text-anchor="{anchor}">{text(mark.label)}</text>'
        return lines + labels


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_at(x)} {_at(y)}" for x, y in places)


def _stairs(places: Sequence[tuple[float, float]]) -> str:
    (x, y), *rest = places
    return f"M{_at(x)} {_at(y)}" + "".join(f"V{_at(y)}H{_at(x)}" for x, y in rest)


def _at(coordinate: float) -> str:
    """Hundredths of a unit are finer than any screen."""
    return f"{coordinate:.2f}".rstrip("0").rstrip(".")
