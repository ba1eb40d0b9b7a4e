"""Results of the throughput benchmark: rows, the YAML that keeps them, and the Markdown table that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import host
from benchmarks.turns import Turns
from tofe_edge.errors import InputError

_EMPTY = "–"


@dataclass(frozen=True)
class Row:
    """One net at one batch size; without figures where ``note`` says why."""

    net: str
    batch: int
    dense_images_per_s: float | None = None
    tofe_images_per_s: float | None = None
    ratio: float | None = None
    """ToFe's throughput over the dense net's: the median of the rounds' ratios."""
    ratio_interval: tuple[float, float] | None = None
    """That holds the median with 95 %."""
    ratio_quartiles: tuple[float, float] | None = None
    """Quartiles of the rounds' ratios."""
    rounds: int = 0
    note: str | None = None


@dataclass(frozen=True)
class Results:
    """The conditions of the measurement, as they stand in the file, and a row per net and batch size."""

    conditions: dict[str, Any]
    rows: tuple[Row, ...]


def row_of(net: str, batch: int, turns: Turns) -> Row:
    """Figures from the times of a batch: A is dense, B is ToFe."""
    dense_s, tofe_s = turns.medians_s
    ratio, (low, high) = turns.speedup, turns.quartiles
    return Row(
        net=net,
        batch=batch,
        dense_images_per_s=_rate(batch / dense_s),
        tofe_images_per_s=_rate(batch / tofe_s),
        ratio=round(ratio.value, 3),
        ratio_interval=(round(ratio.low, 3), round(ratio.high, 3)),
        ratio_quartiles=(round(low, 3), round(high, 3)),
        rounds=len(turns.a_s),
    )


def _rate(images_per_s: float) -> float:
    return float(f"{images_per_s:.4g}")


def check_free(path: Path, command: str) -> None:
    """Raise :class:`InputError` if there is a file already, unless it holds the results of the same command."""
    if not path.exists():
        return
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        document = None
    if not isinstance(document, dict) or document.get("command") != command:
        raise InputError(f"{path}: is there already, and not of this call; move it away, or use another --out")


def write_results(path: Path, results: Results) -> None:
    """Write the YAML atomically; a row without figures is its net, batch size and note."""
    rows = [{key: _plain(value) for key, value in asdict(row).items() if value is not None} for row in results.rows]
    document = {**results.conditions, "results": rows}
    host.write(path, document)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def render(results: Results) -> str:
    """A line that says what it ran on, and a Markdown table."""
    lines = [_caption(results.conditions), ""]
    lines.append("| net | GMACs, dense / ToFe | batch | dense, images/s | ToFe, images/s | ratio | 95 % interval |")
    lines.append("|---|---|---:|---:|---:|---:|---|")
    lines += [_line(row, results.conditions["nets"][row.net]["gmacs"]) for row in results.rows]
    return "\n".join(lines)


def _line(row: Row, gmacs: dict[str, float]) -> str:
    macs = f"{gmacs['dense']:.2f} / {gmacs['ToFe']:.2f} = {gmacs['dense'] / gmacs['ToFe']:.2f}"
    cells: Sequence[str]
    if row.ratio is None or row.ratio_interval is None:
        cells = (_EMPTY, _EMPTY, _EMPTY, row.note or "")
    else:
        low, high = row.ratio_interval
        rates = f"{row.dense_images_per_s:.10g}", f"{row.tofe_images_per_s:.10g}"
        cells = (*rates, f"{row.ratio:.2f}x", f"{low:.2f} to {high:.2f}")
    return f"| {' | '.join((row.net, macs, str(row.batch), *cells))} |"


def _caption(conditions: dict[str, Any]) -> str:
    device, threads, pinned = conditions["device"], conditions["threads"], conditions["pinned_to"]
    where = f"{device['name']}, {conditions['precision']}"
    if device["kind"] == "cpu":
        cores = f" pinned to core {pinned[0]}" if threads == len(pinned) == 1 else ""
        where += f", {'one thread' if threads == 1 else f'{threads} threads'}{cores}"
        where += ", by the process's CPU time" if conditions["clock"] == "cpu" else ""
        where = f"On the CPU, {device['why']}. {where}"
    return f"{where}; eager PyTorch {conditions['versions']['torch']}, {conditions['date']}."
