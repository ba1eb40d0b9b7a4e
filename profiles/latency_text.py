"""Putting latency tables into the text of a profile: its comments and everything else stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import yaml

from tofe_edge.profiles.document import Field, parse_document
from tofe_edge.profiles.errors import ProfileError
from tofe_edge.profiles.latency import Anchor, LatencyTable, NetShape, same_subject, yaml_lines
from tofe_edge.profiles.schema import build_profile

_KEY = "latency"


def with_tables(content: bytes, tables: Sequence[LatencyTable], file: str) -> bytes:
    """The profile in ``content`` with ``tables``, at least one, in place of those of the same nets and precisions.

    Args:
        file: the profile's name in messages.

    Raises:
        ProfileError: it is not a valid profile, or laid out so that no block can be added without rewriting it.
    """
    root = parse_document(content, file)
    before = build_profile(root)
    kept = [old for old in before.latency if not any(same_subject(old, new) for new in tables)]
    merged = (*kept, *tables)
    text = content.decode("utf-8-sig")
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith(("\n", "\r")):
        lines[-1] += newline
    first, end = _place(root, len(lines))
    block = [line + newline for line in yaml_lines(merged)]
    if first == end:
        block.insert(0, newline)
    changed = "".join((*lines[:first], *block, *lines[end:]))
    # A mark at the start of the file belongs to it as a comment does.
    mark = content[: len(content) - len(text.encode())]
    written = mark + changed.encode()
    _check(written, replace(before, latency=merged), file)
    return written


def check_layout(content: bytes, file: str) -> None:
    """Raise what :func:`with_tables` would where the profile cannot take a table, before one has been measured."""
    with_tables(content, [_ANY], file)


_ANY = LatencyTable(
    backbone="any",
    shape=NetShape(2, 1, 1, 1, 1, 1, 1),
    precision="fp32",
    threads=1,
    provenance="measured",
    source="nobody",
    stem=1.0,
    selection=1.0,
    block=((1, 1.0), (2, 1.0)),
    tail=((1, 1.0), (2, 1.0)),
    approximator=((1, 1.0), (2, 1.0)),
    dense=1.0,
    tofe=(Anchor((1,), 1.0),),
)


def _place(root: Field, count: int) -> tuple[int, int]:
    """Lines (from 0, end excluded) of the block that is there; where there is none, both are where it should go."""
    assert isinstance(root.node, yaml.MappingNode), "a profile is a mapping"
    for key, value in root.node.value:
        if key.value == _KEY:
            return key.start_mark.line, _last_line(value) + 1
    return count, count


def _last_line(node: yaml.Node) -> int:
    """The last line that holds something of ``node``: the end of a block, as YAML marks it, is behind its comments."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.line)


def _check(content: bytes, wanted: object, file: str) -> None:
    try:
        found = build_profile(parse_document(content, file))
    except ProfileError as error:
        raise ProfileError(
            f"{file}: the latency table cannot be added to this layout; write its keys line by line, without outer "
            "braces, tabs or a document end"
        ) from error
    if found != wanted:
        raise ProfileError(
            f"{file}: adding the latency table would change other keys; lay it out as shipped profiles are"
        )
