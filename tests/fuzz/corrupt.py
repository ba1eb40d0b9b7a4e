"""Corruption of files: what disks, networks and people do to them, and what an attacker would."""

import json
import random
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_NUMBERS = (
    "-1",
    "0",
    "1e999",
    "NaN",
    "-0.0",
    "1e-320",
    "9" * 40,
    "2147483648",
    "0x10",
    "1_0",
    "true",
    "null",
    '""',
    "[]",
    "{}",
)
_TEXTS = (
    "\x1b[31m",
    "\x07",
    "\u202e",
    "\x9b2J",
    "a\nb",
    "",
    "../../x",
    "/etc/passwd",
    "a" * 5000,
    "\ud800",
    "\0",
    "'",
    "%s",
    "${x}",
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    1e9,
    2**31,
    2**63,
    10**40,
    0.5,
    [],
    {},
    [[]],
    "",
    "x",
    float("nan"),
    *_TEXTS,
)


def corrupt(content: bytes, dice: random.Random) -> bytes:
    """One to four changes of bytes."""
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        content = dice.choice(_CHANGES)(content, dice)
    return content


def corrupt_text(content: bytes, dice: random.Random) -> bytes:
    """Like :func:`corrupt`, or numbers, words and lines replaced."""
    kind = dice.randrange(4)
    if kind == 0:
        return corrupt(content, dice)
    if kind == 1:
        return _replaced(content, rb"-?\d+(\.\d+)?([eE][-+]?\d+)?", dice.choice(_NUMBERS).encode(), dice)
    if kind == 2:
        return _replaced(content, rb"[A-Za-z_]{2,}", dice.choice(_TEXTS).encode("utf-8", "surrogatepass"), dice)
    lines = content.split(b"\n")
    place = dice.randrange(len(lines))
    lines[place : place + 1] = dice.choice(
        ([], [lines[place]] * 2, [b"\t" + lines[place]], [lines[place] + lines[place]])
    )
    return b"\n".join(lines)


def corrupt_json(content: bytes, dice: random.Random) -> bytes:
    """A JSON document with one to three of its values or keys replaced."""
    document = json.loads(content)
    for _ in range(dice.choice((1, 1, 2, 3))):
        places = list(_places(document))
        holder, key = dice.choice(places)
        what = dice.randrange(8)
        if what == 0 and isinstance(holder, dict):
            holder[dice.choice(_TEXTS)] = holder.pop(key)
        elif what == 1:
            del holder[key]
        elif what == 2:
            other_holder, other_key = dice.choice(places)
            with suppress(KeyError, IndexError):
                holder[key] = other_holder[other_key]
        elif what == 3 and isinstance(holder[key], (int, float)):
            holder[key] += dice.choice((-1, 1, 1000, 2**31))
        else:
            holder[key] = dice.choice(_VALUES)
        if not document:
            break
    try:
        return json.dumps(document).encode()
    except (ValueError, RecursionError):  # a part that holds itself
        return b"[]"


def _places(value: Any, depth: int = 0) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        if depth < 6:
            yield from _places(inner, depth + 1)


def _flip(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(dice.choice((1, 1, 3, 16))):
        if changed:
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _put(content: bytes, dice: random.Random) -> bytes:
    place, size = _span(content, dice, 8)
    extreme = dice.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"\x01"))
    return content[:place] + extreme * size + content[place + size :]


def _cut(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randrange(len(content) + 1)]


def _remove(content: bytes, dice: random.Random) -> bytes:
    place, size = _span(content, dice, 4096)
    return content[:place] + content[place + size :]


def _repeat(content: bytes, dice: random.Random) -> bytes:
    place, size = _span(content, dice, 4096)
    return content[: place + size] + content[place : place + size] * dice.choice((1, 1, 50)) + content[place + size :]


def _insert(content: bytes, dice: random.Random) -> bytes:
    place, size = _span(content, dice, 64)
    return content[:place] + dice.randbytes(size) + content[place:]


def _move(content: bytes, dice: random.Random) -> bytes:
    (place, size), other = _span(content, dice, 512), dice.randrange(len(content) + 1)
    return content[:other] + content[place : place + size] + content[other + size :]


def _early(content: bytes, dice: random.Random) -> bytes:
    """In the first bytes, where headers are."""
    head = min(len(content), dice.choice((16, 64, 512)))
    return _flip(content[:head], dice) + content[head:]


def _span(content: bytes, dice: random.Random, most: int) -> tuple[int, int]:
    return dice.randrange(len(content) + 1), dice.randrange(1, most + 1)


def _replaced(content: bytes, pattern: bytes, by: bytes, dice: random.Random) -> bytes:
    found = list(re.finditer(pattern, content))
    if not found:
        return content + by
    one = dice.choice(found)
    return content[: one.start()] + by + content[one.end() :]


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip,
    _flip,
    _early,
    _early,
    _put,
    _cut,
    _remove,
    _repeat,
    _insert,
    _move,
)
