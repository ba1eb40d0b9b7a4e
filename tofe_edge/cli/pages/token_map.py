"""Token maps: which patches of an image each stage computes with.

The image once per stage with the frozen patches darkened, and last the usage heat map: in how many stages, including those
blocks before the first selection, each patch is computed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from tofe_edge.cli.pages.charts import figure
from tofe_edge.errors import InputError
from tofe_edge.evaluation.golden import GoldenSet
from tofe_edge.evaluation.image_tokens import ImageTokens
from tofe_edge.evaluation.prediction import Mask, kept_mask, reused_mask, stages_computed
from tofe_edge.io.artifact import Manifest

Colour = tuple[int, int, int]

_VIRIDIS: tuple[Colour, ...] = ((68, 1, 84), (49, 104, 142), (53, 183, 121), (253, 231, 37))
_JPEG_QUALITY = 85
_HEAT_OPACITY = 0.75
"""Leaves the image visible below the heat map."""


@dataclass(frozen=True)
class TokenMap:
    """An image and the patches that were kept of it.

    Args:
        pixels: ``(S, S, 3)``, as the model takes it.
        patch_tokens: patches of the image, a square number, row by row from the top left.
        kept: for each stage the positions of the patches it computes with.

    Raises:
        InputError: the patches do not fill a square, or a position is outside of it.
    """

    pixels: npt.NDArray[np.uint8]
    patch_tokens: int
    kept: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if self.patch_tokens < 1 or isqrt(self.patch_tokens) ** 2 != self.patch_tokens:
            raise InputError(f"{self.patch_tokens} patches do not fill a square; only square images have a token map")
        self._mask()

    @property
    def side(self) -> int:
        """Patches in a row."""
        return isqrt(self.patch_tokens)

    def reused(self, stage: int) -> frozenset[int]:
        """Return the patches that stage ``stage`` (from 0) keeps although an earlier stage had frozen them."""
        return frozenset(np.flatnonzero(reused_mask(self._mask())[stage]).tolist())

    def usage(self) -> tuple[int, ...]:
        """Return for each patch the number of stages that compute it, the one before the first selection included."""
        return tuple(stages_computed(self._mask()).tolist())

    def _mask(self) -> Mask:
        return kept_mask(self.kept, self.patch_tokens)


@dataclass(frozen=True)
class MethodMap:
    """The token map of a method's first golden image, and the model's answer to it."""

    method: str
    maps: Markup
    answer: str


def method_maps(manifest: Manifest, golden: GoldenSet | None, methods: Sequence[str]) -> list[MethodMap]:
    """Return the maps of these methods, as the artifact itself selected; none of dense ones or without golden vectors."""
    if golden is None:
        return []
    made = []
    for method in methods:
        if manifest.method(method).token_counts:
            vector = golden.of(method)[0]
            kept = tuple(tuple(stage.tolist()) for stage in vector.expected.kept)
            answer = ", ".join(f"{one.name} {one.probability:.0%}" for one in vector.top5[:3])
            made.append(MethodMap(method, token_maps(TokenMap(vector.pixels, manifest.patch_tokens, kept)), answer))
    return made


def map_of_image(image: ImageTokens) -> TokenMap:
    """Return the token map of an image that has its pixels. Raises :class:`InputError` as :class:`TokenMap`."""
    assert image.pixels is not None
    return TokenMap(image.pixels, image.patch_tokens, image.kept)


def image_maps(images: Sequence[ImageTokens]) -> list[tuple[ImageTokens, Markup]]:
    """Return each image that has pixels, with its token maps."""
    return [(image, token_maps(map_of_image(image))) for image in images if image.pixels is not None]


def token_maps(token_map: TokenMap) -> Markup:
    """Draw the input, each stage with its frozen patches dark and the reused ones framed, and the usage heat map.

    Without stages there is only the input.
    """
    address = _jpeg_address(token_map.pixels)

    def drawing(title: str, caption: str, overlay: Markup) -> Markup:
        svg = Markup(
            '<svg viewBox="0 0 {0} {0}" role="img"><title>{1}</title>'
            '<image href="{2}" width="{0}" height="{0}" preserveAspectRatio="none"/>{3}</svg>'
        )
        return figure(svg.format(token_map.side, title, address, overlay), caption)

    drawings = [drawing("The input", f"input: {token_map.patch_tokens} patches", Markup(""))]
    for stage, kept in enumerate(token_map.kept):
        again, frozen = token_map.reused(stage), frozenset(range(token_map.patch_tokens)) - frozenset(kept)
        overlay = _path('class="frozen"', _squares(frozen, token_map.side))
        # A dark patch of a dark picture is told by its hatching.
        overlay += _path('class="hatch"', _diagonals(frozen, token_map.side))
        overlay += _path('class="again" stroke-width=".12"', _frames(again, token_map.side))
        words = (
            f"stage {stage + 1}: {len(kept)} computed, {len(frozen)} frozen{f'; {len(again)} reused' if again else ''}"
        )
        drawings.append(drawing(words, words, overlay))
    if token_map.kept:
        usage, stages = token_map.usage(), len(token_map.kept) + 1
        patches = {level: [at for at, count in enumerate(usage) if count == level] for level in range(1, stages + 1)}
        overlay = Markup().join(
            _path(
                f'class="usage" fill="{as_hex(colour)}" fill-opacity="{_HEAT_OPACITY}"', _squares(some, token_map.side)
            )
            for some, colour in zip(patches.values(), heat_colours(stages))
        )
        title = "; ".join(f"{len(some)} patches in {level}" for level, some in patches.items())
        caption = f"usage: computed in {sum(usage) / len(usage):.2f} of {stages} stages on average"
        drawings.append(drawing(f"Stages that compute a patch: {title}", caption, overlay))
    return Markup('<div class="maps">{}</div>').format(Markup().join(drawings))


def heat_colours(levels: int) -> tuple[Colour, ...]:
    """Return the RGB colours of the usage heat map, for 1 to ``levels`` stages: dark to light, told apart without colour
    vision (viridis)."""
    places = np.linspace(0, len(_VIRIDIS) - 1, levels) if levels > 1 else np.zeros(1)
    channels = [
        np.interp(places, range(len(_VIRIDIS)), channel).round().astype(int).tolist() for channel in zip(*_VIRIDIS)
    ]
    return tuple(zip(*channels))


def as_hex(colour: Colour) -> str:
    """Return ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def heat_legend(stages: int) -> list[tuple[int, str]]:
    """Return for each number of stages its colour on the heat map."""
    return [(number, as_hex(colour)) for number, colour in enumerate(heat_colours(stages), start=1)]


def _path(attributes: str, path: str) -> Markup:
    return Markup(f'<path {attributes} d="{path}"/>' if path else "")


def _squares(patches: Collection[int], side: int) -> str:
    """Return a path over these patches, neighbours in one piece: between single squares a screen would show seams."""
    runs: list[tuple[int, int, int]] = []
    for patch in sorted(patches):
        row, column = divmod(patch, side)
        if runs and runs[-1][0] == row and runs[-1][1] + runs[-1][2] == column:
            runs[-1] = (row, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((row, column, 1))
    return "".join(f"M{column} {row}h{length}v1h-{length}z" for row, column, length in runs)


def _diagonals(patches: Collection[int], side: int) -> str:
    places = [divmod(patch, side) for patch in sorted(patches)]
    return "".join(f"M{column} {row + 1}l1-1" for row, column in places)


def _frames(patches: Collection[int], side: int) -> str:
    places = [divmod(patch, side) for patch in sorted(patches)]
    return "".join(f"M{column + 0.1:g} {row + 0.1:g}h.8v.8h-.8z" for row, column in places)


def _jpeg_address(pixels: npt.NDArray[np.uint8]) -> str:
    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stored, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stored.getvalue()).decode()}"
