"""Images with their token maps, named and with what the model says of them."""

from __future__ import annotations

from collections.abc import Sequence

from tofe_edge.cli.pages.html import NOTHING, Html, join, name, paragraph, table, text
from tofe_edge.cli.pages.token_map import TokenMap, token_maps
from tofe_edge.evaluation.image_tokens import ImageTokens
from tofe_edge.evaluation.usage import MeanUsage


def map_of_image(image: ImageTokens) -> TokenMap:
    """The token map of an image that has its pixels.

    Raises:
        InputError: its patches fill no square.
    """
    assert image.pixels is not None
    return TokenMap(image.pixels, image.patch_tokens, image.kept)


def pictured(images: Sequence[ImageTokens], class_names: Sequence[str]) -> Html:
    """A row of pictures for each image that has pixels. Raises :class:`InputError` as :func:`map_of_image`."""
    return join(_pictured(image, class_names) for image in images if image.pixels is not None)


def reused_table(usage: MeanUsage) -> Html:
    """Mean kept and reused patches a stage, as in the paper's Table VII."""
    rows = [
        (text(f"stage {stage}"), text(f"{kept:.2f}"), text(f"{reused:.2f}"), text(f"{share:.2%}"))
        for stage, (kept, reused, share) in enumerate(zip(usage.kept, usage.reused, usage.reused_share), start=1)
    ]
    return table(rows, ("mean", "kept", "reused", "share"), (1, 2, 3))


def _pictured(image: ImageTokens, class_names: Sequence[str]) -> Html:
    answer = join((text("The model says: "), name(image.best.name), text(f" {image.best.probability:.0%}")))
    label = NOTHING if image.label is None else join((text("; label: "), name(class_names[image.label])))
    return join(
        (
            Html(f"<h3>{name(str(image.location))}</h3>"),
            token_maps(map_of_image(image)),
            paragraph(join((answer, label)), "quiet"),
        )
    )
