"""The folder of files that ExecuTorch's Core ML delegate is given as one piece of bytes.

First the bytes of the files, then a table of files and folders as JSON, written backwards::

    {"nodes": [{"name", "kind", "dataRegion": {"offset", "size"}, "children": {name: place in nodes}}]}

The last node is the folder itself. ExecuTorch's own reader writes wherever the names lead.
"""

from __future__ import annotations

import json
from typing import Any

from tofe_edge.errors import InputError
from tofe_edge.runtimes.mil.manifest import shown

_FILE, _FOLDER = 0, 1
_LARGEST_TABLE = 1 << 20
_MOST_NODES = 1024
_DEEPEST = 16
_LONGEST_NAME = 255


def read_blob(blob: bytes) -> dict[str, bytes]:
    """The files in a delegate's blob, by their path in its folder, with ``/``.

    Raises:
        InputError: it is cut or no such blob, a name leaves the folder, or nodes and bytes are used twice. No other
            error, whatever it contains.
    """
    nodes, content = _table(blob)
    files: dict[str, bytes] = {}
    seen: set[int] = set()
    size = 0
    waiting: list[tuple[str, int, int]] = [("", len(nodes) - 1, 0)]
    while waiting:
        path, place, depth = waiting.pop()
        node = nodes[place]
        if place in seen:
            raise _damaged(f"{shown(path)} is listed twice")
        seen.add(place)
        if _kind(node, path) == _FILE and path:
            files[path] = _file(node, path, content)
            size += len(files[path])
            if size > len(content):
                raise _damaged("its files overlap")
            continue
        children = node.get("children")
        if node["kind"] != _FOLDER or not isinstance(children, dict):
            raise _damaged(f"{shown(path)} has no list of files")
        if depth == _DEEPEST:
            raise _damaged(f"its folders are nested more than {_DEEPEST} deep")
        for name, child in children.items():
            _check_child(name, child, nodes)
            waiting.append((f"{path}/{name}" if path else name, child, depth + 1))
    return dict(sorted(files.items()))


def _table(blob: bytes) -> tuple[list[Any], memoryview]:
    """The nodes, and the bytes before the table."""
    # One character a byte, whatever follows the table.
    text = blob[: -_LARGEST_TABLE - 1 : -1].decode("latin-1")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
        table = json.loads(text[:end].encode("latin-1"))
    except (ValueError, RecursionError) as error:
        raise _damaged("it does not end in a table of files") from error
    nodes = table.get("nodes") if isinstance(table, dict) else None
    if not isinstance(nodes, list) or not 1 <= len(nodes) <= _MOST_NODES:
        raise _damaged(f"its table of files has no list of 1 to {_MOST_NODES} nodes")
    return nodes, memoryview(blob)[: len(blob) - end]


def _kind(node: Any, path: str) -> int:
    kind = node.get("kind") if isinstance(node, dict) else None
    if type(kind) is not int or kind not in (_FILE, _FOLDER):
        raise _damaged(f"{shown(path)} is neither a file nor a folder")
    return kind


def _file(node: dict[str, Any], path: str, content: memoryview) -> bytes:
    region = node.get("dataRegion")
    numbers: list[Any] = [region.get(key) for key in ("offset", "size")] if isinstance(region, dict) else [None]
    if not all(type(number) is int and 0 <= number <= len(content) for number in numbers):
        raise _damaged(f"{shown(path)} lies outside of it")
    offset, size = numbers
    if offset + size > len(content):
        raise _damaged(f"{shown(path)} lies outside of it")
    return bytes(content[offset : offset + size])


def _check_child(name: str, place: Any, nodes: list[Any]) -> None:
    """Refuse what is no plain name inside of a folder."""
    encoded = name.encode("utf-8", "replace")
    plain = name not in ("", ".", "..") and not any(sign in name for sign in "/\\\0") and len(encoded) <= _LONGEST_NAME
    if not plain or any("\ud800" <= sign <= "\udfff" for sign in name):
        raise _damaged(f"{shown(name)} is no file name")
    if type(place) is not int or not 0 <= place < len(nodes):
        raise _damaged(f"{shown(name)} is not in its table of files")
    node = nodes[place]
    if not isinstance(node, dict) or node.get("name") != name:
        raise _damaged(f"{shown(name)} has another name in its table of files")


def _damaged(what: str) -> InputError:
    return InputError(f"the Core ML delegate's data are damaged ({what}); copy or convert the model again")
