"""The page of ``tofe-edge tokens``: what each stage keeps, freezes and reuses of images, and how often each patch is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tofe_edge.cli.pages.rendering import render_template
from tofe_edge.cli.pages.token_map import heat_legend, image_maps
from tofe_edge.evaluation.image_tokens import ImageTokens
from tofe_edge.evaluation.usage import MeanUsage


@dataclass(frozen=True, kw_only=True)
class TokensPage:
    """What the page shows."""

    checkpoint: str
    mode: str
    source: str
    """Empty if the images were named one by one."""
    usage: MeanUsage
    """Means over all images of the source."""
    drawn: Sequence[ImageTokens]
    """Images with their pixels."""
    class_names: Sequence[str]


def render(shown: TokensPage) -> str:
    """Return the page; it loads nothing from anywhere else, and no name in it can be markup.

    Raises:
        InputError: the patches of an image do not fill a square.
    """
    return render_template(
        "tokens.html",
        page=shown,
        images=image_maps(shown.drawn),
        heat_legend=heat_legend(len(shown.usage.kept) + 1),
    )
