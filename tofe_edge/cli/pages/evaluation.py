"""The page of ``tofe-edge evaluate``: the distribution of token counts over images, and the images at both ends of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tofe_edge.cli.pages.charts import Mark, Words, count_histogram, figure
from tofe_edge.cli.pages.rendering import render_template
from tofe_edge.cli.pages.token_map import heat_legend, image_maps
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
    """Both with pixels."""
    class_names: Sequence[str]


def render(shown: EvaluationPage) -> str:
    """Return the page; it loads nothing from anywhere else, and no name in it can be markup.

    Raises:
        InputError: the patches of an image do not fill a square.
    """
    result, stages = shown.evaluation, range(1, len(shown.found) + 1)
    return render_template(
        "evaluation.html",
        page=shown,
        usage=MeanUsage(result.images, shown.patch_tokens, result.mean_kept, result.mean_reused),
        charts=Markup().join(_chart(shown, stage) for stage in stages),
        headings=("tokens kept", *(f"stage {stage}" for stage in stages)),
        rows=_rows(shown),
        heat_legend=heat_legend(len(shown.found) + 1),
        fewest=image_maps(shown.fewest),
        most=image_maps(shown.most),
    )


def _chart(shown: EvaluationPage, stage: int) -> Markup:
    counts, shipped = shown.found[stage - 1], shown.shipped[stage - 1]
    spread = f"standard deviation {counts.std:.1f}"
    words = Words(
        title=f"Tokens kept in stage {stage}",
        description=f"From {counts.least} to {counts.most}, {counts.mean:.1f} on average, {spread}.",
        x="tokens",
        y=f"images, stage {stage}",
    )
    marks, over = [Mark(shipped, f"shipped {shipped}")], (0, shown.patch_tokens)
    chart = count_histogram(dict(counts.histogram), marks, words, over)
    return figure(chart, f"stage {stage}: mean {counts.mean:.1f}, {spread}")


def _rows(shown: EvaluationPage) -> list[tuple[str, ...]]:
    """Return a table with one column per stage: a phone has no room for the other way round."""
    columns = [
        (
            f"{counts.mean:.1f}",
            f"{shipped}",
            f"{counts.mean - shipped:+.1f}",
            f"{counts.std:.1f}",
            f"{counts.least}",
            *(f"{value:.0f}" for value in counts.percentiles),
            f"{counts.most}",
        )
        for counts, shipped in zip(shown.found, shown.shipped)
    ]
    percentiles = (f"p{percent}" for percent in PERCENTILES)
    names = ("mean", "shipped", "mean less shipped", "standard deviation", "fewest", *percentiles, "most")
    return [(what, *values) for what, values in zip(names, zip(*columns))]
