"""Documents from JSON, checked by pydantic: a fault becomes one line that names its key.

Types of keys are strict (``true`` is not 1, ``"1"`` is not 1, NaN is refused); lists become tuples where a dataclass has
them. A dataclass with ``__pydantic_config__ = FORBID`` refuses keys that it does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import AfterValidator, AllowInfNan, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from tofe_edge.errors import InputError, did_you_mean, quoted

T = TypeVar("T")

Int = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]
Number = Annotated[float, Strict(), AllowInfNan(False)]
Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
FORBID = ConfigDict(extra="forbid")
FAULT = "fault"
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


def read_json(path: Path, advice: str) -> Any:
    """The content of a JSON file. Raises :class:`InputError` that ends in the advice if it is not one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); {advice}") from error


def without_schema(content: Any, version: int, subject: str, advice: str = "") -> dict[str, Any]:
    """A document without its key ``schema``. Raises :class:`InputError` if that is not this version."""
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema != version:
        raise InputError(f"{subject} schema {schema!r} is not {version}{_then(advice)}")
    return {key: value for key, value in content.items() if key != "schema"}


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
