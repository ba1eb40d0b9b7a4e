"""What ``tofe-edge evaluate`` says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.output import facts, table

if TYPE_CHECKING:
    from tofe_edge.evaluation.evaluate import Evaluation
    from tofe_edge.evaluation.usage import CountDistribution

_LEVELS = " .:-=+*#%@"
"""From no image to the most, in characters that every terminal has."""

_COLUMNS = 32


def to_json(result: Evaluation, found: Sequence[CountDistribution], shipped: Sequence[int]) -> dict[str, Any]:
    """What ``evaluate --json`` holds of the measurement; ``distribution`` where token counts differ from image to image."""
    document = {
        **result.to_json(),
        "mean_reused": [round(value, 3) for value in result.mean_reused],
        "unreadable": [str(path) for path in result.unreadable],
    }
    if found:
        document["distribution"] = [
            {"stage": stage, **one.to_json(), "shipped": count, "mean_minus_shipped": round(one.mean - count, 3)}
            for stage, (one, count) in enumerate(zip(found, shipped), start=1)
        ]
    return document


def describe(
    where: str, result: Evaluation, found: Sequence[CountDistribution], shipped: Sequence[int], page: Path | None
) -> str:
    """Facts, the distribution of token counts where there is one, and what was written last."""
    low, high = result.top1_interval
    rows = [
        ("checkpoint", where),
        ("top-1", f"{result.top1:.2f} % (95 % interval {low:.1f} to {high:.1f})"),
        ("top-5", f"{result.top5:.2f} %"),
        ("images", f"{result.images}" + (f" ({len(result.unreadable)} unreadable)" if result.unreadable else "")),
        ("GMACs", f"{result.gmacs:.3f}"),
    ]
    if result.mean_kept:
        rows.append(("tokens kept", ", ".join(f"{count:.1f}" for count in result.mean_kept)))
        rows.append(("reused", ", ".join(f"{count:.2f}" for count in result.mean_reused)))
    blocks = [facts(rows)]
    if found:
        blocks += [_figures(found, shipped), _pictures(found)]
    if page is not None:
        blocks.append(facts([("wrote", page)]))
    return "\n\n".join(blocks)


def _figures(found: Sequence[CountDistribution], shipped: Sequence[int]) -> str:
    rows = [
        [
            f"stage {stage}",
            f"{one.mean:.1f}",
            f"{count}",
            f"{one.mean - count:+.1f}",
            f"{one.std:.1f}",
            *(f"{value:.0f}" for value in (one.least, *one.percentiles, one.most)),
        ]
        for stage, (one, count) in enumerate(zip(found, shipped), start=1)
    ]
    return table(
        rows,
        ["tokens", "mean", "shipped", "difference", "std", "min", "5 %", "25 %", "50 %", "75 %", "95 %", "max"],
    )


def _pictures(found: Sequence[CountDistribution]) -> str:
    """A line a stage, all on the same scale of tokens."""
    least, most = min(one.least for one in found), max(one.most for one in found)
    width = -(-(most - least + 1) // _COLUMNS)
    lines = [
        (f"stage {stage}", f"{least:>4} |{_picture(one, least, most, width)}| {most}")
        for stage, one in enumerate(found, start=1)
    ]
    return f"images by their number of tokens\n{facts(lines)}"


def _picture(one: CountDistribution, least: int, most: int, width: int) -> str:
    heights = [0] * ((most - least) // width + 1)
    for count, images in one.histogram:
        heights[(count - least) // width] += images
    highest = max(heights)
    # Rounded up: a single image shows.
    return "".join(_LEVELS[-(-height * (len(_LEVELS) - 1) // highest)] for height in heights)
