"""Labelled images: ImageNet-style folders ``DIR/<class id>/<image>``, a CSV of paths and labels, or tar shards."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from PIL import Image

from tofe_edge.errors import InputError, quoted, require
from tofe_edge.io.image_formats import SUFFIXES
from tofe_edge.io.images import read_image
from tofe_edge.io.labels import ClassMap
from tofe_edge.io.listing import Coverage, Found, LeftOut, Tally, describe_left_out, list_images, sets_of
from tofe_edge.io.shards import Shard, is_shard, read_shard_image, set_of
from tofe_edge.io.tar import Member

_TABLE_SUFFIX = ".csv"

UNLABELLED = -1
"""The label of an image without one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its class: the index among the net's logits."""

    path: Path
    """The image, or the shard that holds it."""
    label: int
    member: Member | None = None
    """Which image of the shard; ``None``: ``path`` is the image."""

    @property
    def location(self) -> Path:
        """What names the image in messages and lists; of one in a shard, the shard's path and its own below that."""
        return self.path if self.member is None else self.path / self.member.name

    def read(self) -> Image.Image:
        """The image as upright 8-bit RGB.

        Raises:
            InputError: it cannot be read; the message names it.
        """
        return read_image(self.path) if self.member is None else read_shard_image(self.path, self.member)


def find_samples(source: Path, class_ids: Sequence[str], allow_empty: bool = False) -> Found[Sample]:
    """Every image of a data source with its class, and what is left out. One that is corrupt shows when it is read.

    ========================  =================================================================================
    ``source``                what it gives
    ========================  =================================================================================
    a folder                  its images, each in a sub-folder named after its class, in sorted order; several
                              such sets may stand one level deeper (``train/a/<id>``, ``train/b/<id>``)
    ``.csv``                  the lines of a table, see :func:`read_table`
    ``.tar``                  the members of a shard, see :class:`Shard`
    a folder of ``.tar``      those of all its shards, in the order of their names
    ========================  =================================================================================

    Args:
        class_ids: of the net, in the order of its logits.
        allow_empty: leave out classes of which there is a folder, but no image.

    Raises:
        InputError: there are no classes, it does not exist, cannot be read, holds no image, does not fit the net's classes,
            or a class is empty.
    """
    require(class_ids, f"{source}: its images cannot be labelled, the model has no head and so no classes")
    classes = ClassMap(class_ids)
    path = source
    try:
        if source.is_dir():
            shards = sorted(entry for entry in source.iterdir() if _is_visible_shard(entry))
            if not shards:
                return _folder(source, class_ids, classes, allow_empty)
            _refuse_mixture(source, shards, classes)
        elif source.name.lower().endswith(_TABLE_SUFFIX):
            _require_file(source)
            return Found(Sample(image, label) for image, label in read_table(source, classes))
        else:
            _require_file(source)
            shards = [source]
            if not is_shard(source):
                raise InputError(f"{source}: is not a folder, a .csv or a .tar file; give one of them")
        samples, tally, lacking = list[Sample](), Tally(), dict[int, Path]()
        for path in shards:
            _require_file(path)
            shard = Shard(path, classes, tally, lacking)
            samples += [Sample(path, label, member) for member, label in shard.read()]
        for sample in samples:
            lacking.pop(sample.label, None)
        check_empty(source, list(lacking.values()), allow_empty, tally)
        own = set(class_ids)
        folders = {one for sample in samples for one in sample.location.relative_to(sample.path).parts[:-1]} - own
        sets = sets_of([*sorted(folders), *(set_of(shard) for shard in shards)])
        return Found(samples, Coverage(tally.left_out, sets))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    except InputError as error:
        # Names of files may hold line breaks.
        raise InputError(" ".join(str(error).splitlines())) from error


