"""What a data source gives, and what it leaves out: every file that is not read is counted and named by its cause."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from tofe_edge.errors import InputError, quoted
from tofe_edge.io.image_formats import HEAD, NAMES, SUFFIXES, why_no_image

Item = TypeVar("Item")

HIDDEN = "hidden"

_SYSTEM = frozenset({".DS_Store", "Thumbs.db", "desktop.ini", ".directory"})
"""What file managers leave; nobody misses them."""

_MOST_CAUSES = 20
"""More are counted together: a message may hold the size of each image."""

_SETS = re.compile(
    r"(train|val|eval|test)(ing|id|idation|uation)?([-_.]?(set|data|images|split|[0-9]+))*", re.IGNORECASE
)


@dataclass(frozen=True)
class LeftOut:
    """Files of a data source that are not read, of one cause."""

    cause: str
    count: int
    first: Path

    def __str__(self) -> str:
        place = self.first.parent.name
        first = f"{place}/{self.first.name}" if place else self.first.name
        return f"{self.count} left out: {self.cause} (first: {first})"

    def to_json(self) -> dict[str, Any]:
        """An entry of ``left_out`` in ``--json``."""
        return {"cause": self.cause, "count": self.count, "first": str(self.first)}


def merged(left_out: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """One of each cause."""
    causes: dict[str, LeftOut] = {}
    for one in left_out:
        known = causes.get(one.cause)
        causes[one.cause] = replace(known, count=known.count + one.count) if known else one
    return tuple(causes.values())


class Tally:
    """Counts what is left out, however much that is."""

    def __init__(self, left_out: Iterable[LeftOut] = ()) -> None:
        self._causes = {one.cause: one for one in left_out}

    def add(self, cause: str, path: Path) -> None:
        """Count a file."""
        if cause not in self._causes and len(self._causes) >= _MOST_CAUSES:
            cause = "other causes"
        known = self._causes.get(cause)
        self._causes[cause] = LeftOut(cause, known.count + 1 if known else 1, known.first if known else path)

    def add_unreadable(self, path: Path, reason: str) -> None:
        """Count a file by the message of the error that reading it gave."""
        cause = re.split(r" \(|; ", reason.removeprefix(f"{path}: "))[0]
        self.add(cause.removeprefix("is "), path)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """By cause, in the order in which they were met."""
        return tuple(self._causes.values())


@dataclass(frozen=True)
class Coverage:
    """How much of a data source is used.

    Attributes:
        left_out: files that are not, by cause.
        sets: names of folders such as ``train`` and ``val``, if there are several.
    """

    left_out: tuple[LeftOut, ...] = ()
    sets: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be said about it, one line each."""
        both = " and ".join(self.sets)
        return (*([f"{both} are read together, as one set"] if both else ()), *map(str, self.left_out))

    def to_json(self) -> list[dict[str, Any]]:
        """The value of ``left_out`` in ``--json``."""
        return [one.to_json() for one in self.left_out]

    def without(self, left_out: Iterable[LeftOut]) -> Coverage:
        """The same with more left out."""
        return Coverage(merged((*self.left_out, *left_out)), self.sets)

    def refuse_sets(self, source: Path) -> None:
        """Raise :class:`InputError` if there are several: what accuracy is measured on must not be trained on."""
        if self.sets:
            raise InputError(
                f"{source}: holds {' and '.join(map(quoted, self.sets))}; train on one of them, such as {source / self.sets[0]}"
            )


EVERYTHING = Coverage()


class Found(list[Item], Generic[Item]):
    """What a data source gives, in its order, and what it leaves out."""

    def __init__(self, items: Iterable[Item], coverage: Coverage = Coverage(), empty: Sequence[Path] = ()) -> None:
        super().__init__(items)
        self.coverage = coverage
        self.empty = tuple(empty)
        """Folders without an image in or below them."""


def sets_of(folders: Iterable[str]) -> tuple[str, ...]:
    """Names of folders or shards that are sets of a data set (``train``, ``val``, ``test``) if they are of different ones."""
    kinds: dict[str, str] = {}
    for name in folders:
        if matched := _SETS.fullmatch(name):
            kinds.setdefault(matched[1].lower().replace("eval", "val"), name)
    order = ("train", "val", "test")
    return tuple(kinds[kind] for kind in order if kind in kinds) if len(kinds) > 1 else ()


def describe_left_out(left_out: Sequence[LeftOut]) -> str:
    """What is left out in a few words, for messages; nothing if there is nothing."""
    return f" ({'; '.join(map(str, left_out))})" if left_out else ""


def list_images(folder: Path, class_ids: Sequence[str] = ()) -> Found[Path]:
    """All image files below ``folder``, told by suffix (any case) or else by content, in sorted order, and what is left out.

    Hidden files and folders (a leading dot) are left out. A link counts as what it leads to, but for one to a folder that
    it stands in, so loops of links end. The order compares path components by code point and is the same on every machine.

    Args:
        class_ids: folders of these names are classes, though they be called ``train`` or ``test``.

    Returns:
        At least one path, each beginning with ``folder``.

    Raises:
        InputError: the folder is absent, not a folder, unreadable anywhere below, or holds no image.
    """
    tally, paths, folders = Tally(), list[Path](), list[Path]()
    try:
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise _refusal(folder, f"{what}; give a folder of images")
        for root, names in _walk(folder, tally):
            folders.append(root)
            for name in names:
                path = root / name
                cause = why_left_out(path)
                if cause is None:
                    paths.append(path)
                elif name not in _SYSTEM:
                    tally.add(cause, path)
    except (OSError, ValueError) as error:
        place = Path(getattr(error, "filename", None) or folder)
        reason = getattr(error, "strerror", None) or str(error)
        raise _refusal(place, f"cannot be read ({reason}); change its permissions") from error
    if not paths:
        raise _refusal(folder, f"holds no image{describe_left_out(tally.left_out)}; give a folder with {NAMES} files")
    paths.sort(key=lambda path: path.parts)
    full = {parent for place in {path.parent for path in paths} for parent in (place, *place.parents)}
    empty = sorted(place for place in folders if place not in full and place.parent in full)
    own = set(class_ids)
    names_below = [place.name for place in sorted(full) if folder in place.parents and place.name not in own]
    return Found(paths, Coverage(tally.left_out, sets_of(names_below)), empty)


def _walk(folder: Path, tally: Tally) -> Iterator[tuple[Path, list[str]]]:
    """Every folder that is not hidden, and the names of its files."""
    for root, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        below = []
        for name in sorted(folders):
            path = Path(root, name)
            if name.startswith("."):
                tally.add("hidden folder", path)
            elif _is_loop(path):
                tally.add("link to a folder that it stands in", path)
            else:
                below.append(name)
        folders[:] = below
        yield Path(root), sorted(names)


def why_left_out(path: Path) -> str | None:
    """Why a file is left out; ``None``: it is an image."""
    if path.name.startswith("."):
        return HIDDEN
    if not path.is_file():
        return "not a regular file" if path.exists() else "link that leads nowhere"
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return None
    try:
        with path.open("rb") as handle:
            return why_no_image(suffix, handle.read(HEAD))
    except OSError as error:
        return f"cannot be read, {(error.strerror or str(error)).lower()}"


def _is_loop(folder: Path) -> bool:
    """Whether it is a link to a folder that it stands in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _raise(error: OSError) -> None:
    raise error


def _refusal(path: Path, what: str) -> InputError:
    """An InputError of one line, whatever a file name holds."""
    return InputError(" ".join(f"{path}: {what}".splitlines()))
