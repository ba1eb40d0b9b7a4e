"""Which parts of a net are timed to predict its latency, and how their times become a table. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tofe_edge.budget.latency_model import find_alignment, find_step, shape_of
from tofe_edge.model.backbones.spec import Backbone, TokenCounts, default_stages
from tofe_edge.profiles.latency import Alignment, Anchor, LatencyTable, Points, Step

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
