"""Results of a comparison: rows, and the YAML file that keeps them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from benchmarks import host
from tofe_edge.errors import InputError


def _is_number(value: float) -> float:
    if value != value:
        raise ValueError("NaN is not a figure")
    return value


Figure = Annotated[float, AfterValidator(_is_number)]


@dataclass(frozen=True)
class Row:
    """One contender's figures. Times are milliseconds per run, wall clock unless said."""

    name: str
    group: str
    runtime: str
    precision: str
    p50_ms: Figure
    p90_ms: Figure
    min_ms: Figure
    cpu_ms: Figure
    """CPU time of the process, mean: well under ``p50_ms`` where others used the core too."""
    speedup: Figure
    """Median of the baseline over this median."""
    size_mb: Figure
    """1e6 bytes."""
    delegates: int | None
    snr_db: Figure
    """SNR of the logits against eager fp32; inf where they are equal."""
    cosine: Figure

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Results:
    """A result file: the conditions of the measurement, and a row per contender."""

    conditions: dict[str, Any]
    rows: tuple[Row, ...]

    def groups(self) -> list[str]:
        """``dense`` and ``ToFe``, as far as they were measured."""
        return list(dict.fromkeys(row.group for row in self.rows))


class _Host(BaseModel, extra="allow"):
    processor: str


class _File(BaseModel, extra="allow", strict=True):
    """What a result file must have; other conditions are kept as they are."""

    date: str
    backbone: str
    image_size: int
    host: _Host
    threads: int
    pinned_to: list[int]
    runs: int
    gmacs: dict[str, float]
    tokens: str
    command: str
    baseline: str


def write_results(path: Path, results: Results) -> None:
    """Write the YAML atomically."""
    host.write(path, {**results.conditions, "results": [asdict(row) for row in results.rows]})


def read_results(path: Path) -> Results:
    """Read a result file.

    Raises:
        InputError: it cannot be read, is not YAML, or a field is missing or of another type.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not YAML ({' '.join(str(error).split())[:120]})") from error
    try:
        conditions = _File.model_validate(document)
        rows = TypeAdapter(tuple[Row, ...]).validate_python(tuple(document.pop("results", None) or ()))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path}: {place}: {first['msg']}; expected a result of benchmarks.runtimes") from error
    missing = {row.group for row in rows} - conditions.gmacs.keys()
    if not rows or missing:
        raise InputError(f"{path}: has {f'no GMACs of {min(missing)}' if missing else 'no results'}")
    return Results(document, rows)
