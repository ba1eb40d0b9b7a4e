"""Results of a comparison: rows, and the YAML file that keeps them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from tofe_edge.errors import InputError
from tofe_edge.io.files import write_bytes

_CONDITIONS: dict[str, Any] = {
    "date": str,
    "backbone": str,
    "image_size": int,
    "host": dict,
    "threads": int,
    "pinned_to": list,
    "runs": int,
    "gmacs": dict,
    "tokens": str,
    "command": str,
    "baseline": str,
}


@dataclass(frozen=True)
class Row:
    """One contender's figures. Times are milliseconds a run, wall clock unless said."""

    name: str
    group: str
    runtime: str
    precision: str
    p50_ms: float
    p90_ms: float
    min_ms: float
    cpu_ms: float
    """CPU time of the process, mean: well under ``p50_ms`` where others used the core too."""
    speedup: float
    """Median of the baseline over this median."""
    size_mb: float
    """1e6 bytes."""
    delegates: int | None
    snr_db: float
    """Of the logits against eager fp32; inf where they are equal."""
    cosine: float


@dataclass(frozen=True)
class Results:
    """A result file: the conditions of the measurement, and a row per contender."""

    conditions: dict[str, Any]
    rows: tuple[Row, ...]

    def groups(self) -> list[str]:
        """``dense`` and ``ToFe``, as far as they were measured."""
        return list(dict.fromkeys(row.group for row in self.rows))


def write_results(path: Path, results: Results) -> None:
    """Write the YAML atomically."""
    document = {**results.conditions, "results": [asdict(row) for row in results.rows]}
    write_bytes(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120).encode())


def read_results(path: Path) -> Results:
    """Read a result file.

    Raises:
        InputError: it cannot be read, is no YAML, or a field is missing or of another type.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no YAML ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: is no result of benchmarks.runtimes; expected a mapping")
    for key, kind in _CONDITIONS.items():
        if not isinstance(document.get(key), kind):
            raise InputError(f"{path}: field {key!r} is missing or no {kind.__name__}")
    if not isinstance(document["host"].get("processor"), str):
        raise InputError(f"{path}: field 'host' has no processor")
    rows = document.pop("results", None)
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: field 'results' is missing or empty")
    read = tuple(_row(path, number, row) for number, row in enumerate(rows))
    for row in read:
        if not isinstance(document["gmacs"].get(row.group), (int, float)):
            raise InputError(f"{path}: field 'gmacs' says nothing of group {row.group!r}")
    return Results(document, read)


def _row(path: Path, number: int, row: Any) -> Row:
    where = f"{path}: results[{number}]"
    if not isinstance(row, dict):
        raise InputError(f"{where} is no mapping")
    hints = get_type_hints(Row)
    unknown = sorted(set(row) - set(hints), key=str)
    if unknown:
        raise InputError(f"{where} has an unknown field {unknown[0]!r}")
    values: dict[str, Any] = {}
    for field in fields(Row):
        value, kind = row.get(field.name), hints[field.name]
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if field.name not in row or not fits or value != value:  # NaN is no figure either
            raise InputError(f"{where}: field {field.name!r} is missing or no {getattr(kind, '__name__', kind)}")
        values[field.name] = value
    return Row(**values)
