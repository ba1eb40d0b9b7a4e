"""Which patches of a picture each stage computes with: the picture once a stage, with the frozen patches darkened.

The last picture is the usage heat map: how many stages, the one before the first selection among them, compute each patch.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
import numpy.typing as npt
from PIL import Image

from tofe_edge.cli.pages.heat import as_hex, heat_colours
from tofe_edge.cli.pages.html import NOTHING, Html, figure, join, name, paragraph, section, text
from tofe_edge.errors import InputError
from tofe_edge.evaluation.golden import GoldenSet, GoldenVector
from tofe_edge.evaluation.usage import Mask, kept_mask, reused_mask, stages_computed
from tofe_edge.io.artifact import Manifest

_JPEG_QUALITY = 85
_HEAT_OPACITY = 0.75
"""So that one sees what was hot."""

EXPLANATION = (
    "Dark patches are frozen: they skip the stage; framed ones are reused: frozen in an earlier stage, computed again here. "
    "The last picture shows in how many stages a patch is computed, the one before the first selection included."
)


@dataclass(frozen=True)
class TokenMap:
    """A picture and what was kept of it.

    Args:
        pixels: ``(S, S, 3)``, as the model takes it.
        patch_tokens: patches of the picture, a square number, row by row from the top left.
        kept: a stage each: positions of the patches it computes with.

    Raises:
        InputError: the patches do not fill a square, or a position is none of theirs.
    """

    pixels: npt.NDArray[np.uint8]
    patch_tokens: int
    kept: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if self.patch_tokens < 1 or isqrt(self.patch_tokens) ** 2 != self.patch_tokens:
            raise InputError(f"{self.patch_tokens} patches fill no square; only square pictures have a token map")
        self._mask()

    @property
    def side(self) -> int:
        """Patches in a row."""
        return isqrt(self.patch_tokens)

    def reused(self, stage: int) -> frozenset[int]:
        """What stage ``stage`` (from 0) keeps although a stage before had frozen it."""
        return frozenset(np.flatnonzero(reused_mask(self._mask())[stage]).tolist())

    def usage(self) -> tuple[int, ...]:
        """A patch each: how many of all stages compute it, the one before the first selection among them."""
        return tuple(stages_computed(self._mask()).tolist())

    def _mask(self) -> Mask:
        return kept_mask(self.kept, self.patch_tokens)


def kept_tokens(manifest: Manifest, golden: GoldenSet | None, methods: Sequence[str]) -> Html:
    """A token map of the first golden picture for each of these methods; nothing for a dense model or without pictures."""
    reduced = [method for method in methods if manifest.method(method).token_counts]
    if golden is None or not reduced:
        return NOTHING
    parts = [
        paragraph(text(f"A sample photograph as each stage sees it. {EXPLANATION}")),
        heat_legend(len(manifest.stage_blocks)),
    ]
    for method in reduced:
        vector = golden.of(method)[0]
        said = ", ".join(f"{one.name} {one.probability:.0%}" for one in vector.top5[:3])
        maps = token_maps(map_of(vector, manifest.patch_tokens))
        answer = paragraph(join((text("The model says: "), name(said))), "quiet")
        parts.append(section(f"Method {method}", maps, answer, level=3) if len(methods) > 1 else join((maps, answer)))
    return join(parts)


def map_of(vector: GoldenVector, patch_tokens: int) -> TokenMap:
    """The map of a golden vector, as the artifact itself selected. Raises :class:`InputError` as :class:`TokenMap`."""
    return TokenMap(vector.pixels, patch_tokens, tuple(tuple(stage.tolist()) for stage in vector.expected.kept))


def token_maps(found: TokenMap) -> Html:
    """A row of pictures: the input, each stage with its frozen patches dark and those it reuses framed, the usage.

    Without stages there is the input alone.
    """
    picture = _address(found.pixels)
    whole = figure(_picture(picture, found.side, "The input", ""), text(f"input: {found.patch_tokens} patches"))
    stages = (_stage(found, stage, picture) for stage in range(len(found.kept)))
    heat = _heat(found, picture) if found.kept else NOTHING
    return Html(f'<div class="maps">{whole}{join(stages)}{heat}</div>')


def heat_legend(stages: int) -> Html:
    """The colours of the usage heat map, for nets with ``stages`` stages in all."""
    entries = "".join(
        f'<li><svg viewBox="0 0 26 10" aria-hidden="true"><rect width="26" height="10" fill="{as_hex(colour)}"/></svg>'
        f"{number} of {stages}</li>"
        for number, colour in enumerate(heat_colours(stages), start=1)
    )
    return Html(f'<ul class="legend"><li>stages that compute a patch:</li>{entries}</ul>')


def _stage(found: TokenMap, stage: int, picture: str) -> Html:
    kept, again = frozenset(found.kept[stage]), found.reused(stage)
    frozen = frozenset(range(found.patch_tokens)) - kept
    overlay = f'<path class="frozen" d="{_veil(frozen, found.side)}"/>' if frozen else ""
    overlay += f'<path class="again" stroke-width=".12" d="{_frames(again, found.side)}"/>' if again else ""
    words = f"{len(kept)} of {found.patch_tokens} patches computed, {len(frozen)} frozen"
    back = f"; {len(again)} reused" if again else ""
    svg = _picture(picture, found.side, f"Stage {stage + 1}: {words}{back}", overlay)
    return figure(svg, text(f"stage {stage + 1}: {len(kept)} computed, {len(frozen)} frozen{back}"))


def _heat(found: TokenMap, picture: str) -> Html:
    usage, stages = found.usage(), len(found.kept) + 1
    patches = {level: [at for at, times in enumerate(usage) if times == level] for level in range(1, stages + 1)}
    overlay = "".join(
        f'<path class="usage" fill="{as_hex(colour)}" fill-opacity="{_HEAT_OPACITY}" d="{_veil(some, found.side)}"/>'
        for some, colour in zip(patches.values(), heat_colours(stages))
        if some
    )
    words = "; ".join(f"{len(some)} patches in {level}" for level, some in patches.items())
    caption = f"usage: computed in {sum(usage) / len(usage):.2f} of {stages} stages on average"
    return figure(_picture(picture, found.side, f"Stages that compute a patch: {words}", overlay), text(caption))


def _picture(address: str, side: int, title: str, overlay: str) -> Html:
    return Html(
        f'<svg viewBox="0 0 {side} {side}" role="img"><title>{text(title)}</title>'
        f'<image href="{address}" width="{side}" height="{side}" preserveAspectRatio="none"/>{overlay}</svg>'
    )


def _veil(patches: Collection[int], side: int) -> str:
    """Runs of neighbours in one piece: between single squares a screen would show seams."""
    runs: list[tuple[int, int, int]] = []
    for patch in sorted(patches):
        row, column = divmod(patch, side)
        if runs and runs[-1][0] == row and runs[-1][1] + runs[-1][2] == column:
            runs[-1] = (row, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((row, column, 1))
    return "".join(f"M{column} {row}h{length}v1h-{length}z" for row, column, length in runs)


def _frames(patches: Collection[int], side: int) -> str:
    places: Sequence[tuple[int, int]] = [divmod(patch, side) for patch in sorted(patches)]
    return "".join(f"M{column + 0.1:g} {row + 0.1:g}h.8v.8h-.8z" for row, column in places)


def _address(pixels: npt.NDArray[np.uint8]) -> str:
    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stored, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stored.getvalue()).decode()}"
