"""Latency of a net at any token counts, predicted from what its parts took on the device; which parts to time. Pure arithmetic.

A :class:`LatencyTable` holds times of single parts, and of the whole net at a few token counts ("anchors"). The
prediction adds up the parts, and what an anchor took beyond its own parts:

    t(N) = parts(N) + rest,    rest = mean over anchors A of t(A) - parts(A)

Parts are measured one by one, with their weights in the cache and one call each; the whole net pays for weights that come
from memory and saves the calls. Neither depends on token counts, so the rest does not either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.model.backbones.spec import Backbone, TokenCounts, check_stages, default_stages
from tofe_edge.profiles.latency import Alignment, Anchor, LatencyTable, NetShape, Points, Step

WIDEST_STEP = 32
_ADDS_UP = 1.5
"""How far the sum of the parts and the whole net may be apart; docs/calibration.md has how far they were."""

_ALIGNMENTS = (4, 8, 16, 32)
_SIGNIFICANT = 0.6
"""A step is significant if it leaves at most this share of the squares that a parabola leaves. Of noise alone, the
best of 31 widths leaves more than 0.6 of the squares of 25 points in 98.5 % of draws."""


def shape_of(backbone: Backbone) -> NetShape:
    """What latency depends on."""
    return NetShape(**{field.name: getattr(backbone, field.name) for field in fields(NetShape)})


def fits(table: LatencyTable, backbone: Backbone) -> bool:
    """Whether the table was measured with this net, or with one that differs by a larger head alone: that takes a little longer."""
    shape = shape_of(backbone)
    same = replace(table.shape, classes=shape.classes) == shape
    return table.backbone == backbone.name and same and table.shape.classes >= shape.classes


def find_table(tables: Sequence[LatencyTable], backbone: Backbone, precision: str) -> LatencyTable | None:
    """The table of this net in this precision, if there is one; of several that with the nearest number of classes."""
    fitting = (table for table in tables if table.precision == precision and fits(table, backbone))
    return min(fitting, key=lambda table: table.shape.classes, default=None)


def predict_ms(table: LatencyTable, backbone: Backbone, counts: TokenCounts | None) -> float:
    """Milliseconds of one image with these counts; ``None`` is the dense net.

    Raises:
        InputError: the table is of another net, or the counts do not fit the backbone.
    """
    check_subject(table, backbone)
    if counts is None:
        return table.dense
    return _parts_ms(table, backbone, counts.check(backbone).kept) + rest_ms(table, backbone)


def rest_ms(table: LatencyTable, backbone: Backbone) -> float:
    """What the whole net took beyond its parts, at the table's anchors. Below zero if the parts take longer alone."""
    rest = [anchor.ms - _parts_ms(table, _as_measured(backbone, anchor), anchor.kept) for anchor in table.tofe]
    return sum(rest) / len(rest)


def check_sum(table: LatencyTable, backbone: Backbone) -> None:
    """Refuse a table whose parts come to another time than the whole net: the device was not the same for both.

    Raises:
        DeviceError: they differ by more than half, and by more than a millisecond.
    """
    for anchor in table.tofe:
        parts = _parts_ms(table, _as_measured(backbone, anchor), anchor.kept)
        low, high = sorted((parts, anchor.ms))
        if high > _ADDS_UP * low + 1.0:
            raise DeviceError(
                f"the parts of {table.backbone} ({table.precision}) come to {parts:.2f} ms and the whole net takes {anchor.ms:.2f} ms: "
                "the device was busy or changed its clock meanwhile; nothing is written. Stop other work and calibrate again"
            )


def check_subject(table: LatencyTable, backbone: Backbone) -> None:
    """Refuse a table of another net, and anchors that it cannot have been measured at. Raises :class:`InputError`."""
    if not fits(table, backbone):
        raise InputError(
            f"the latency table is of {table.backbone} ({table.shape.patch_tokens} patch tokens, depth {table.shape.depth}, "
            f"dim {table.shape.dim}), not of {backbone.name} ({backbone.patch_tokens}, {backbone.depth}, {backbone.dim}); "
            "run `tofe-edge calibrate` with this checkpoint"
        )
    for anchor in table.tofe:
        TokenCounts(anchor.kept).check(_as_measured(backbone, anchor))


def _as_measured(backbone: Backbone, anchor: Anchor) -> Backbone:
    """The net with its selections where they were in the measurement; what it took beyond its parts does not depend on them."""
    return replace(backbone, stages=check_stages(anchor.before or default_stages(backbone.depth), backbone.depth))


def _parts_ms(table: LatencyTable, backbone: Backbone, kept: Sequence[int]) -> float:
    tokens = [count + backbone.prefix_tokens for count in (backbone.patch_tokens, *kept)]
    most = tokens[0]
    blocks, tails = curve(table.block, most, table.step, table.aligned), curve(table.tail, most)
    approximators = curve(table.approximator, most)
    *lengths, last = backbone.stage_lengths()
    total = table.stem + len(kept) * table.selection
    total += sum(number * blocks[count] for number, count in zip((*lengths, last - 1), tokens))
    total += sum(approximators[backbone.patch_tokens - count] for count in kept[:-1])
    return float(total + tails[tokens[-1]])


