"""Latency of a net at any token counts, predicted from what its parts took on the device. Pure arithmetic.

A :class:`LatencyTable` holds times of single parts, and of the whole net at a few token counts ("anchors"). The
prediction adds up the parts, and what an anchor took beyond its own parts:

    t(N) = parts(N) + rest,    rest = mean over anchors A of t(A) - parts(A)

Parts are measured one by one, with their weights in the cache and one call each; the whole net pays for weights that come
from memory and saves the calls. Neither depends on token counts, so the rest does not either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import InputError
from tofe_edge.model.backbones.spec import Backbone, TokenCounts, check_stages, default_stages
from tofe_edge.profiles.latency import Alignment, Anchor, LatencyTable, NetShape, Points, Step

WIDEST_STEP = 32
_ALIGNMENTS = (4, 8, 16, 32)
_SIGNIFICANT = 0.6
"""A step is significant if it leaves at most this share of the squares that a parabola leaves. Of noise alone, the
best of 31 widths leaves more than 0.6 of the squares of 25 points in 98.5 % of draws."""


def shape_of(backbone: Backbone) -> NetShape:
    """What latency depends on."""
    return NetShape(**{field.name: getattr(backbone, field.name) for field in fields(NetShape)})


def fits(table: LatencyTable, backbone: Backbone) -> bool:
    """Whether the table was measured with this net."""
    return (table.backbone, table.shape) == (backbone.name, shape_of(backbone))


def find_table(tables: Sequence[LatencyTable], backbone: Backbone, precision: str) -> LatencyTable | None:
    """The table of this net in this precision, if there is one."""
    return next((table for table in tables if table.precision == precision and fits(table, backbone)), None)


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
