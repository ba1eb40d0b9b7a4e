"""Images and labels in a CSV file: a first line with ``path`` and ``label``, then one image a line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from tofe_edge.errors import InputError
from tofe_edge.io.labels import ClassMap, shown

_COLUMNS = ("path", "label")
_MAX_LINE = 65536
_UTF8 = "utf-8-sig"  # takes a byte order mark, and does without


def read_table(table: Path, classes: ClassMap) -> list[tuple[Path, int]]:
    """Paths of images and the index of their class, in the order of the lines.

    Paths are relative to the table's folder and stay below it: ``..`` is resolved by name, so a link to a folder
    cannot lead it elsewhere. Whether there is an image at the path shows when it is read. Other columns are ignored.

    Args:
        table: a regular file; UTF-8, commas, fields quoted where they hold a comma, quote or line break.

    Raises:
        InputError: no such columns, a label that is no class, a path that leaves the folder or stands twice, no image
            at all, or it is no CSV in UTF-8. The message names the first such line.
        OSError: it cannot be opened or read.
    """
    found: dict[Path, tuple[int, int]] = {}
    with table.open(encoding=_UTF8, newline="") as handle:
        rows = csv.reader(_lines(handle, table), strict=True)
        try:
            columns = _columns(next(rows, []), table)
            for row in filter(None, rows):
                where = f"{table}: line {rows.line_num}"
                if len(row) != columns.fields:
                    raise InputError(
                        f"{where} has {len(row)} fields, the first line {columns.fields}; quote fields that hold a comma"
                    )
                path = table.parent / _inside(row[columns.path], where)
                label = classes.find(row[columns.label].strip())
                if label is None:
                    raise InputError(
                        f"{where}: label {shown(row[columns.label])} is not {classes.expected}; correct it"
                    )
                if path in found:
                    raise InputError(
                        f"{where}: {shown(row[columns.path])} is in line {found[path][1]} already; remove one of them"
                    )
                found[path] = (label, rows.line_num)
        except csv.Error as error:
            raise InputError(f"{table}: line {rows.line_num} is no CSV ({error}); write it again") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{table}: is not UTF-8 ({error.reason}); save it as UTF-8") from error
    if not found:
        raise InputError(f"{table}: lists no image; give lines of path,label")
    return [(path, label) for path, (label, _) in found.items()]


class _Columns(NamedTuple):
    """How many there are, and which is which."""

    fields: int
    path: int
    label: int


def _columns(header: list[str], table: Path) -> _Columns:
    names = [name.strip() for name in header]
    for wanted in _COLUMNS:
        if names.count(wanted) != 1:
            raise InputError(
                f"{table}: the first line must name the column {wanted!r} once, it is {shown(','.join(header))}; "
                "begin the file with path,label"
            )
    return _Columns(len(names), *map(names.index, _COLUMNS))


def _inside(text: str, where: str) -> Path:
    """A relative path without ``..``."""
    path, parts = Path(text), list[str]()
    # Not os.path.normpath: some releases cut a path at a NUL.
    outside = bool(path.anchor)
    for part in path.parts:
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            outside = True
    if outside or not parts:
        raise InputError(f"{where}: {shown(text)} is no path below the file's folder; give paths relative to it")
    return Path(*parts)


def _lines(handle: TextIO, table: Path) -> Iterator[str]:
    """Lines of bounded length, whatever the file."""
    number = 0
    while line := handle.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE:
            raise InputError(
                f"{table}: line {number} is longer than {_MAX_LINE} characters; is it a CSV of path,label?"
            )
        yield line