def block_ms(table: LatencyTable, backbone: Backbone) -> npt.NDArray[np.float64]:
    """Milliseconds of one block by tokens, the prefix included: entry n is for n tokens, entry 0 is 0."""
    check_subject(table, backbone)
    most = backbone.patch_tokens + backbone.prefix_tokens
    return curve(table.block, most, table.step, table.aligned).copy()


@cache
def curve(
    points: Points, most: int, step: Step | None = None, aligned: Alignment | None = None
) -> npt.NDArray[np.float64]:
    """Milliseconds for 0 to ``most`` tokens; entry 0 is 0, for there is nothing to run.

    Between points a straight line plus the step's tiling overhead; overhead and alignment are taken off the points
    first. Beyond the points the line of the first two, or the last two, goes on, but not under zero. But for
    alignment no entry is below one of fewer tokens: what is left of dips is noise.
    """
    tokens, ms = _columns(points)
    flat = ms - _tiling_overhead(tokens, step) + _alignment_saving(tokens, aligned)
    every = np.arange(most + 1, dtype=np.float64)
    piece = np.clip(np.searchsorted(tokens, every) - 1, 0, len(points) - 2)
    slopes = np.diff(flat) / np.diff(tokens)
    line = flat[piece] + slopes[piece] * (every - tokens[piece])
    rising = np.maximum.accumulate(np.maximum(line + _tiling_overhead(every, step), 0.0))
    result = np.maximum(rising - _alignment_saving(every, aligned), 0.0)
    result[0] = 0.0
    return result


def _columns(points: Points) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return np.array([tokens for tokens, _ in points], dtype=np.float64), np.array([ms for _, ms in points])


def _tiling_overhead(tokens: npt.NDArray[np.float64], step: Step | None) -> npt.NDArray[np.float64]:
    """Tiling overhead: what the unused part of a step costs. None at a multiple of its width, most at one token more."""
    if step is None:
        return np.zeros_like(tokens)
    return step.ms * (np.ceil(tokens / step.tokens) - tokens / step.tokens)


def _alignment_saving(tokens: npt.NDArray[np.float64], aligned: Alignment | None) -> npt.NDArray[np.float64]:
    """What multiples of the alignment save."""
    if aligned is None:
        return np.zeros_like(tokens)
    return np.where(tokens % aligned.tokens == 0, aligned.ms, 0.0)


def find_step(points: Points) -> Step | None:
    """The step that explains points measured count by count best; ``None`` if none stands out of the noise.

    A parabola with a tiling overhead of one width, 2 to 32 tokens, is fitted to the points, for each width; see ``_SIGNIFICANT``.
    """
    tokens, ms = _columns(points)
    widths = [Step(width, 1.0) for width in range(2, min(WIDEST_STEP, len(points) - 1) + 1)]
    best = _best(_parabola(tokens), ms, [_tiling_overhead(tokens, one) for one in widths])
    return None if best is None else Step(widths[best[0]].tokens, best[1])


def find_alignment(points: Points, step: Step | None) -> Alignment | None:
    """The power of two whose multiples take less than their neighbours; ``None`` if none stands out.

    Args:
        points: with the counts next to each multiple.
        step: of :func:`find_step`; its height is fitted again along with it.
    """
    tokens, ms = _columns(points)
    smooth = _parabola(tokens)
    if step is not None:
        smooth = np.column_stack((smooth, _tiling_overhead(tokens, Step(step.tokens, 1.0))))
    best = _best(smooth, ms, [-_alignment_saving(tokens, Alignment(width, 1.0)) for width in _ALIGNMENTS])
    return None if best is None else Alignment(_ALIGNMENTS[best[0]], best[1])


