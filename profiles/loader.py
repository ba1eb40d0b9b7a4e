"""Profile files: shipped ones by name, a user's own by path, and latency tables put into their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from tofe_edge.errors import did_you_mean, quoted
from tofe_edge.profiles.document import MAX_FILE_BYTES, Document, ProfileError, parse_document
from tofe_edge.profiles.latency import Anchor, LatencyTable, NetShape, same_subject, yaml_lines
from tofe_edge.profiles.schema import DeviceProfile, build_profile

_SHIPPED_FOLDER = Path(__file__).resolve().parent
_KEY = "latency"
_YAML_SUFFIXES = (".yaml", ".yml")
_LIST_HINT = "`tofe-edge devices` lists the shipped ones"


def profile_names() -> list[str]:
    """Return the names of the shipped profiles, sorted."""
    return sorted(path.stem for path in _SHIPPED_FOLDER.glob("*.yaml"))


def load_profile(name_or_path: str) -> DeviceProfile:
    """Return the shipped profile of that name, or the profile in a file.

    What ends in ``.yaml`` or ``.yml``, or holds a path separator, is a path. Raises ProfileError when there is no such
    profile or file, or when the file is not a valid profile.
    """
    content, shown_as = read_profile(name_or_path)
    return build_profile(parse_document(content, shown_as))


def read_profile(name_or_path: str) -> tuple[bytes, str]:
    """Return the text of a profile, unchecked, and how messages call it. Raises ProfileError when there is none."""
    if is_path(name_or_path):
        return _read(Path(name_or_path), name_or_path), name_or_path
    names = profile_names()
    if name_or_path not in names:
        # A name of ours with something behind it (jetson_orin_agx) is nearer than another one of the same length.
        within = max((name for name in names if name_or_path.startswith(name)), key=len, default=name_or_path)
        hint = did_you_mean(within, names) or ";"
        raise ProfileError(
            f"unknown profile {quoted(name_or_path)}{hint} {_LIST_HINT}, or give the path of a YAML file"
        )
    path = _SHIPPED_FOLDER / f"{name_or_path}.yaml"
    return _read(path, str(path)), str(path)


def load_all() -> list[DeviceProfile]:
    """Return all shipped profiles, sorted by name. Raises ProfileError when one is damaged."""
    return [load_profile(name) for name in profile_names()]


def is_path(name_or_path: str) -> bool:
    """Whether a profile is meant by its path rather than by the name of a shipped one."""
    return name_or_path.lower().endswith(_YAML_SUFFIXES) or "/" in name_or_path or "\\" in name_or_path


def _read(path: Path, shown_as: str) -> bytes:
    """Return at most one byte more than a profile may have. Raises ProfileError for what is not a readable regular file."""
    try:
        if path.is_dir():
            raise ProfileError(f"{shown_as}: is a directory; give the path of a YAML file in it")
        if not path.exists():
            raise ProfileError(f"{shown_as}: no such file; check the path ({_LIST_HINT})")
        if not path.is_file():
            # Opening a pipe or a device could block for ever.
            raise ProfileError(f"{shown_as}: is not a regular file; give the path of a YAML file")
        with path.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ProfileError(f"{shown_as}: cannot be read ({error.strerror}); check the path and permissions") from error


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
    """Raise what :func:`with_tables` would if the profile cannot take a table, before one has been measured."""
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


def _place(root: Document, count: int) -> tuple[int, int]:
    """Lines (from 0, end excluded) of the block that is there; if there is none, both are where it should go."""
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


def _check(content: bytes, expected: object, file: str) -> None:
    try:
        actual = build_profile(parse_document(content, file))
    except ProfileError as error:
        raise ProfileError(
            f"{file}: the latency table cannot be added to this layout; write its keys line by line, without outer "
            "braces, tabs or a document end"
        ) from error
    if actual != expected:
        raise ProfileError(
            f"{file}: adding the latency table would change other keys; lay it out as shipped profiles are"
        )
