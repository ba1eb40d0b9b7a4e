"""The page of ``tofe-edge tokens``: what each stage keeps, freezes and reuses of images, and how often a patch is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.cli.pages.html import Html, join, key_figures, name, page, paragraph, section, text, write
from tofe_edge.cli.pages.pictured import pictured, reused_table
from tofe_edge.cli.pages.token_map import EXPLANATION, heat_legend
from tofe_edge.evaluation.image_tokens import ImageTokens
from tofe_edge.evaluation.usage import MeanUsage


@dataclass(frozen=True, kw_only=True)
class TokensPage:
    """What the page shows."""

    checkpoint: str
    mode: str
    source: str
    """Empty: the images were named one by one."""
    usage: MeanUsage
    """Over all images of the source."""
    drawn: Sequence[ImageTokens]
    """With pixels."""
    class_names: Sequence[str]


def write_page(path: Path, shown: TokensPage) -> None:
    """Write the page atomically. Raises :class:`InputError` where it cannot be written."""
    write(path, render(shown))


def render(shown: TokensPage) -> str:
    """The page; nothing in it is loaded from anywhere else, and no name in it can be markup.

    Raises:
        InputError: the patches of an image fill no square.
    """
    usage, stages = shown.usage, len(shown.usage.kept) + 1
    about = [name(shown.checkpoint), text(f", {shown.mode}-adaptive; {_images(usage.images)}")]
    about += [text(" of "), name(shown.source)] if shown.source else []
    kept = ", ".join(f"{count:.1f}" for count in usage.kept)
    reused = ", ".join(f"{count:.1f}" for count in usage.reused)
    left_out = usage.images - len(shown.drawn)
    return page(
        f"Tokens of {shown.checkpoint}",
        (
            Html(f"<h1>Tokens of {name(shown.checkpoint)}</h1>"),
            paragraph(join(about)),
            key_figures(
                [
                    (f"kept of {usage.patch_tokens}", kept),
                    ("reused", reused),
                    (f"stages of {stages} that compute a patch", f"{usage.stages_computed:.2f}"),
                ]
            ),
            section("Reused tokens", reused_table(usage)),
            section(
                "Tokens a stage",
                paragraph(text(EXPLANATION)),
                heat_legend(stages),
                pictured(shown.drawn, shown.class_names),
                paragraph(text(f"{_images(left_out)} more are counted and not drawn." if left_out else ""), "quiet"),
            ),
        ),
    )


def _images(number: int) -> str:
    return f"{number} image" if number == 1 else f"{number} images"
