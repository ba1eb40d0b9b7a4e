"""Documents from JSON, checked by their digest and by pydantic: a fault becomes one line that names its key.

Types of keys are strict (``true`` is not 1, ``"1"`` is not 1, NaN is refused); lists become tuples where a dataclass has
them. A dataclass with ``__pydantic_config__ = FORBID`` refuses keys that it does not know.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import AfterValidator, AllowInfNan, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from tofe_edge.errors import InputError, did_you_mean, quoted
from tofe_edge.io.progress import warn_once

T = TypeVar("T")

Int = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]
Number = Annotated[float, Strict(), AllowInfNan(False)]
Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
FORBID = ConfigDict(extra="forbid")
FAULT = "fault"
DIGEST = "digest"
"""The key of a document's digest."""
LARGEST = 64 << 20
"""Bytes of a JSON file, here and in the native runner."""
UNKNOWN = "unexpected_keyword_argument"
"""The type of an error about a key that is not a field of a dataclass."""


def one_of(words: Sequence[str]) -> AfterValidator:
    """Refuse a text that is none of these."""

    def check(value: str) -> str:
        if value not in words:
            fault(f"{quoted(value)} is not one of {', '.join(words)}{did_you_mean(value, words)}")
        return value

    return AfterValidator(check)


def fault(problem: str) -> NoReturn:
    """In a validator: what is wrong with the value, to be read after its key and a colon."""
    raise PydanticCustomError(FAULT, "{problem}", {"problem": problem})


def parse_json(text: str | bytes) -> Any:
    """The content of a JSON text. Raises :class:`ValueError` if it is not one, or has a key twice; :class:`RecursionError`."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {quoted(next(key for key in keys if keys.count(key) > 1))} stands there twice")
    return content


def read_json(path: Path, advice: str) -> Any:
    """The content of a JSON file. Raises :class:`InputError` that ends in the advice if it is not one."""
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise ValueError(f"it has {size} bytes, more than {LARGEST}")
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); {advice}") from error


def signed(version: int, content: Mapping[str, Any]) -> dict[str, Any]:
    """A document with its ``schema`` and its ``digest``, which :func:`verified` compares with what has become of it."""
    document = {"schema": version, **content}
    # As it will be read: a tuple is a list by then, a number as a key a text.
    return {**document, DIGEST: digest_of(json.loads(json.dumps(document)))}


def verified(content: Any, version: int, subject: str, advice: str = "") -> dict[str, Any]:
    """A document without its keys ``schema`` and ``digest``. Documents of the version before, without a digest, are read too.

    Raises:
        InputError: it has another version, or its digest is not that of its content.
    """
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema not in (version, version - 1):
        raise InputError(f"{subject} schema {schema!r} is not {version}{_then(advice)}")
    if schema == version and content.get(DIGEST) != digest_of(content):
        raise InputError(f"{subject} digest is not that of its content: it was damaged or changed{_then(advice)}")
    return {key: value for key, value in content.items() if key != "schema" and (key, schema) != (DIGEST, version)}


def warn_without_digest(content: Any, place: object, advice: str) -> None:
    """Tell the user of a document of the version before that damage to it would not be noticed."""
    if DIGEST not in content:
        warn_once(f"{place}: is of an earlier version and has no digest, so damage to it is not noticed; {advice}")


def digest_of(document: Mapping[str, Any]) -> str:
    """The SHA-256 of a document's values without its ``digest``, however they are written (docs/formats.md)."""
    try:
        text = _canonical({key: value for key, value in document.items() if key != DIGEST})
    except (OverflowError, RecursionError) as error:
        raise InputError("the document holds a number that is out of range, or is nested too deeply") from error
    return hashlib.sha256(text).hexdigest()


def _canonical(value: Any) -> bytes:
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return b"s%d:%b" % (len(text), text)
    if value is None or isinstance(value, bool):
        return {None: b"n", True: b"t", False: b"f"}[value]
    if isinstance(value, (int, float)):
        return b"d" + struct.pack(">d", float(value)).hex().encode()
    if isinstance(value, Mapping):
        return b"{%b}" % b"".join(_canonical(key) + _canonical(value[key]) for key in sorted(value))
    return b"[%b]" % b"".join(map(_canonical, value))


def validate(kind: type[T], content: Any, subject: str, advice: str = "") -> T:
    """The content as an object of a dataclass or model.

    Args:
        subject: what the document is, in front of the key: ``manifest``.
        advice: what to do about a fault.

    Raises:
        InputError: a key is missing, unknown, or has a value that it cannot have.
    """
    try:
        return adapter(kind).validate_python(content)
    except ValidationError as error:
        raise InputError(f"{subject} {describe_fault(first_fault(error))}{_then(advice)}") from error


def _then(advice: str) -> str:
    return f"; {advice}" if advice else ""


def adapter(kind: type[T]) -> TypeAdapter[T]:
    """What checks documents of this kind; built once."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def first_fault(error: ValidationError) -> ErrorDetails:
    """The fault to tell of: an unknown or a missing key explains others."""
    order = {UNKNOWN: 0, "missing": 1}
    return min(error.errors(include_url=False), key=lambda one: order.get(one["type"], 2))


def key_of(location: Sequence[int | str]) -> str:
    """``cpu.clusters[0].ghz``"""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def describe_fault(one: ErrorDetails) -> str:
    """``key 'batch' must be greater than or equal to 1, not 0``"""
    key = f"key {key_of(one['loc'])!r}" if one["loc"] else "the document"
    value = one["input"]
    if one["type"] == "missing":
        return f"{key} is missing"
    if one["type"] == UNKNOWN:
        return f"{key} is unknown"
    if one["type"].endswith("_type"):
        return f"{key} has the wrong type ({type(value).__name__})"
    if one["type"] == FAULT:
        return f"{key}: {one['msg']}"
    problem = re.sub(r"^\w+ should", "must", one["msg"]).replace("greater than or equal to", "at least")
    problem = problem.replace("less than or equal to", "at most").replace(" after validation", "")
    needs_value = problem.startswith("must") and ", not " not in problem
    return f"{key} {problem}, not {quoted(value)}" if needs_value else f"{key} {problem}"
