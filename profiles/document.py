"""YAML text to checked values that remember their file, line and dotted key.

``yaml.safe_load`` drops line numbers, so the YAML node tree is read instead. This module knows nothing of devices;
``schema.py`` says which keys there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from tofe_edge.errors import InputError, did_you_mean, shown

MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_NODES = 10_000

_TAG_PREFIX = "tag:yaml.org,2002:"
# Plain decimals only: YAML 1.1 also reads 010 as 8 and 1:30 as 90, which nobody means in a profile.
_DECIMAL = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")


class ProfileError(InputError):
    """A profile name, or a profile file, is wrong.

    ``str(error)`` is one printable line: where (file, line, dotted key), what is wrong, and what to try.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


@dataclass(frozen=True)
class Field:
    """One value of the document: ``file`` as the user wrote it, the dotted ``key`` (empty for the root), its node."""

    file: str
    key: str
    node: yaml.Node

    @property
    def line(self) -> int:
        """Line of the value in the file, from 1."""
        return int(self.node.start_mark.line) + 1

    def error(self, problem: str) -> ProfileError:
        """The error to raise for this value: ``FILE:LINE: key: problem``."""
        return _error_at(self.file, self.line, self.key, problem)

    def mapping(self, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Field]:
        """The value as a mapping, by key. Raises ProfileError on unknown, duplicate and missing keys."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"must be a mapping with the keys {', '.join(required)}, not {_kind(self.node)}")
        allowed = (*required, *optional)
        fields: dict[str, Field] = {}
        for key_node, value_node in self.node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise _error_at(self.file, line, self.key, f"a key must be a word, not {_kind(key_node)}")
            name = str(key_node.value)
            if name not in allowed:
                hint = did_you_mean(name, allowed) or f"; allowed here: {', '.join(allowed)}"
                raise _error_at(self.file, line, self.key, f"unknown key {shown(name)}{hint}")
            if name in fields:
                problem = f"given twice, first on line {fields[name].line}; keep one"
                raise _error_at(self.file, line, self._child(name), problem)
            fields[name] = Field(self.file, self._child(name), value_node)
        for name in required:
            if name not in fields:
                raise _error_at(self.file, self.line, self._child(name), "missing; add this key")
        return fields

    def items(self) -> list[Field]:
        """The value as a list with at least one entry."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"must be a list, not {_kind(self.node)}")
        if not self.node.value:
            raise self.error("must have at least one entry")
        return [Field(self.file, f"{self.key}[{index}]", node) for index, node in enumerate(self.node.value)]

    def text(self) -> str:
        """The value as text: one printable line, not empty."""
        if not isinstance(self.node, yaml.ScalarNode) or self.node.tag != _TAG_PREFIX + "str":
            hint = "; put it in quotes" if _is_filled_scalar(self.node) else ""
            raise self.error(f"must be text, not {_kind(self.node)}{hint}")
        value = str(self.node.value).strip()
        if not value:
            raise self.error("must not be empty")
        if not value.isprintable():
            raise self.error(f"must be one line of printable text, not {shown(value)}")
        return value

    def choice(self, allowed: Sequence[str]) -> str:
        """The value as one of the ``allowed`` words."""
        value = self.text()
        if value not in allowed:
            names = ", ".join(allowed)
            raise self.error(f"{shown(value)} is not one of {names}{did_you_mean(value, allowed)}")
        return value

    def number(self) -> float:
        """The value as a finite number greater than zero."""
        return self._positive(_DECIMAL, "a number", "write a plain decimal such as 204.8")

    def count(self) -> int:
        """The value as a whole number greater than zero."""
        return int(self._positive(_INTEGER, "a whole number", "write digits only, such as 4"))

    def _positive(self, pattern: re.Pattern[str], wanted: str, hint: str) -> float:
        if not isinstance(self.node, yaml.ScalarNode) or self.node.tag == _TAG_PREFIX + "bool":
            raise self.error(f"must be {wanted}, not {_kind(self.node)}")
        text = str(self.node.value)
        if self.node.style is not None:
            raise self.error(f"must be {wanted}, not the text {shown(text)}; remove the quotes")
        if text.lower().lstrip("+-") in (".inf", ".nan"):
            raise self.error(f"must be finite, not {text}")
        if not pattern.fullmatch(text):
            raise self.error(f"must be {wanted}, not {_kind(self.node)}; {hint}")
        value = float(text)
        if not math.isfinite(value):
            raise self.error(f"must be finite, not {shown(text)}")
        if value <= 0:
            raise self.error(f"must be greater than zero, not {shown(text)}")
        return value

    def _child(self, name: str) -> str:
        return f"{self.key}.{name}" if self.key else name


def parse_document(content: bytes, file: str) -> Field:
    """Root of the YAML document in ``content``; ``file`` is the name used in messages.

    Raises ProfileError when the content is too large, not UTF-8, empty, not one YAML document, nested deeper than
    ``MAX_DEPTH``, holds more than ``MAX_NODES`` values, or uses anchors, aliases or tags.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ProfileError(f"{file}: larger than {MAX_FILE_BYTES} bytes; a profile is a few kilobytes of YAML")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ProfileError(f"{file}:{line}: not UTF-8 text; save the file as UTF-8") from error
    root = _compose(text, file)
    if root is None or (isinstance(root, yaml.ScalarNode) and not root.value):
        raise ProfileError(f"{file}:1: the file is empty; start from a copy of a shipped profile")
    return Field(file, "", root)


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader for plain trees: what makes a small file large or a loader clever is refused."""

    _depth = 0
    _nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are refused", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, "tags ('!...') are refused", event.start_mark)
        if self._depth >= MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        if self._nodes >= MAX_NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_NODES} values", event.start_mark)
        self._nodes += 1
        self._depth += 1
        try:
            return super().compose_node(parent, index)  # type: ignore[arg-type]
        finally:
            self._depth -= 1


def _compose(text: str, file: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        problem = error.problem or error.context
        raise ProfileError(f"{where}: not valid profile YAML: {problem}; correct this line") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        raise ProfileError(f"{file}:{line}:{column}: a control character is not allowed; remove it") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets chr() and int() errors of broken escapes and directives through, without a position.
        raise ProfileError(f"{file}: not valid profile YAML: {error}; check escapes in quoted text") from error


def _error_at(file: str, line: int, key: str, problem: str) -> ProfileError:
    return ProfileError(f"{file}:{line}: {key}: {problem}" if key else f"{file}:{line}: {problem}")


def _is_filled_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and bool(node.value)


def _kind(node: yaml.Node) -> str:
    """What a node is, in words for a message."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    value = str(node.value)
    if not value:
        return "empty"
    tag = node.tag.removeprefix(_TAG_PREFIX)
    words = {"int": "the number", "float": "the number", "bool": "the boolean", "str": "the text"}
    return f"{words.get(tag, 'the value')} {shown(value)}"


def _one_line(message: str) -> str:
    """``message`` with line breaks and other unprintable characters escaped (file names may hold any)."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in message
    )
