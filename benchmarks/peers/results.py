"""Results of the comparison of methods: rows, the YAML that keeps them, and the Markdown table that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from tofe_edge.errors import InputError
from tofe_edge.files import write_bytes
from tofe_edge.statistics import bootstrap_difference, mcnemar, top_k_accuracy, top_k_hits

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One method. Accuracy in per cent, differences in points, with 95 % intervals."""

    method: str
    paper: str
    gmacs: float
    how: str
    """What was chosen to meet the budget."""
    trained: str
    """``no``; ``yes``; or where."""
    steps: int
    images_seen: int
    training_seconds: float
    top1: float
    top1_interval: list[float]
    top5: float
    difference: float
    """To the dense net, on the same images."""
    difference_interval: list[float]
    lost: int
    gained: int
    mid_p: float
    """McNemar's, of equal accuracy."""


@dataclass(frozen=True)
class Training:
    """What a row says of training."""

    trained: str
    steps: int = 0
    images: int = 0
    seconds: float = 0.0


def row_of(
    method: str, paper: str, gmacs: float, how: str, training: Training, logits: Array, dense: Array, labels: Array
) -> Row:
    """A row from logits of the method and of the dense net ``(V, classes)`` and labels ``(V,)``."""
    before, after = top_k_hits(dense, labels), top_k_hits(logits, labels)
    top1, top5 = (top_k_accuracy(logits, labels, k) for k in (1, 5))
    test, gap = mcnemar(before, after), bootstrap_difference(before, after)
    return Row(
        method=method,
        paper=paper,
        gmacs=round(gmacs, 4),
        how=how,
        trained=training.trained,
        steps=training.steps,
        images_seen=training.images,
        training_seconds=round(training.seconds, 1),
        top1=round(100 * top1.estimate, 2),
        top1_interval=[round(100 * top1.low, 2), round(100 * top1.high, 2)],
        top5=round(100 * top5.estimate, 2),
        difference=round(gap.estimate, 2),
        difference_interval=[round(gap.low, 2), round(gap.high, 2)],
        lost=test.lost,
        gained=test.gained,
        mid_p=float(np.format_float_scientific(test.mid_p, precision=2)),
    )


@dataclass(frozen=True)
class Results:
    """A result file: how methods were compared, a row each, and the tables of further ablations by name."""

    settings: dict[str, Any]
    """Must be the same for rows to stand beside each other."""
    conditions: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    tables: dict[str, list[dict[str, Any]]]

    def put(self, row: Row) -> None:
        """Add a row, in place of an older one of the same name."""
        self.rows[row.method] = {key: value for key, value in asdict(row).items() if key != "method"}


def open_results(path: Path, settings: dict[str, Any], conditions: dict[str, Any]) -> Results:
    """Results to go on with: rows of a file with the same settings are kept.

    Raises:
        InputError: the file is unreadable, or holds results with other settings.
    """
    if not path.exists():
        return Results(settings, conditions, {}, {})
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]}); use another --out") from error
    if not isinstance(document, dict) or not all(
        isinstance(document.get(key), dict) for key in ("settings", "methods", "tables")
    ):
        raise InputError(f"{path}: is no result of benchmarks.compare_methods; use another --out")
    old = document["settings"]
    changed = sorted(key for key in settings.keys() | old.keys() if settings.get(key) != old.get(key))
    if changed:
        raise InputError(f"{path}: has results with another {', '.join(changed)}; use another --out")
    return Results(settings, conditions, document["methods"], document["tables"])


def write_results(path: Path, results: Results) -> None:
    """Write the YAML atomically."""
    document = {
        **results.conditions,
        "settings": results.settings,
        "methods": results.rows,
        "tables": results.tables,
    }
    write_bytes(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120).encode())


def render(results: Results) -> str:
    """Markdown: methods by accuracy, then the tables."""
    head = "method", "GMACs", "budget met by", "trained", "steps", "top-1, %", "95 %", "to dense", "95 %", "mid-p"
    rows = sorted(results.rows.items(), key=lambda item: -item[1]["top1"])
    lines = _table(head, [_cells(name, row) for name, row in rows])
    for name, table in results.tables.items():
        if table:
            lines += ["", f"{name}:", "", *_table(list(table[0]), [list(map(str, row.values())) for row in table])]
    return "\n".join(lines)


def _cells(name: str, row: dict[str, Any]) -> Sequence[str]:
    return (
        name,
        f"{row['gmacs']:.3f}",
        row["how"],
        row["trained"],
        str(row["steps"]),
        f"{row['top1']:.2f}",
        "{:.1f} to {:.1f}".format(*row["top1_interval"]),
        f"{row['difference']:+.2f}",
        "{:+.1f} to {:+.1f}".format(*row["difference_interval"]),
        f"{row['mid_p']:.2g}",
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
