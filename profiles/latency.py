"""Latency tables: what the parts of one net take on the device, as ``tofe-edge calibrate`` measured them.

Here is what a table holds and how it stands in YAML; ``tofe_edge/budget/latency_model.py`` predicts from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from tofe_edge.profiles.document import Field

PRECISIONS = ("fp32", "int8")
"""Of XNNPACK, which tables are measured with; int8 is the dynamic one."""

Points = tuple[tuple[int, float], ...]
"""Tokens and milliseconds, in ascending order of tokens."""


@dataclass(frozen=True)
class NetShape:
    """All of a net that its latency depends on."""

    patch_tokens: int
    prefix_tokens: int
    dim: int
    depth: int
    heads: int
    mlp_hidden: int
    classes: int


@dataclass(frozen=True)
class Step:
    """Products work on so many tokens at a time: one token more than a multiple of it costs ``ms`` a block."""

    tokens: int
    ms: float


@dataclass(frozen=True)
class Alignment:
    """A multiple of so many tokens spares a block ``ms``: no vector is filled up."""

    tokens: int
    ms: float


@dataclass(frozen=True)
class Anchor:
    """The whole net, measured at these counts of kept patch tokens."""

    kept: tuple[int, ...]
    ms: float
    before: tuple[int, ...] | None = None
    """Blocks before which tokens were selected, from 0; ``None``: a quarter, a half and three quarters of the way."""


@dataclass(frozen=True)
class LatencyTable:
    """What the parts of one net take on one device in one precision. All times are milliseconds."""

    backbone: str
    shape: NetShape
    precision: str
    threads: int
    provenance: str
    """Always ``measured``."""
    source: str
    """Device, date, versions and how widely the times spread."""
    stem: float
    """An image to tokens."""
    selection: float
    """Scoring all patch tokens and putting them in order, once."""
    block: Points
    """One transformer block, by tokens; the prefix counts."""
    tail: Points
    """The last block and the classifier, by tokens; the prefix counts."""
    approximator: Points
    """One token approximator, by frozen tokens."""
    dense: float
    """The whole net without token reduction."""
    tofe: tuple[Anchor, ...]
    """The whole net with it."""
    step: Step | None = None
    aligned: Alignment | None = None
    """``None``: none was seen, of either."""


_SHAPE_KEYS = tuple(field.name for field in fields(NetShape))
_OPTIONAL_KEYS = ("step", "aligned")
_KEYS = tuple(field.name for field in fields(LatencyTable) if field.name not in _OPTIONAL_KEYS)


def read_tables(field: Field) -> tuple[LatencyTable, ...]:
    """The tables under the key ``latency``. Raises ProfileError naming file, line and key of the first fault."""
    tables: list[LatencyTable] = []
    for item in field.items():
        table = _table(item)
        if any(same_subject(table, other) for other in tables):
            raise item.error(f"a second table of {table.backbone} in {table.precision} of this shape; keep one")
        tables.append(table)
    return tuple(tables)


def same_subject(one: LatencyTable, other: LatencyTable) -> bool:
    """Whether both tell of the same net in the same precision, so that one of them is enough."""
    return (one.backbone, one.shape, one.precision) == (other.backbone, other.shape, other.precision)


def _table(field: Field) -> LatencyTable:
    found = field.mapping(_KEYS, _OPTIONAL_KEYS)
    shape = found["shape"].mapping(_SHAPE_KEYS)
    net = NetShape(**{name: shape[name].count() for name in _SHAPE_KEYS})
    most = net.patch_tokens + net.prefix_tokens
    return LatencyTable(
        backbone=found["backbone"].text(),
        shape=net,
        precision=found["precision"].choice(PRECISIONS),
        threads=found["threads"].count(),
        provenance=found["provenance"].choice(("measured",)),
        source=found["source"].text(),
        stem=found["stem"].number(),
        selection=found["selection"].number(),
        block=_points(found["block"], most),
        tail=_points(found["tail"], most),
        approximator=_points(found["approximator"], net.patch_tokens),
        dense=found["dense"].number(),
        tofe=tuple(_anchor(item, net) for item in found["tofe"].items()),
        step=Step(*_width(found["step"], most)) if "step" in found else None,
        aligned=Alignment(*_width(found["aligned"], most)) if "aligned" in found else None,
    )


def _points(field: Field, most: int) -> Points:
    points: list[tuple[int, float]] = []
    for item in field.items():
        pair = item.items()
        if len(pair) != 2:
            raise item.error(f"must be a pair of tokens and milliseconds such as [64, 0.72], not {len(pair)} values")
        tokens = pair[0].count()
        if tokens > most:
            raise pair[0].error(f"{tokens} tokens are more than the {most} that the net has")
        if points and tokens <= points[-1][0]:
            raise pair[0].error(f"{tokens} tokens behind {points[-1][0]}; sort the pairs by tokens, each number once")
        points.append((tokens, pair[1].number()))
    if len(points) < 2:
        raise field.error("must have at least two pairs of tokens and milliseconds")
    return tuple(points)


def _anchor(field: Field, net: NetShape) -> Anchor:
    found = field.mapping(("kept", "ms"), ("before",))
    kept = []
    for item in found["kept"].items():
        kept.append(item.count())
        if kept[-1] > net.patch_tokens:
            raise item.error(f"{kept[-1]} tokens are more than the {net.patch_tokens} patch tokens of the net")
    before = tuple(item.count() for item in found["before"].items()) if "before" in found else None
    return Anchor(tuple(kept), found["ms"].number(), before)


def _width(field: Field, most: int) -> tuple[int, float]:
    found = field.mapping(("tokens", "ms"))
    tokens = found["tokens"].count()
    if not 2 <= tokens <= most:
        raise found["tokens"].error(f"must be 2 to {most} tokens, not {tokens}")
    return tokens, found["ms"].number()


def yaml_lines(tables: Sequence[LatencyTable]) -> list[str]:
    """The block ``latency:`` as YAML lines, which :func:`read_tables` reads back as ``tables``."""
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


_PAIRS_A_LINE = 8


def _point_lines(name: str, points: Points) -> list[str]:
    pairs = [f"[{tokens}, {_ms(ms)}]" for tokens, ms in points]
    rows = [", ".join(pairs[first : first + _PAIRS_A_LINE]) for first in range(0, len(pairs), _PAIRS_A_LINE)]
    return [f"    {name}: [", *(f"      {row}," for row in rows), "    ]"]


def _ms(value: float) -> str:
    """The shortest plain decimal that reads back as the same number."""
    return repr(float(value))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
