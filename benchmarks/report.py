"""Results of benchmarks.runtimes, and the README's latency table from one of them.

python -m benchmarks.report --readme README.md benchmarks/results/runtimes-deit_tiny-DATE.yaml
python -m benchmarks.report --readme README.md --check RESULT.yaml    # exit code 1 where the README is stale
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from benchmarks import host
from tofe_edge.errors import GateError, InputError, TofeEdgeError
from tofe_edge.io.files import write_bytes


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


BEGIN, END = "<!-- latency table -->", "<!-- /latency table -->"

MIN_SNR_DB = 10.0
"""Under this a contender does not compute the same thing any more, as in the gate of ``tofe-edge convert``."""

OURS = "tofe-edge"
_EMPTY = "–"


def render(results: Results, link: str) -> str:
    """Markdown between the markers: a row per runtime and precision, the dense net and ToFe side by side.

    Args:
        link: where the result file is, seen from the Markdown file.
    """
    groups = results.groups()
    gmacs = results.conditions["gmacs"]
    header = ["runtime", "precision"]
    header += [f"{group}, {gmacs[group]:.3f} GMACs" for group in groups]
    header += ["ratio", f"SNR, {' / '.join(groups)}", "size"]
    lines = [_line(header), "|---|---|" + "---:|" * (len(header) - 2)]
    fastest = {group: min((row.p50_ms for row in results.rows if _counts(row, group)), default=0.0) for group in groups}
    for runtime, precision in dict.fromkeys((row.runtime, row.precision) for row in results.rows):
        found = {row.group: row for row in results.rows if (row.runtime, row.precision) == (runtime, precision)}
        cells = [f"**{runtime}**" if runtime == OURS else runtime, precision]
        cells += [_time(found.get(group), fastest[group]) for group in groups]
        cells.append(" / ".join(_ratio(found.get(group)) for group in groups))
        cells.append(" / ".join(_snr(found.get(group)) for group in groups))
        cells.append(f"{found[next(reversed(found))].size_mb:.1f} MB")
        lines.append(_line(cells))
    return "\n".join([*lines, "", *_caption(results, link)])


def _counts(row: Row, group: str) -> bool:
    return row.group == group and row.snr_db >= MIN_SNR_DB


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _time(row: Row | None, fastest: float) -> str:
    if row is None:
        return _EMPTY
    text = f"{row.p50_ms:.2f} ms"
    return f"**{text}**" if row.p50_ms == fastest and row.snr_db >= MIN_SNR_DB else text


def _ratio(row: Row | None) -> str:
    if row is None:
        return _EMPTY
    return f"{row.speedup:.2f}x" if row.snr_db >= MIN_SNR_DB else "disagrees"


def _snr(row: Row | None) -> str:
    if row is None:
        return _EMPTY
    return "exact" if row.snr_db == float("inf") else f"{row.snr_db:.0f} dB"


def _caption(results: Results, link: str) -> list[str]:
    conditions = results.conditions
    threads, pinned = conditions["threads"], conditions["pinned_to"]
    how = "one thread" if threads == 1 else f"{threads} threads"
    how += f" pinned to core {pinned[0]}" if threads == len(pinned) == 1 else ""
    lines = [
        f"{conditions['backbone']}, {conditions['image_size']} px, one image, {how}; {conditions['host']['processor']}, "
        f"{conditions['date']}. Median of {conditions['runs']} runs, all contenders interleaved in one process. "
        f"ToFe keeps {conditions['tokens'].replace(',', ', ')} tokens.",
        f"Ratios are to {conditions['baseline']}. "
        f"SNR is of the logits against eager fp32 ([all figures]({link})): `{conditions['command']}`",
    ]
    if any(row.snr_db < MIN_SNR_DB for row in results.rows):
        lines.append(f'"Disagrees": under {MIN_SNR_DB:.0f} dB, so that its time is of another function.')
    return lines


def replace_block(text: str, block: str, path: Path) -> str:
    """``text`` with ``block`` between the markers.

    Raises:
        InputError: the markers are not there once each, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"{path}: needs one line {BEGIN} and, after it, one line {END}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table, or check it; 1 where it is stale, 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, metavar="RESULT.yaml")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="Markdown file to update (default: print the table)"
    )
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the Markdown file is stale")
    arguments = parser.parse_args(argv)
    try:
        _report(arguments)
    except TofeEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _report(arguments: argparse.Namespace) -> None:
    results = read_results(arguments.result)
    readme: Path | None = arguments.readme
    if readme is None:
        if arguments.check:
            raise InputError("--check needs --readme")
        print(render(results, arguments.result.as_posix()))
        return
    link = Path(os.path.relpath(arguments.result, readme.parent)).as_posix()
    try:
        text = readme.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{readme}: cannot be read ({error})") from error
    expected = replace_block(text, render(results, link), readme)
    if not arguments.check:
        write_bytes(readme, expected.encode())
    elif expected != text:
        raise GateError(f"{readme}: its latency table is not that of {arguments.result}; run without --check")


if __name__ == "__main__":
    sys.exit(main())
