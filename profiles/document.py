"""YAML text to checked values, with file, line and dotted key of what is wrong.

``yaml.safe_load`` drops line numbers, so the YAML node tree is read instead; pydantic checks its values. This module
knows nothing of devices; ``schema.py`` says which keys there are.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import AfterValidator, AllowInfNan, Field, Strict, ValidationError
from pydantic_core import ErrorDetails

from tofe_edge.errors import InputError, did_you_mean, quoted
from tofe_edge.io.documents import UNKNOWN, adapter, fault, first_fault, key_of

MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_NODES = 10_000

_TAG_PREFIX = "tag:yaml.org,2002:"
# Plain decimals only: YAML 1.1 also reads 010 as 8 and 1:30 as 90, which nobody means in a profile.
_DECIMAL = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_MOST_DIGITS = 300

T = TypeVar("T")


class ProfileError(InputError):
    """A profile name, or a profile file, is wrong.

    ``str(error)`` is one printable line: where (file, line, dotted key), what is wrong, and what to try.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


def _line(value: str) -> str:
    text = value.strip()
    if not text:
        fault("must not be empty")
    if not text.isprintable():
        fault(f"must be one line of printable text, not {quoted(text)}")
    return text


Line = Annotated[str, Strict(), AfterValidator(_line)]
"""One printable line of text, not empty."""
Whole = Annotated[int, Strict(), Field(gt=0, lt=10**15)]
Positive = Annotated[float, Strict(), AllowInfNan(False), Field(gt=0)]

Location = tuple[int | str, ...]
"""Keys and list positions from the root to a value, as pydantic has them."""


class _Odd:
    """Stands for a scalar that is never right: nothing at all, or a number in a notation that nobody means."""


@dataclass(frozen=True)
class Document:
    """A YAML document: its values, and where in the file they are."""

    file: str
    """Its name as the user wrote it."""
    node: yaml.Node
    values: Any
    """Mappings, lists, texts, numbers and booleans."""

    def read(self, kind: type[T]) -> T:
        """The document as an object of a dataclass. Raises ProfileError for the first fault."""
        try:
            return adapter(kind).validate_python(self.values)
        except ValidationError as error:
            one = first_fault(error)
        location = tuple(one["loc"])
        if one["type"] == UNKNOWN:
            allowed, name = _keys_of(kind, location[:-1]), str(location[-1])
            hint = did_you_mean(name, allowed) or f"; allowed here: {', '.join(allowed)}"
            line = self._line(location)
            raise ProfileError(_at(self.file, line, location[:-1], f"unknown key {quoted(name)}{hint}"))
        raise self.error(location, self._problem(one, kind, location))

    def error(self, location: Location, problem: str) -> ProfileError:
        """The error to raise for a value: ``FILE:LINE: key: problem``. Of a missing one it names its parent's line."""
        return ProfileError(_at(self.file, self._line(location), location, problem))

    def _line(self, location: Location) -> int:
        return int(_node_at(self.node, location).start_mark.line) + 1

    def _problem(self, one: ErrorDetails, kind: type, location: Location) -> str:
        """What is wrong with a value, in words."""
        node = _node_at(self.node, location)
        in_quotes = isinstance(node, yaml.ScalarNode) and node.style is not None
        match one["type"]:
            case "missing":
                return "missing; add it"
            case "string_type":
                return f"must be text, not {_kind(node)}{'; put it in quotes' if _is_filled_scalar(node) else ''}"
            case "float_type" | "int_type" as type:
                expected = "a number" if type == "float_type" else "a whole number"
                hint = "write a plain decimal such as 204.8" if type == "float_type" else "write digits only, such as 4"
                return f"must be {expected}, not {_kind(node)}; {'remove the quotes' if in_quotes else hint}"
            case "tuple_type":
                return f"must be a list, not {_kind(node)}"
            case "dataclass_type":
                return f"must be a mapping with the keys {', '.join(_keys_of(kind, location))}, not {_kind(node)}"
            case "finite_number" | "less_than":
                return f"must be finite, not {_kind(node)}"
            case "greater_than":
                return f"must be greater than zero, not {_kind(node)}"
            case "too_short":
                least = one["ctx"]["min_length"]
                return f"must have at least {least} {'entry' if least == 1 else 'entries'}"
            case _:
                return one["msg"]


def _keys_of(kind: Any, location: Location) -> list[str]:
    """The keys that a mapping at this place may have."""
    for part in (*location, None):
        while not is_dataclass(kind):
            kind = get_args(kind)[0]
        if isinstance(part, str):
            kind = get_type_hints(kind)[part]
    return [field.name for field in fields(kind)]


def _node_at(node: yaml.Node, location: Location) -> yaml.Node:
    """The node of a value; of one that is missing, the node of what it is missing in."""
    for part in location:
        if isinstance(node, yaml.MappingNode):
            child = next((value for key, value in node.value if key.value == part), None)
        else:
            child = node.value[part] if isinstance(part, int) and part < len(node.value) else None
        if child is None:
            break
        node = child
    return node


def _values(node: yaml.Node, file: str, location: Location) -> Any:
    """The plain values of a node. Raises ProfileError for a key that is not a word or given twice."""
    if isinstance(node, yaml.SequenceNode):
        return [_values(item, file, (*location, index)) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node)
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ProfileError(_at(file, line, location, f"a key must be a word, not {_kind(key)}"))
        if key.value in lines:
            problem = f"given twice, first on line {lines[key.value]}; keep one"
            raise ProfileError(_at(file, line, (*location, key.value), problem))
        lines[key.value] = line
    return {key.value: _values(value, file, (*location, key.value)) for key, value in node.value}


def _scalar(node: yaml.Node) -> Any:
    text, tag = str(node.value), node.tag.removeprefix(_TAG_PREFIX)
    if isinstance(node, yaml.ScalarNode) and node.style is not None:
        return text
    if tag == "bool":
        return True
    if _INTEGER.fullmatch(text) and len(text) < _MOST_DIGITS:
        return int(text)
    if _DECIMAL.fullmatch(text) or text.lower().lstrip("+-") in (".inf", ".nan"):
        return float(text) if text[-1].isdigit() else math.nan
    return text if tag == "str" else _Odd()


def parse_document(content: bytes, file: str) -> Document:
    """The YAML document in ``content``; ``file`` is the name used in messages.

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
    return Document(file, root, _values(root, file, ()))


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


def _at(file: str, line: int, location: Location, problem: str) -> str:
    return f"{file}:{line}: {key_of(location)}: {problem}" if location else f"{file}:{line}: {problem}"


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
    return f"{words.get(tag, 'the value')} {quoted(value)}"


def _one_line(message: str) -> str:
    """``message`` with line breaks and other unprintable characters escaped (file names may hold any)."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in message
    )