def find_images(source: Path) -> Found[Sample]:
    """Every image of a folder of any depth, of a shard, or of a folder of shards, without labels, and what is left out.

    Raises:
        InputError: it does not exist, cannot be read, or holds no image.
    """
    try:
        shards = [source] if is_shard(source) else []
        if source.is_dir():
            shards = sorted(entry for entry in source.iterdir() if _is_visible_shard(entry))
        if not shards:
            paths = list_images(source)
            return Found((Sample(path, UNLABELLED) for path in paths), paths.coverage)
        nothing, samples, tally = ClassMap(("",)), list[Sample](), Tally()
        if source.is_dir():
            _refuse_mixture(source, shards, nothing)
        for path in shards:
            _require_file(path)
            members, _ = Shard(path, nothing, tally, {}).members()
            samples += [Sample(path, UNLABELLED, member) for member in members.values()]
        require(samples, f"{source}: holds no image{describe_left_out(tally.left_out)}; give a tar of images")
        return Found(samples, Coverage(tally.left_out, sets_of(map(set_of, shards))))
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error}); check its permissions") from error
    except InputError as error:
        raise InputError(" ".join(str(error).splitlines())) from error


def refuse_lost(source: Path, lost: Sequence[int], class_ids: Sequence[str], left_out: Sequence[LeftOut]) -> None:
    """Raise :class:`InputError` if there are classes of which no image could be read."""
    if lost:
        others = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
        raise InputError(
            f"{source}: no image of class {quoted(class_ids[lost[0]])}{others} can be read{describe_left_out(left_out)}; "
            "mend them, or go on without with --allow-empty"
        )


def sample_evenly(samples: Sequence[Sample], limit: int | None, seed: int = 0) -> list[Sample]:
    """A seeded selection of ``limit`` samples, spread over classes as evenly as their numbers allow, sorted by location.

    The order of ``samples`` does not matter. Never "the first k": on sorted folders those are the first few classes.
    """
    samples = sorted(samples, key=lambda sample: sample.location)
    if limit is None or limit >= len(samples):
        return samples
    generator = np.random.default_rng(seed)
    by_class: dict[int, list[Sample]] = {}
    for position in generator.permutation(len(samples)):
        by_class.setdefault(samples[position].label, []).append(samples[position])
    turns = [
        (turn, order, sample)
        for order, label in enumerate(generator.permutation(sorted(by_class)))
        for turn, sample in enumerate(by_class[label])
    ]
    turns.sort(key=lambda item: item[:2])
    return sorted((sample for _, _, sample in turns[:limit]), key=lambda sample: sample.location)


def _folder(folder: Path, class_ids: Sequence[str], classes: ClassMap, allow_empty: bool) -> Found[Sample]:
    samples, found = [], list_images(folder, class_ids)
    for path in found:
        label = classes.by_id(path.parent.name)
        if label is None:
            raise InputError(
                f"{path.parent}: {quoted(path.parent.name)} is not a class id of this model (such as {classes.example}); "
                f"expected FOLDER/<class id>/<image>{_hint(folder, class_ids)}"
            )
        samples.append(Sample(path, label))
    tally = Tally(found.coverage.left_out)
    full = {sample.label for sample in samples}
    empty = [place for place in found.empty if classes.by_id(place.name) not in full]
    check_empty(folder, [place for place in empty if classes.by_id(place.name) is not None], allow_empty, tally)
    return Found(samples, Coverage(tally.left_out, found.coverage.sets))


def check_empty(source: Path, empty: Sequence[Path], allowed: bool, tally: Tally) -> None:
    """Count classes without an image, or raise :class:`InputError`."""
    if empty and not allowed:
        others = f" and {len(empty) - 1} others have" if len(empty) > 1 else " has"
        raise InputError(
            f"{source}: class {quoted(empty[0].name)}{others} no image{describe_left_out(tally.left_out)}; "
            "add some, remove the folder, or go on without with --allow-empty"
        )
    for place in empty:
        tally.add("class without an image", place)


def _hint(folder: Path, class_ids: Sequence[str]) -> str:
    """What to try if the folders may be the classes that a net was trained on."""
    count = sum(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir())
    return (
        f"; if it was trained on these folders, name its classes with --labels {folder}"
        if count == len(class_ids)
        else ""
    )


def _is_visible_shard(path: Path) -> bool:
    return is_shard(path) and not path.name.startswith(".") and not path.is_dir()


