"""The page of ``tofe-edge parity``: gates, statistics, and the images that changed the most, with thumbnails."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

from tofe_edge.cli.pages.checks import gates, layer_noise, overlap, verdict
from tofe_edge.cli.pages.html import NOTHING, Html, facts, join, name, page, paragraph, section, text, write
from tofe_edge.evaluation.analysis import Analysis
from tofe_edge.evaluation.parity import Parity
from tofe_edge.evaluation.statistics import Change, Interval
from tofe_edge.io.artifact import Manifest

Thumbnail = Callable[[str], bytes | None]
"""The name of an image to a small JPEG of it, or ``None``."""


def write_page(
    path: Path, manifest: Manifest, parity: Parity, analysis: Analysis | None, source: str, thumbnail: Thumbnail
) -> None:
    """Write the page atomically. Raises :class:`InputError` where it cannot be written."""
    write(path, render(manifest, parity, analysis, source, thumbnail))


def render(manifest: Manifest, parity: Parity, analysis: Analysis | None, source: str, thumbnail: Thumbnail) -> str:
    """The page; nothing in it is loaded from anywhere else, and no name in it can be markup."""
    about = (
        text(f"{parity.images} images of "),
        name(source),
        text(f"; {manifest.precision} for "),
        name(manifest.backend),
        text(", made from "),
        name(manifest.checkpoint),
        text("."),
    )
    return page(
        f"Parity of {manifest.artifact}",
        (
            Html(f"<h1>Parity of {name(manifest.artifact)}: {verdict(parity.passed)}</h1>"),
            paragraph(join(about)),
            section("Gates", gates(parity.gates), overlap(parity.kept_overlap)),
            NOTHING if analysis is None else _statistics(analysis),
            NOTHING if analysis is None else _worst(analysis, manifest.class_names, thumbnail),
            layer_noise(manifest),
        ),
    )


def _statistics(analysis: Analysis) -> Html:
    rows = [
        ("top-1 agreement", _interval(analysis.agreement.top1)),
        ("top-5 overlap", f"{analysis.agreement.top5_overlap:.2%}"),
    ]
    accuracy = analysis.accuracy
    if accuracy is not None:
        test, change = accuracy.mcnemar, accuracy.difference
        rows += [
            ("top-1 of the artifact", _interval(accuracy.top1_artifact)),
            ("top-1 of the reference", _interval(accuracy.top1_reference)),
            ("top-5 of the artifact", _interval(accuracy.top5_artifact)),
            ("top-5 of the reference", _interval(accuracy.top5_reference)),
            (
                "difference, paired bootstrap",
                f"{change.estimate:+.2f} points ({change.low:+.2f} to {change.high:+.2f})",
            ),
            ("McNemar, exact", f"{test.lost} images lost, {test.gained} gained, p = {test.p_value:.3g}"),
            (
                "expected calibration error",
                f"{accuracy.calibration_artifact.expected_error:.4f}, reference "
                f"{accuracy.calibration_reference.expected_error:.4f}",
            ),
        ]
        if accuracy.images_to_see_half_a_point is not None:
            rows.append(("images to see a drop of half a point", f"{accuracy.images_to_see_half_a_point}"))
    for stage, margins in enumerate(analysis.margins, start=1):
        quantiles = ", ".join(f"{quantile} {value:.3g}" for quantile, value in margins.quantiles.items())
        rows.append((f"margin at the cut, stage {stage}", quantiles))
    return section(
        "Statistics",
        paragraph(text("Intervals are at 95 %.")),
        facts((what, text(value)) for what, value in rows),
    )


def _interval(interval: Interval) -> str:
    return f"{interval.estimate:.2%} ({interval.low:.2%} to {interval.high:.2%})"


def _worst(analysis: Analysis, names: Sequence[str], thumbnail: Thumbnail) -> Html:
    pictures = (
        _figure(image, change, names, thumbnail(image)) for image, change in zip(analysis.worst_names, analysis.worst)
    )
    return section("Images that changed the most", Html(f'<div class="images">{join(pictures)}</div>'))


def _figure(image: str, change: Change, names: Sequence[str], picture: bytes | None) -> Html:
    shown = "" if picture is None else f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
    lines = [
        name(image),
        Html(f"{name(names[change.reference_class])} {change.reference_probability:.0%} &rarr; "
             f"{change.remaining_probability:.0%}"),
        Html(f"now {name(names[change.artifact_class])} {change.artifact_probability:.0%}"),
    ]  # fmt: skip
    if change.label is not None:
        lines.append(Html(f"label: {name(names[change.label])}"))
    return Html(f"<figure>{shown}<figcaption>{join(lines, '<br>')}</figcaption></figure>")
