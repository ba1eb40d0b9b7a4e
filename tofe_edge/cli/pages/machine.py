"""What the machine did while it was measured: temperatures and clocks, below each other on one scale of time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from tofe_edge.cli.pages.charts import STYLES, Line, Words, legend, line_chart
from tofe_edge.cli.pages.html import NOTHING, Html, figure, join, name, table, text
from tofe_edge.cli.pages.series import course


class Reading(Protocol):
    """State of the machine ``at_s`` seconds after the first counted run began."""

    @property
    def at_s(self) -> float: ...
    @property
    def khz(self) -> Mapping[str, float]: ...
    @property
    def celsius(self) -> Mapping[str, float]: ...


def machine(readings: Sequence[Reading], end_s: float) -> Html:
    """Small charts from 0 to ``end_s`` seconds and a table of every source; nothing where nothing was read."""
    over = (0.0, end_s)
    celsius = _courses((reading.at_s, reading.celsius) for reading in readings)
    mhz = _courses((reading.at_s, {core: khz / 1e3 for core, khz in reading.khz.items()}) for reading in readings)
    charts = join((_multiple(celsius, "Temperature", "°C", over), _multiple(mhz, "Clock", "MHz", over)))
    rows = [*_spans(celsius, "°C", 1), *_spans(mhz, "MHz", 0)]
    headings = ("", "first", "last", "lowest", "highest")
    return join(
        (Html(f'<div class="charts">{charts}</div>') if charts else NOTHING, table(rows, headings, (1, 2, 3, 4)))
    )


def _courses(states: Iterable[tuple[float, Mapping[str, float]]]) -> list[Line]:
    found: dict[str, list[tuple[float, float]]] = {}
    for at_s, values in states:
        for source, value in values.items():
            found.setdefault(source, []).append((at_s, float(value)))
    return [Line(source, points) for source, points in found.items()]


def _multiple(lines: Sequence[Line], what: str, unit: str, over: tuple[float, float]) -> Html:
    """One of the small charts below each other; of many sources those that change the most."""
    if not any(len(line.points) > 1 for line in lines):
        return NOTHING
    moved = sorted(lines, key=lambda line: min(y for _, y in line.points) - max(y for _, y in line.points))
    drawn = [course(line.name, line.points) for line in moved[:STYLES]]
    left_out = (
        f" {len(lines) - len(drawn)} more, which change less, are in the table." if len(lines) > len(drawn) else ""
    )
    words = Words(f"{what} over time", f"{len(drawn)} sources", "seconds since the first run", unit)
    return figure(join((line_chart(drawn, words, over), legend(drawn))), text(f"{what} over time.{left_out}"))


def _spans(lines: Sequence[Line], unit: str, digits: int) -> list[tuple[Html, ...]]:
    def cells(line: Line) -> tuple[Html, ...]:
        values = [y for _, y in line.points]
        spans = (values[0], values[-1], min(values), max(values))
        return (join((name(line.name), text(f", {unit}"))), *(text(f"{value:.{digits}f}") for value in spans))

    return [cells(line) for line in lines]