def _refuse_mixture(folder: Path, shards: Sequence[Path], classes: ClassMap) -> None:
    """Taking one kind would leave out the other in silence."""
    for entry in sorted(folder.iterdir()):
        is_class = entry.is_dir() and classes.by_id(entry.name) is not None
        if is_class or entry.suffix.lower() in SUFFIXES:
            raise InputError(
                f"{folder}: holds both {quoted(shards[0].name)} and {quoted(entry.name)}; "
                "give the shards or the images, each in a folder of their own"
            )


def _require_file(path: Path) -> None:
    """Raise InputError unless there is a regular file: opening a pipe would wait for ever."""
    if not path.is_file():
        raise InputError(f"{path}: {'is not a regular file' if path.exists() else 'does not exist'}; check the path")


_COLUMNS = ("path", "label")
_MAX_LINE = 65536
_UTF8 = "utf-8-sig"  # takes a byte order mark, and does without


def read_table(table: Path, classes: ClassMap) -> list[tuple[Path, int]]:
    """Paths of images and the index of their class, in the order of the lines.

    Paths are relative to the table's folder and stay below it: ``..`` is resolved by name, so a link to a folder
    cannot lead it elsewhere. Whether there is an image at the path shows when it is read. Other columns, lines of blanks and
    blanks around a path are ignored, unless a file is called so.

    Args:
        table: a regular file; UTF-8, commas, fields quoted where they hold a comma, quote or line break.

    Raises:
        InputError: no such columns, a label that is no class, a path that leaves the folder or stands twice, no image
            at all, or it is not a CSV in UTF-8. The message names the first such line.
        OSError: it cannot be opened or read.
    """
    lines: dict[Path, tuple[int, int]] = {}
    with table.open(encoding=_UTF8, newline="") as handle:
        rows = csv.reader(_lines(handle, table), strict=True)
        try:
            filled = (row for row in rows if any(map(str.strip, row)))
            columns = _columns(next(filled, []), table)
            for row in filled:
                where = f"{table}: line {rows.line_num}"
                if len(row) != columns.fields:
                    raise InputError(
                        f"{where} has {len(row)} fields, the first line {columns.fields}; quote fields that hold a comma"
                    )
                path = table.parent / _inside(row[columns.path], where)
                plain = row[columns.path].strip()
                if plain != row[columns.path] and not os.path.isfile(path):  # False for names too long
                    path = table.parent / _inside(plain, where)
                label = classes.find(row[columns.label].strip())
                if label is None:
                    raise InputError(
                        f"{where}: label {quoted(row[columns.label])} is not {classes.expected}; correct it"
                    )
                if path in lines:
                    raise InputError(
                        f"{where}: {quoted(row[columns.path])} is in line {lines[path][1]} already; remove one of them"
                    )
                lines[path] = (label, rows.line_num)
        except csv.Error as error:
            raise InputError(f"{table}: line {rows.line_num} is not a CSV ({error}); write it again") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{table}: is not UTF-8 ({error.reason}); save it as UTF-8") from error
    if not lines:
        raise InputError(f"{table}: lists no image; give lines of path,label")
    return [(path, label) for path, (label, _) in lines.items()]


class _Columns(NamedTuple):
    """How many there are, and which is which."""

    fields: int
    path: int
    label: int


def _columns(header: list[str], table: Path) -> _Columns:
    names = [name.strip() for name in header]
    for column in _COLUMNS:
        if names.count(column) != 1:
            raise InputError(
                f"{table}: the first line must name the column {column!r} once, it is {quoted(','.join(header))}; "
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
        raise InputError(f"{where}: {quoted(text)} is not a path below the file's folder; give paths relative to it")
    return Path(*parts)


def _lines(handle: TextIO, table: Path) -> Iterator[str]:
    """The lines of a table, none longer than ``_MAX_LINE``."""
    number = 0
    while line := handle.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE:
            raise InputError(
                f"{table}: line {number} is longer than {_MAX_LINE} characters; is it a CSV of path,label?"
            )
        yield line


#: What is taken for a shard by name. Compressed ones are among them, to be refused rather than overlooked.
