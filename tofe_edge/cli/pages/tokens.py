"""The pages of ``tofe-edge tokens`` and ``evaluate``: what each stage keeps, freezes and reuses of images; and over many of them the
distribution of token counts, with the images at both ends of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tofe_edge.cli.pages.charts import Mark, Words, count_histogram, figure
from tofe_edge.cli.pages.rendering import render_template
from tofe_edge.cli.pages.token_map import heat_legend, image_maps
from tofe_edge.evaluation.evaluate import Evaluation
from tofe_edge.evaluation.image_tokens import ImageTokens
from tofe_edge.evaluation.prediction import PERCENTILES, CountDistribution, MeanUsage


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


def render_tokens(page: TokensPage) -> str:
    """Return the page; it loads nothing from anywhere else, and no name in it can be markup.

    Raises:
        InputError: the patches of an image do not fill a square.
    """
    return render_template(
        "tokens.html",
        page=page,
        images=image_maps(page.drawn),
        heat_legend=heat_legend(len(page.usage.kept) + 1),
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationPage:
    """What the page shows of an instance-adaptive evaluation."""

    checkpoint: str
    source: str
    evaluation: Evaluation
    shipped: Sequence[int]
    """N^s of the checkpoint."""
    patch_tokens: int
    distributions: Sequence[CountDistribution]
    fewest: Sequence[ImageTokens]
    most: Sequence[ImageTokens]
    """Both with pixels."""
    class_names: Sequence[str]


def render_evaluation(page: EvaluationPage) -> str:
    """Return the page; it loads nothing from anywhere else, and no name in it can be markup.

    Raises:
        InputError: the patches of an image do not fill a square.
    """
    result, stages = page.evaluation, range(1, len(page.distributions) + 1)
    return render_template(
        "evaluation.html",
        page=page,
        usage=MeanUsage(result.images, page.patch_tokens, result.mean_kept, result.mean_reused),
        charts=Markup().join(_chart(page, stage) for stage in stages),
        percentiles=PERCENTILES,
        heat_legend=heat_legend(len(page.distributions) + 1),
        fewest=image_maps(page.fewest),
        most=image_maps(page.most),
    )


def _chart(page: EvaluationPage, stage: int) -> Markup:
    counts, shipped = page.distributions[stage - 1], page.shipped[stage - 1]
    spread = f"standard deviation {counts.std:.1f}"
    words = Words(
        title=f"Tokens kept in stage {stage}",
        description=f"From {counts.least} to {counts.most}, {counts.mean:.1f} on average, {spread}.",
        x="tokens",
        y=f"images, stage {stage}",
    )
    marks, over = [Mark(shipped, f"shipped {shipped}")], (0, page.patch_tokens)
    chart = count_histogram(dict(counts.histogram), marks, words, over)
    return figure(chart, f"stage {stage}: mean {counts.mean:.1f}, {spread}")