def _parabola(tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.stack((np.ones_like(tokens), tokens, tokens**2), axis=1)


def _best(
    smooth: npt.NDArray[np.float64], ms: npt.NDArray[np.float64], shapes: Sequence[npt.NDArray[np.float64]]
) -> tuple[int, float] | None:
    """Which shape, added to smooth columns, explains ``ms`` best, and its height; ``None`` if none is significant."""
    if len(ms) < 2 * smooth.shape[1]:
        return None
    squares = _SIGNIFICANT * _fitted(smooth, ms)[1]
    best: tuple[int, float] | None = None
    for index, shape in enumerate(shapes):
        factors, left = _fitted(np.column_stack((smooth, shape)), ms)
        height = float(factors[-1])
        if height > 0 and left < squares:
            best, squares = (index, height), left
    return best


def _fitted(columns: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """Least squares: factors, and the sum of squares left."""
    factors = np.asarray(np.linalg.lstsq(columns, values, rcond=None)[0], dtype=np.float64)
    return factors, float(np.sum((values - columns @ factors) ** 2))


Kind = Literal["call", "stem", "selection", "block", "tail", "approximator", "dense", "tofe"]

FEWEST_TOKENS = 8
"""The fewest tokens of a point; nets with fewer tokens begin at 1."""

_WINDOW = range(49, 74)
"""Counts measured one by one, to see the step: there a block takes long enough to be timed and short enough to repeat."""

_TRIPLETS = tuple(count + beside for count in (32, 48, 80, 96) for beside in (-1, 0, 1))
"""Counts around multiples of vector widths, to see whether those take less; the window has 64."""

_GROWTH, _QUICK_GROWTH = 1.25, 1.5
"""Growth of token counts from point to point, elsewhere."""

_SHARES = (0.5, 0.33, 0.16)
"""Shares of patch tokens kept in the anchor of a dense checkpoint, which has no counts of its own."""

_LEAST_MS = 1e-4
"""A tenth of a microsecond stands for a part that takes no longer than an empty call."""


@dataclass(frozen=True)
class Part:
    """One thing to time. ``tokens``: how many go in (with the prefix for blocks and tails), or what ``tofe`` keeps."""

    kind: Kind
    tokens: tuple[int, ...] = ()

    @property
    def method(self) -> str:
        """Its name in a program."""
        return "_".join((self.kind, *map(str, self.tokens)))


def parts_of(backbone: Backbone, counts: TokenCounts | None, quick: bool = False) -> tuple[Part, ...]:
    """What to time. ``counts``: of the anchor; ``quick``: fewer points, no search for steps.

    ``call`` is a program that does next to nothing: what a part's time holds of calling it.
    """
    most, patches = backbone.patch_tokens + backbone.prefix_tokens, backbone.patch_tokens
    growth = _QUICK_GROWTH if quick else _GROWTH
    near = set() if quick else {count for count in (*_WINDOW, *_TRIPLETS) if count <= most}
    apart = [count for count in _spread(most, growth) if not {count - 2, count - 1, count, count + 1, count + 2} & near]
    blocks = sorted({*apart, *near, most})
    return (
        *(Part("call", (tokens,)) for tokens in (1, most)),
        Part("stem"),
        Part("selection"),
        *(Part("block", (tokens,)) for tokens in blocks),
        *(Part("tail", (tokens,)) for tokens in _spread(most, 2.2)),
        *(Part("approximator", (tokens,)) for tokens in _spread(patches, 2.2)),
        Part("dense"),
        Part("tofe", anchor_counts(backbone, counts).kept),
    )


def anchor_counts(backbone: Backbone, counts: TokenCounts | None) -> TokenCounts:
    """The counts at which the whole net is timed: the checkpoint's own, or usual shares."""
    if counts is not None:
        return counts.check(backbone)
    last = len(_SHARES) - 1
    shares = (_SHARES[min(stage, last)] for stage in range(len(backbone.stages)))
    return TokenCounts(tuple(max(1, round(share * backbone.patch_tokens)) for share in shares))


def _spread(most: int, growth: float) -> list[int]:
    """Counts from the fewest to ``most``, each about ``growth`` times the one before; at least two."""
    counts = [FEWEST_TOKENS if most > FEWEST_TOKENS else 1]
    while counts[-1] * growth**1.5 < most:
        counts.append(max(counts[-1] + 1, round(counts[-1] * growth)))
    return sorted({*counts, most})


def to_table(
    ms: Mapping[Part, float], backbone: Backbone, *, precision: str, threads: int, source: str
) -> LatencyTable:
    """The table of measured parts, all those of :func:`parts_of`, rounded to a tenth of a microsecond.

    An empty call is taken off what the net has several of; what it has once keeps it, as the whole net has one call.
    """
    (first, short), (second, long) = sorted((part.tokens[0], time) for part, time in ms.items() if part.kind == "call")
    a_token = max(0.0, (long - short) / (second - first))

    def net(part: Part, tokens: int) -> float:
        return _rounded(ms[part] - short - a_token * (tokens - first))

    def points(kind: Kind, once: bool = False) -> Points:
        timed = sorted((part for part in ms if part.kind == kind), key=lambda part: part.tokens)
        return tuple((part.tokens[0], _rounded(ms[part]) if once else net(part, part.tokens[0])) for part in timed)

    block = points("block")
    step = find_step(tuple(point for point in block if point[0] in _WINDOW))
    aligned = find_alignment(tuple(point for point in block if point[0] in (*_WINDOW, *_TRIPLETS)), step)
    before = None if backbone.stages == default_stages(backbone.depth) else backbone.stages
    return LatencyTable(
        backbone=backbone.name,
        shape=shape_of(backbone),
        precision=precision,
        threads=threads,
        provenance="measured",
        source=source,
        stem=_rounded(ms[Part("stem")]),
        selection=net(Part("selection"), second),
        block=block,
        tail=points("tail", once=True),
        approximator=points("approximator"),
        dense=_rounded(ms[Part("dense")]),
        tofe=tuple(Anchor(part.tokens, _rounded(time), before) for part, time in ms.items() if part.kind == "tofe"),
        step=None if step is None else Step(step.tokens, _rounded(step.ms)),
        aligned=None if aligned is None else Alignment(aligned.tokens, _rounded(aligned.ms)),
    )


def _rounded(ms: float) -> float:
    return max(round(ms, 4), _LEAST_MS)
