"""What the logits of a net mean: class names from a file, from folders, or from what stands beside the weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tofe_edge.errors import InputError, naming, quoted
from tofe_edge.io.documents import Text, parse_json

LONGEST = 200
"""Characters of a class name."""


@dataclass(frozen=True)
class Classes:
    """What the logits mean: ids (WordNet ids for ImageNet; what folders of images are called) and names, in logit order."""

    ids: tuple[Text, ...]
    names: tuple[Text, ...]


def read_labels(source: Path) -> Classes:
    """Class names in the order of the logits.

    ======================  ==========================================================================================
    ``source``              what it gives
    ======================  ==========================================================================================
    a folder                the names of its sub-folders in ImageFolder's order (by text: ``1``, ``10``, ``2``)
    ``.json``               a list of names, ``{"0": name}``, ``{name: 0}``, ``{"0": [id, name]}``, or a ``config.json`` with
                            ``id2label`` or ``label_names``
    any other file          one name per line
    ======================  ==========================================================================================

    Raises:
        InputError: it cannot be read, or does not name classes.
    """
    if source.is_dir():
        return name_classes(folder_names(source))
    try:
        text = source.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(
            f"{source}: no such file or folder of labels; give names, one per line, or `imagenet`"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{source}: cannot be read as text ({type(error).__name__}); give names, one per line"
        ) from error
    with naming(source):
        if source.suffix.lower() != ".json":
            return name_classes([line.strip() for line in text.rstrip().splitlines()])
        try:
            return _from_json(parse_json(text))
        except (ValueError, RecursionError) as error:
            raise InputError(f"is not JSON ({error})") from error


def folder_names(folder: Path) -> list[str]:
    """Names of the sub-folders in the order in which torchvision's ImageFolder numbers them.

    Raises:
        InputError: there is none.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise InputError(f"{folder}: has no sub-folders, whose names would be those of the classes")
    return names


def name_classes(names: Sequence[Any]) -> Classes:
    """Classes of these names, by which their folders are called as well.

    Raises:
        InputError: one is not a text, is empty or too long.
    """
    if not names:
        raise InputError("names no class")
    for position, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST or "\n" in name:
            raise InputError(
                f"class {position} is {quoted(name)}; give a name of one line, at most {LONGEST} characters"
            )
    # Folders need names of their own; ImageNet has two cranes.
    often = Counter(names)
    ids = [name if often[name] == 1 else f"{name} ({position})" for position, name in enumerate(names)]
    return Classes(tuple(ids), tuple(names))


def default_classes(count: int) -> Classes:
    """Classes that nobody named: ``class 0``, ``class 1``, …; their ids are the numbers."""
    return Classes(tuple(map(str, range(count))), tuple(f"class {number}" for number in range(count)))


def _from_json(content: Any) -> Classes:
    found = classes_in(content) if isinstance(content, Mapping) else None
    if found is not None:
        return found
    if isinstance(content, Mapping):
        content = _in_order(content)
    if not isinstance(content, list):
        raise InputError('is not a list of names or an object such as {"0": "cat", "1": "dog"}')
    pairs = [one for one in content if isinstance(one, list) and len(one) == 2]
    if content and len(pairs) == len(content):
        ids, names = (name_classes([pair[part] for pair in pairs]) for part in (0, 1))
        return Classes(ids.names, names.names)
    return name_classes(content)


def _in_order(content: Mapping[str, Any]) -> list[Any]:
    """The names of ``{"0": name}`` or ``{name: 0}``."""
    if content and all(type(value) is int for value in content.values()):
        content = {str(number): name for name, number in content.items()}
    missing = [number for number in range(len(content)) if str(number) not in content]
    if missing:
        raise InputError(f'{len(content)} classes are not numbered from "0"; {missing[0]} is missing')
    return [content[str(number)] for number in range(len(content))]


def classes_in(config: Mapping[str, Any]) -> Classes | None:
    """The classes that a config of transformers or timm names, or ``None``.

    Raises:
        InputError: it names them in a way that cannot be.
    """
    if isinstance(config.get("id2label"), Mapping):
        names = _in_order({str(key): value for key, value in config["id2label"].items()})
        # What transformers writes if nobody named them.
        return None if all(str(name).startswith("LABEL_") for name in names) else name_classes(names)
    timm = config.get("pretrained_cfg")
    for holder in (config, timm if isinstance(timm, Mapping) else {}):
        ids, texts = holder.get("label_names"), holder.get("label_descriptions") or config.get("label_descriptions")
        if isinstance(ids, list) and ids:
            plain = name_classes(ids)
            if not isinstance(texts, Mapping):
                return plain
            return Classes(plain.ids, tuple(str(texts.get(one, one)).split(",")[0] or one for one in plain.names))
    return None


_INDEX = re.compile("[0-9]{1,9}")


class ClassMap:
    """The classes of a net: ids in the order of its logits, at least one."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._index = {identifier: position for position, identifier in enumerate(ids)}
        self._count = len(ids)
        # Where ids are numbers themselves, "3" must not mean the id here and the position there.
        self._has_numbers = any(map(_INDEX.fullmatch, ids))
        self.example = ids[0]

    def by_id(self, text: str) -> int | None:
        """The index of a class id; None: there is no such class."""
        return self._index.get(text)

    def by_index(self, text: str) -> int | None:
        """An index from 0 in decimal digits; None: it is none, or there is no such class."""
        index = int(text) if _INDEX.fullmatch(text) else self._count
        return index if index < self._count else None

    def find(self, text: str) -> int | None:
        """A class id or, for nets whose ids are no numbers, an index; None: neither."""
        position = self.by_id(text)
        return self.by_index(text) if position is None and not self._has_numbers else position

    @property
    def expected(self) -> str:
        """What :meth:`find` takes, for messages."""
        by_index = "" if self._has_numbers else f" or an index from 0 to {self._count - 1}"
        return f"a class id of this model (such as {self.example}){by_index}"
