"""What a comparison says about a release: accuracy with intervals, paired tests, calibration, margins, the worst images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.evaluation.statistics import (
    Agreement,
    Calibration,
    Change,
    Interval,
    Margins,
    McNemar,
    agreement,
    bootstrap_difference,
    calibration_error,
    margin_at_cut,
    mcnemar,
    sample_size_for,
    top_k_accuracy,
    top_k_hits,
    worst,
)


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of both sides on labelled images, as shares; differences in points."""

    top1_reference: Interval
    top1_artifact: Interval
    top5_reference: Interval
    top5_artifact: Interval
    difference: Interval
    """Artifact less reference, paired bootstrap."""
    mcnemar: McNemar
    calibration_reference: Calibration
    calibration_artifact: Calibration
    images_to_see_half_a_point: int | None
    """That a paired test needs, at this rate of changes, to see a drop of half a point; ``None`` if nothing changed."""


@dataclass(frozen=True)
class Analysis:
    """Everything but the gates. ``accuracy`` is ``None`` without labels, ``margins`` empty for a dense net."""

    agreement: Agreement
    accuracy: Accuracy | None
    margins: tuple[Margins, ...]
    """Per stage: how clearly the reference's selector decides."""
    worst: tuple[Change, ...]
    worst_names: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Stable keys of ``tofe-edge parity --json`` under ``analysis``."""
        document = asdict(self)
        names = document.pop("worst_names")
        document["worst"] = [{"image": name, **change} for name, change in zip(names, document["worst"])]
        return document


_HALF_A_POINT = 0.5


def analyse(
    reference: Sequence[Prediction],
    artifact: Sequence[Prediction],
    labels: Sequence[int] | None,
    names: Sequence[str],
    worst_count: int = 10,
) -> Analysis:
    """Statistics of predictions of the same images.

    Args:
        names: of the images, for the list of the worst.

    Raises:
        InputError: logits are not finite, or a label is no class.
    """
    expected = np.stack([prediction.logits for prediction in reference])
    actual = np.stack([prediction.logits for prediction in artifact])
    known = None if labels is None else np.asarray(labels)
    changes = worst(expected, actual, known, min(worst_count, len(expected)))
    stages = min(len(prediction.margins) for prediction in reference)
    return Analysis(
        agreement=agreement(expected, actual),
        accuracy=None if known is None else _accuracy(expected, actual, known),
        margins=tuple(
            margin_at_cut(margins)
            for stage in range(stages)
            if np.isfinite(margins := np.array([one.margins[stage] for one in reference])).any()
        ),
        worst=changes,
        worst_names=tuple(names[change.index] for change in changes),
    )


def _accuracy(expected: np.ndarray, actual: np.ndarray, labels: np.ndarray) -> Accuracy:
    right = top_k_hits(expected, labels), top_k_hits(actual, labels)
    test = mcnemar(*right)
    changed = test.discordant_rate
    return Accuracy(
        top1_reference=top_k_accuracy(expected, labels),
        top1_artifact=top_k_accuracy(actual, labels),
        top5_reference=top_k_accuracy(expected, labels, 5),
        top5_artifact=top_k_accuracy(actual, labels, 5),
        difference=bootstrap_difference(*right),
        mcnemar=test,
        calibration_reference=calibration_error(expected, labels),
        calibration_artifact=calibration_error(actual, labels),
        images_to_see_half_a_point=sample_size_for(_HALF_A_POINT, changed) if changed >= _HALF_A_POINT / 100 else None,
    )
