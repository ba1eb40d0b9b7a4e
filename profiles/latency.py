"""Latency tables: what the parts of one net take on the device, as ``tofe-edge calibrate`` measured them.

Here is what a table holds and how it stands in YAML; ``tofe_edge/budget/latency_model.py`` predicts from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated

from pydantic import Field

from tofe_edge.io.documents import FORBID, one_of
from tofe_edge.profiles.document import Document, Line, Location, Positive, Whole

PRECISIONS = ("fp32", "int8")
"""The precisions of XNNPACK, which tables are measured with; int8 is the dynamic one."""

Points = Annotated[tuple[tuple[Whole, Positive], ...], Field(min_length=2)]
"""Tokens and milliseconds, in ascending order of tokens."""


@dataclass(frozen=True)
class NetShape:
    """All of a net that its latency depends on."""

    __pydantic_config__ = FORBID

    patch_tokens: Whole
    prefix_tokens: Whole
    dim: Whole
    depth: Whole
    heads: Whole
    mlp_hidden: Whole
    classes: Whole


@dataclass(frozen=True)
class Step:
    """Products work on so many tokens at a time: one token more than a multiple of it costs ``ms`` per block."""

    __pydantic_config__ = FORBID

    tokens: Whole
    ms: Positive


@dataclass(frozen=True)
class Alignment:
    """A multiple of so many tokens saves ``ms`` per block: no vector is filled up."""

    __pydantic_config__ = FORBID

    tokens: Whole
    ms: Positive


@dataclass(frozen=True)
class Anchor:
    """The whole net, measured at these counts of kept patch tokens."""

    __pydantic_config__ = FORBID

    kept: Annotated[tuple[Whole, ...], Field(min_length=1)]
    ms: Positive
    before: Annotated[tuple[Whole, ...], Field(min_length=1)] | None = None
    """Blocks before which tokens were selected, from 0; ``None``: a quarter, a half and three quarters of the way."""


@dataclass(frozen=True)
class LatencyTable:
    """What the parts of one net take on one device in one precision. All times are milliseconds."""

    __pydantic_config__ = FORBID

    backbone: Line
    shape: NetShape
    precision: Annotated[Line, one_of(PRECISIONS)]
    threads: Whole
    provenance: Annotated[Line, one_of(("measured",))]
    """Always ``measured``."""
    source: Line
    """Device, date, versions and how widely the times spread."""
    stem: Positive
    """An image to tokens."""
    selection: Positive
    """Scoring all patch tokens and putting them in order, once."""
    block: Points
    """One transformer block, by tokens; the prefix counts."""
    tail: Points
    """The last block and the classifier, by tokens; the prefix counts."""
    approximator: Points
    """One token approximator, by frozen tokens."""
    dense: Positive
    """The whole net without token reduction."""
    tofe: Annotated[tuple[Anchor, ...], Field(min_length=1)]
    """The whole net with it."""
    step: Step | None = None
    aligned: Alignment | None = None
    """``None``: none was seen, of either."""


_SHAPE_KEYS = tuple(field.name for field in fields(NetShape))
_OPTIONAL_KEYS = ("step", "aligned")


def same_subject(one: LatencyTable, other: LatencyTable) -> bool:
    """Whether both tell of the same net in the same precision, so that one of them is enough."""
    return (one.backbone, one.shape, one.precision) == (other.backbone, other.shape, other.precision)


def check_tables(document: Document, tables: Sequence[LatencyTable]) -> None:
    """Check what the keys of a profile's latency tables cannot say one by one. Raises ProfileError."""
    for index, table in enumerate(tables):
        if any(same_subject(table, other) for other in tables[:index]):
            problem = f"a second table of {table.backbone} in {table.precision} of this shape; keep one"
            raise document.error(("latency", index), problem)
        _check_table(document, ("latency", index), table)


def _check_table(document: Document, place: Location, table: LatencyTable) -> None:
    patches = table.shape.patch_tokens
    most = patches + table.shape.prefix_tokens
    for name, limit in (("block", most), ("tail", most), ("approximator", patches)):
        before = 0
        for index, (tokens, _) in enumerate(getattr(table, name)):
            location = (*place, name, index, 0)
            if tokens > limit:
                raise document.error(location, f"{tokens} tokens are more than the {limit} that the net has")
            if tokens <= before:
                problem = f"{tokens} tokens behind {before}; sort the pairs by tokens, each number once"
                raise document.error(location, problem)
            before = tokens
    for index, anchor in enumerate(table.tofe):
        for stage, kept in enumerate(anchor.kept):
            if kept > patches:
                problem = f"{kept} tokens are more than the {patches} patch tokens of the net"
                raise document.error((*place, "tofe", index, "kept", stage), problem)
    for name in _OPTIONAL_KEYS:
        width: Step | Alignment | None = getattr(table, name)
        if width is not None and not 2 <= width.tokens <= most:
            raise document.error((*place, name, "tokens"), f"must be 2 to {most} tokens, not {width.tokens}")


def yaml_lines(tables: Sequence[LatencyTable]) -> list[str]:
    """The block ``latency:`` as YAML lines, from which the same tables are read back."""
    lines = ["latency:"]
    for table in tables:
        shape = ", ".join(f"{name}: {getattr(table.shape, name)}" for name in _SHAPE_KEYS)
        lines += [
            f"  - backbone: {_quoted(table.backbone)}",
            f"    shape: {{{shape}}}",
            f"    precision: {table.precision}",
            f"    threads: {table.threads}",
            f"    provenance: {table.provenance}",
            f"    source: {_quoted(table.source)}",
            f"    stem: {_ms(table.stem)}",
            f"    selection: {_ms(table.selection)}",
            *_point_lines("block", table.block),
            *_point_lines("tail", table.tail),
            *_point_lines("approximator", table.approximator),
            f"    dense: {_ms(table.dense)}",
            "    tofe:",
            *map(_anchor_line, table.tofe),
        ]
        for name in _OPTIONAL_KEYS:
            width: Step | Alignment | None = getattr(table, name)
            if width is not None:
                lines.append(f"    {name}: {{tokens: {width.tokens}, ms: {_ms(width.ms)}}}")
    return lines


def _anchor_line(anchor: Anchor) -> str:
    before = "" if anchor.before is None else f", before: [{', '.join(map(str, anchor.before))}]"
    return f"      - {{kept: [{', '.join(map(str, anchor.kept))}], ms: {_ms(anchor.ms)}{before}}}"


_PAIRS_PER_LINE = 8


def _point_lines(name: str, points: Points) -> list[str]:
    pairs = [f"[{tokens}, {_ms(ms)}]" for tokens, ms in points]
    rows = [", ".join(pairs[first : first + _PAIRS_PER_LINE]) for first in range(0, len(pairs), _PAIRS_PER_LINE)]
    return [f"    {name}: [", *(f"      {row}," for row in rows), "    ]"]


def _ms(value: float) -> str:
    """The shortest plain decimal that reads back as the same number."""
    return repr(float(value))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
