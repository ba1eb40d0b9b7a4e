"""Charts and table rows that several pages show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tofe_edge.cli.pages.charts import (
    STYLES,
    Line,
    Mark,
    Words,
    figure,
    histogram,
    legend,
    line_chart,
    percentiles,
    shortened,
    split_outliers,
)
from tofe_edge.cli.pages.rendering import number
from tofe_edge.io.artifact import Manifest
from tofe_edge.io.targets import gates_of
from tofe_edge.runtimes.timing import Telemetry

BlockLatency = Sequence[tuple[int, float]]
"""Numbers of tokens, CLS included, and the latency of one block with that many, in milliseconds."""

_MOST_DIGITS = 10
"""A manifest may hold longer numbers, which mean nothing and which Python would refuse to convert."""


def latency_histogram(samples_ms: Sequence[float]) -> Markup:
    """Return a histogram of latencies marked with p50, p90 and p99; nothing if nothing was measured."""
    if not samples_ms:
        return Markup("")
    samples, outliers = split_outliers(samples_ms)
    marks = [Mark(value, f"p{percent} {value:.2f} ms") for percent, value in percentiles(samples_ms).items()]
    runs = "1 run" if len(samples_ms) == 1 else f"{len(samples_ms)} runs"
    slow = f" {len(outliers)} slower: up to {outliers[-1]:.2f} ms, not drawn." if outliers else ""
    summary = (
        f"{runs} from {min(samples_ms):.2f} to {max(samples_ms):.2f} ms; {', '.join(mark.label for mark in marks)}"
    )
    words = Words("Histogram of latency", summary, "latency per run, ms", "runs")
    return figure(histogram(samples, marks, words), f"{runs}.{slow}")


def block_latency(
    measured_ms: Mapping[str, BlockLatency], fitted_ms: Mapping[str, BlockLatency], tokens: Sequence[int]
) -> Markup:
    """Return a chart of the latency of a block by its number of tokens, one line per precision.

    Args:
        measured_ms: the profile's latency table, by precision.
        fitted_ms: what the latency model forecasts for every number of tokens, by precision.
        tokens: computed per block, before selection and in each stage of the model; each is marked.
    """
    lines = [Line(precision, fitted_ms[precision], dots=dots) for precision, dots in measured_ms.items()][:STYLES]
    marks = [Mark(count, f"stage {stage}: {count}") for stage, count in enumerate(tokens)]
    about = "; ".join(f"{len(line.dots)} token counts in {line.name}" for line in lines)
    words = Words("Latency of a block by tokens", f"Measured: {about}", "tokens, CLS included", "ms per block")
    return figure(line_chart(lines, words, marks=marks, from_zero=True) + legend(lines))


def machine_charts(readings: Sequence[Telemetry], end_s: float) -> tuple[Markup, list[list[str]]]:
    """Return small charts of temperature and clock from 0 to ``end_s`` seconds, and a row for every sensor: its name with
    the unit, and its first, last, lowest and highest value."""
    celsius = _by_source((reading.at_s, reading.celsius) for reading in readings)
    mhz = _by_source((reading.at_s, {core: khz / 1e3 for core, khz in reading.khz.items()}) for reading in readings)
    charts = _time_chart(celsius, "Temperature", "°C", end_s) + _time_chart(mhz, "Clock", "MHz", end_s)
    return charts, [*_spans(celsius, "°C", 1), *_spans(mhz, "MHz", 0)]


def layer_noise(manifest: Manifest) -> list[tuple[str, float, Any, Any]]:
    """Return name, share of the noisiest layer's amplitude, own and reached SNR of each quantized layer, the noisiest first."""
    layers = (manifest.quantization or {}).get("layers")
    known = {
        name: noise if isinstance(noise, dict) else {}
        for name, noise in (layers if isinstance(layers, dict) else {}).items()
    }
    own = {name: number(noise.get("own_snr_db")) for name, noise in known.items()}
    noisiest = min((snr for snr in own.values() if snr is not None), default=0.0)
    shares = {name: 0.0 if snr is None else 10 ** ((noisiest - snr) / 20) for name, snr in own.items()}
    return [
        (name, shares[name], own[name], known[name].get("reached_snr_db"))
        for name in sorted(known, key=lambda name: (-shares[name], _by_block(name)))
    ]


def overlap_gate(manifest: Manifest) -> float:
    """Return the least share of kept tokens that the model has to keep, too."""
    return gates_of(manifest).min_kept_overlap


def _by_source(states: Iterable[tuple[float, Mapping[str, float]]]) -> list[Line]:
    points: dict[str, list[tuple[float, float]]] = {}
    for at_s, values in states:
        for source, value in values.items():
            points.setdefault(source, []).append((at_s, float(value)))
    return [Line(source, values) for source, values in points.items()]


def _time_chart(lines: Sequence[Line], what: str, unit: str, end_s: float) -> Markup:
    """Draw the sensors that change the most."""
    if not any(len(line.points) > 1 for line in lines):
        return Markup("")
    by_change = sorted(lines, key=lambda line: min(y for _, y in line.points) - max(y for _, y in line.points))
    drawn = [shortened(line.name, line.points) for line in by_change[:STYLES]]
    more = len(lines) - len(drawn)
    words = Words(f"{what} over time", f"{len(drawn)} sensors", "seconds since the first run", unit)
    left_out = f" {more} more, which change less, are in the table." if more else ""
    return figure(line_chart(drawn, words, over=(0.0, end_s)) + legend(drawn), f"{what} over time.{left_out}")


def _spans(lines: Sequence[Line], unit: str, digits: int) -> list[list[str]]:
    rows = []
    for line in lines:
        y = [y for _, y in line.points]
        rows.append([f"{line.name}, {unit}", *(f"{value:.{digits}f}" for value in (y[0], y[-1], min(y), max(y)))])
    return rows


def _by_block(layer: str) -> list[tuple[int, str]]:
    """Sort block 2 before block 10."""
    parts = layer.split(".")
    return [(int(part), "") if part.isdecimal() and len(part) < _MOST_DIGITS else (-1, part) for part in parts]
