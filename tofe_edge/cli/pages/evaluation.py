"""The page of ``tofe-edge evaluate``: how the number of tokens is distributed over images, and the images at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.cli.pages.charts import Mark, Words, count_histogram
from tofe_edge.cli.pages.html import (
    NOTHING,
    Html,
    figure,
    join,
    key_figures,
    name,
    page,
    paragraph,
    section,
    table,
    text,
    write,
)
from tofe_edge.cli.pages.pictured import pictured, reused_table
from tofe_edge.cli.pages.token_map import EXPLANATION, heat_legend
from tofe_edge.evaluation.evaluate import Evaluation
from tofe_edge.evaluation.image_tokens import ImageTokens
from tofe_edge.evaluation.usage import PERCENTILES, CountDistribution, MeanUsage


@dataclass(frozen=True, kw_only=True)
class EvaluationPage:
    """What the page shows of an instance-adaptive evaluation."""

    checkpoint: str
    source: str
    evaluation: Evaluation
    shipped: Sequence[int]
    """N^s of the checkpoint."""
    patch_tokens: int
    found: Sequence[CountDistribution]
    fewest: Sequence[ImageTokens]
    most: Sequence[ImageTokens]
    """With pixels both."""
    class_names: Sequence[str]


def write_page(path: Path, shown: EvaluationPage) -> None:
    """Write the page atomically. Raises :class:`InputError` where it cannot be written."""
    write(path, render(shown))


def render(shown: EvaluationPage) -> str:
    """The page; nothing in it is loaded from anywhere else, and no name in it can be markup.

    Raises:
        InputError: the patches of an image fill no square.
    """
    result = shown.evaluation
    low, high = result.top1_interval
    about = (name(shown.checkpoint), text(f", instance-adaptive; {result.images} images of "), name(shown.source))
    usage = MeanUsage(result.images, shown.patch_tokens, result.mean_kept, result.mean_reused)
    charts = join(_chart(shown, stage) for stage in range(len(shown.found)))
    return page(
        f"Token counts of {shown.checkpoint}",
        (
            Html(f"<h1>Token counts of {name(shown.checkpoint)}</h1>"),
            paragraph(join(about)),
            key_figures(
                [
                    ("top-1", f"{result.top1:.1f} %"),
                    ("95 % interval", f"{low:.1f} to {high:.1f} %"),
                    ("mean GMACs", f"{result.gmacs:.3f}"),
                    (f"tokens kept of {shown.patch_tokens}", ", ".join(f"{count:.1f}" for count in result.mean_kept)),
                ]
            ),
            section(
                "Tokens an image keeps",
                paragraph(
                    text(
                        "How many images keep how many tokens in each stage, as their selectors decide; the shipped counts "
                        "are what every image keeps in batch-adaptive inference."
                    )
                ),
                Html(f'<div class="charts">{charts}</div>'),
                _table(shown),
            ),
            section("Reused tokens", reused_table(usage)),
            section("Images with the fewest tokens", _how_to_read(shown), pictured(shown.fewest, shown.class_names)),
            section("Images with the most tokens", pictured(shown.most, shown.class_names)),
        ),
    )


def _how_to_read(shown: EvaluationPage) -> Html:
    return join((paragraph(text(EXPLANATION)), heat_legend(len(shown.found) + 1))) if shown.fewest else NOTHING


def _chart(shown: EvaluationPage, stage: int) -> Html:
    found, shipped = shown.found[stage], shown.shipped[stage]
    words = Words(
        title=f"Tokens kept in stage {stage + 1}",
        description=f"From {found.least} to {found.most}, {found.mean:.1f} on average, standard deviation {found.std:.1f}.",
        x="tokens",
        y=f"images, stage {stage + 1}",
    )
    chart = count_histogram(
        dict(found.histogram), [Mark(shipped, f"shipped {shipped}")], words, over=(0, shown.patch_tokens)
    )
    return figure(chart, text(f"stage {stage + 1}: mean {found.mean:.1f}, standard deviation {found.std:.1f}"))


def _table(shown: EvaluationPage) -> Html:
    """A column a stage: a phone has no room for the other way round."""
    columns = [
        (
            f"{one.mean:.1f}",
            f"{shipped}",
            f"{one.mean - shipped:+.1f}",
            f"{one.std:.1f}",
            f"{one.least}",
            *(f"{value:.0f}" for value in one.percentiles),
            f"{one.most}",
        )
        for one, shipped in zip(shown.found, shown.shipped)
    ]
    names = (
        "mean",
        "shipped",
        "mean less shipped",
        "standard deviation",
        "fewest",
        *(f"{at}th percentile" for at in PERCENTILES),
        "most",
    )
    rows = [tuple(map(text, (what, *values))) for what, values in zip(names, zip(*columns))]
    headings = ("tokens kept", *(f"stage {stage}" for stage in range(1, len(columns) + 1)))
    return table(rows, headings, range(1, len(headings)))
