"""Times as bars, histograms and staircases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tofe_edge.cli.pages.charts import STYLES, Line, Mark, Words, fitted_chart, gauge, histogram, legend, step_chart
from tofe_edge.cli.pages.checks import number
from tofe_edge.cli.pages.html import NOTHING, Html, facts, figure, join, name, paragraph, section, table, text
from tofe_edge.cli.pages.series import bulk_of, percentile

_SHOWN_OPERATORS = 12

Staircase = Sequence[tuple[int, float]]
"""Tokens of a block, CLS among them, and what one block then takes in milliseconds."""


class Share(Protocol):
    """A named part of a run: its time in milliseconds, and how many operators make it up."""

    @property
    def name(self) -> str: ...
    @property
    def ms(self) -> float: ...
    @property
    def count(self) -> int: ...


def distribution(samples_ms: Sequence[float]) -> Html:
    """Histogram of latencies with the percentiles that are quoted; nothing where nothing was measured."""
    if not samples_ms:
        return NOTHING
    bulk = bulk_of(samples_ms)
    marks = [Mark(value, f"p{percent} {value:.2f} ms") for percent, value in percentiles(samples_ms).items()]
    few = len(bulk.left_out)
    slow = f" {few} slower: up to {bulk.left_out[-1]:.2f} ms, not drawn." if few else ""
    words = Words(
        "Histogram of latency",
        f"{_runs(len(samples_ms))} from {min(samples_ms):.2f} to {max(samples_ms):.2f} ms; "
        + ", ".join(mark.label for mark in marks),
        "latency of a run, ms",
        "runs",
    )
    return figure(histogram(bulk.samples, marks, words), text(f"{_runs(len(samples_ms))}.{slow}"))


def on_the_device(found: Mapping[str, Any] | None) -> Html:
    """A manifest's record of latency: predicted by the profile's table, measured where it was; nothing without one."""
    if found is None:
        return NOTHING

    def ms(key: str) -> Html:
        value = number(found.get(key))
        return NOTHING if value is None else text(f"{value:.2f} ms an image")

    return facts(
        [
            ("predicted", ms("predicted_ms")),
            ("measured, undisturbed", ms("measured_ms")),
            ("measured, p50", ms("measured_p50_ms")),
            ("allowed", ms("limit_ms")),
            ("measured on", name(str(found["device"])) if found.get("device") else NOTHING),
            ("threads", text(str(found.get("threads")))),
            ("prediction rests on", name(str(found["source"])) if found.get("source") else NOTHING),
        ]
    )


def percentiles(samples_ms: Sequence[float]) -> dict[int, float]:
    """The 50th, 90th and 99th, in milliseconds: values that were measured."""
    return {percent: percentile(samples_ms, percent) for percent in (50, 90, 99)}


def breakdown(stages: Sequence[Share], operators: Sequence[Share]) -> Html:
    """Bars of each stage, in the order in which they run, and of the operators that take longest."""
    largest = sorted(operators, key=lambda one: -one.ms)
    rest = largest[_SHOWN_OPERATORS:]
    rows = _bars(largest[:_SHOWN_OPERATORS], sum(one.ms for one in operators))
    if rest:
        ms, count = sum(one.ms for one in rest), sum(one.count for one in rest)
        rows.append((text(f"{len(rest)} other kinds"), NOTHING, text(f"{ms:.3f}"), NOTHING, text(f"{count}")))
    stage_rows = [row[:4] for row in _bars(stages, sum(one.ms for one in stages))]
    return join(
        (
            section("Time per stage", table(stage_rows, ("stage", "", "ms", "share"), (2, 3)), level=3),
            section("Time per operator", table(rows, ("operator", "", "ms", "share", "number"), (2, 3, 4)), level=3),
        )
    )


def _bars(shares: Sequence[Share], total: float) -> list[tuple[Html, ...]]:
    longest = max((one.ms for one in shares), default=0.0)
    return [
        (
            name(one.name),
            gauge(_part(one.ms, longest)),
            text(f"{one.ms:.3f}"),
            text(f"{_part(one.ms, total):.1%}"),
            text(f"{one.count}"),
        )
        for one in shares
    ]


def _part(value: float, whole: float) -> float:
    return value / whole if whole > 0 else 0.0


def staircases(
    block_ms: Mapping[str, Staircase],
    stage_tokens: Sequence[int] = (),
    fitted_ms: Mapping[str, Staircase] | None = None,
) -> Html:
    """What a block takes against how many tokens it computes, a line a precision, with the counts of this model's stages.

    Args:
        block_ms: measured, by precision.
        stage_tokens: what a block of each stage of the model computes, those before the first selection first.
        fitted_ms: what the latency model makes of the measured ones for every count, by precision.
    """
    fitted = fitted_ms or {}
    measured = {precision: sorted(points) for precision, points in block_ms.items() if points}
    lines = [Line(precision, fitted.get(precision) or dots, dots=dots) for precision, dots in measured.items()][:STYLES]
    marks = [Mark(count, f"stage {stage}: {count}") for stage, count in enumerate(stage_tokens)]
    about = "; ".join(f"{len(line.dots)} counts in {line.name}" for line in lines)
    words = Words("Latency of a block against its tokens", f"Measured: {about}", "tokens, CLS among them", "ms a block")
    chart = (fitted_chart if fitted else step_chart)(lines, words, marks)
    if not chart:
        return NOTHING
    drawn = (
        "the line is what the forecast reckons with" if fitted else "the line is drawn to the dearer side of each step"
    )
    return join(
        (
            paragraph(text(f"Tokens are computed in tiles, so that latency may grow in steps. Dots are measured; {drawn}. "
                           "Dotted: what a block computes before the first selection (stage 0) and in each stage.")),
            Html(f'<div class="charts">{figure(join((chart, legend(lines))))}</div>'),
        )
    )  # fmt: skip


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
