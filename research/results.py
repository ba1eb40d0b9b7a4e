"""Results of the comparison of methods: rows, the YAML that keeps them, and the Markdown table that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from tabulate import tabulate

from tofe_edge.errors import InputError
from tofe_edge.evaluation.statistics import bootstrap_difference, mcnemar, top_k_accuracy, top_k_hits
from tofe_edge.io.files import write_bytes

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
    hits: str
    """A bit per image, in their order: whether it is right; see :func:`packed`."""


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
        mid_p=_short(test.mid_p),
        hits=packed(after),
    )


def packed(hits: Array) -> str:
    """Right or wrong ``(V,)`` as hexadecimal digits, the first image in the highest bit, zeros behind the last."""
    return np.packbits(hits).tobytes().hex()


def unpacked(text: str, images: int) -> Array:
    """The ``(images,)`` that :func:`packed` was given.

    Raises:
        InputError: the text is not that of so many images.
    """
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        octets = b""
    if len(octets) != -(-images // 8):
        raise InputError(f"hits {text[:12]!r}… are not those of {images} images; use another --out")
    return np.unpackbits(np.frombuffer(octets, np.uint8), count=images).astype(bool)


def _short(p: float) -> float:
    return float(np.format_float_scientific(p, precision=2))


@dataclass(frozen=True)
class Results:
    """A result file: how methods were compared, a row each, and the tables of further ablations by name."""

    settings: dict[str, Any]
    """Must be the same for rows to stand beside each other; ``validation_images`` is the V of hits."""
    calls: list[dict[str, Any]]
    """When, where and by which commands rows came about; the last one is going on."""
    rows: dict[str, dict[str, Any]]
    """``call`` is the row's index in ``calls``."""
    tables: dict[str, list[dict[str, Any]]]

    def put(self, row: Row) -> None:
        """Add a row of the last call, in place of an older one of the same name."""
        figures = {key: value for key, value in asdict(row).items() if key not in ("method", "hits")}
        self.rows[row.method] = {"call": len(self.calls) - 1, **figures, "hits": row.hits}

    def best(self, names: Sequence[str]) -> str | None:
        """The most accurate of these that was trained in the comparison and whose hits are known."""
        found = [name for name in names if self._hits(name) and self.rows[name]["trained"] == "yes"]
        return max(found, key=lambda name: float(self.rows[name]["top1"]), default=None)

    def differences_to(self, name: str) -> dict[str, dict[str, Any]]:
        """Differences of each other method whose hits are known to method ``name``, on the same images."""
        images = int(self.settings["validation_images"])
        before = unpacked(self._hits(name), images)
        found = {}
        for other in self.rows:
            if other != name and self._hits(other):
                after = unpacked(self._hits(other), images)
                gap, test = bootstrap_difference(before, after), mcnemar(before, after)
                found[other] = {
                    "difference": round(gap.estimate, 2),
                    "interval": [round(gap.low, 2), round(gap.high, 2)],
                    "mid_p": _short(test.mid_p),
                }
        return found

    def _hits(self, name: str) -> str:
        return str(self.rows.get(name, {}).get("hits", ""))


def open_results(path: Path, settings: dict[str, Any], call: dict[str, Any]) -> Results:
    """Results to go on with in ``call``: rows of a file with the same settings are kept.

    Raises:
        InputError: the file is unreadable, or holds results with other settings.
    """
    if not path.exists():
        return Results(settings, [call], {}, {})
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]}); use another --out") from error
    kinds = {"settings": dict, "calls": list, "methods": dict, "tables": dict}
    if not isinstance(document, dict) or not all(isinstance(document.get(key), kind) for key, kind in kinds.items()):
        raise InputError(f"{path}: is not a result of research.compare_methods; use another --out")
    old = document["settings"]
    changed = sorted(key for key in settings.keys() | old.keys() if settings.get(key) != old.get(key))
    if changed:
        raise InputError(f"{path}: has results with another {', '.join(changed)}; use another --out")
    calls = document["calls"]
    if calls[-1:] != [call]:  # else it is repeated, to go on where it was interrupted
        calls.append(call)
    return Results(settings, calls, document["methods"], document["tables"])


def write_results(path: Path, results: Results, tofe: Sequence[str]) -> None:
    """Write the YAML atomically, with the differences of all methods to the best of ``tofe``."""
    best = results.best(tofe)
    document = {
        "calls": results.calls,
        "settings": results.settings,
        "methods": results.rows,
        **({"to_tofe": {"method": best, "differences": results.differences_to(best)}} if best else {}),
        "tables": results.tables,
    }
    write_bytes(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120).encode())


def render(results: Results, tofe: Sequence[str]) -> str:
    """Methods by accuracy, with the differences to the best of ``tofe``; then the tables."""
    best = results.best(tofe)
    gaps = results.differences_to(best) if best else {}
    rows = []
    for name, row in sorted(results.rows.items(), key=lambda item: -item[1]["top1"]):
        cells = {
            "method": name,
            "GMACs": f"{row['gmacs']:.3f}",
            "budget met by": row["how"],
            "steps": row["steps"],
            "top-1, %": f"{row['top1']:.2f}",
            "to dense": "{:+.2f} ({:+.1f} to {:+.1f})".format(row["difference"], *row["difference_interval"]),
        }
        if best:
            gap = gaps.get(name)
            cells[f"to {best}"] = (
                "{:+.2f} ({:+.1f} to {:+.1f})".format(gap["difference"], *gap["interval"]) if gap else ""
            )
        rows.append(cells)
    text = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    for name, table in results.tables.items():
        text += f"\n\n{name}:\n\n" + tabulate(table, headers="keys", tablefmt="github")
    return text
