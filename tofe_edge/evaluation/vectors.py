"""An artifact that gives vectors, an embedding of an image or features of its patches, against its reference. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import InputError
from tofe_edge.evaluation.parity import (
    GateResult,
    Parity,
    compare,
    distance_gates,
    finite_or_none,
    on_decided,
    paired,
    side,
    snr_of_powers,
)
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.io.targets import Gates

DECIDED_NEIGHBOUR = 0.02
"""Closer than this in cosine, rounding may turn the nearest neighbour: of 150 validation images the shipped net in int8 has
another nearest one for 5.3 %, but for 0.8 % of those four in five whose second-nearest is further away than this."""

_LOWEST = 5
"""Per cent of the tokens that are judged by their best: token by token, one that another CPU freezes is no fault."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingParity(Parity):
    """Of a net that gives one vector per image."""

    cosine_mean: float
    cosine_worst: float
    """The least of any image."""
    neighbour_agreement: float | None
    """Share of images whose nearest neighbour among the others is the same; ``None`` of fewer than three images."""
    decided_neighbours: int
    """Images whose two nearest neighbours the reference holds at least ``DECIDED_NEIGHBOUR`` apart."""
    decided_neighbour_agreement: float
    """The share among those; 1 if there are none."""

    @property
    def figures(self) -> tuple[tuple[str, str], ...]:
        neighbours = "too few images"
        if self.neighbour_agreement is not None:
            decided = on_decided(self.decided_neighbours, self.decided_neighbour_agreement)
            neighbours = f"{self.neighbour_agreement:.1%} ({decided})"
        return (
            ("cosine", f"mean {self.cosine_mean:.5f}, worst {self.cosine_worst:.5f}"),
            ("same nearest neighbour", neighbours),
            *super().figures,
        )

    def to_json(self) -> dict[str, Any]:
        own = {
            "output": "embedding",
            "cosine_mean": finite_or_none(self.cosine_mean),
            "cosine_worst": finite_or_none(self.cosine_worst),
            "neighbour_agreement": self.neighbour_agreement,
            "decided_neighbours": self.decided_neighbours,
            "decided_neighbour_agreement": self.decided_neighbour_agreement,
        }
        return {**own, **super().to_json()}


@dataclass(frozen=True, kw_only=True)
class FeatureParity(Parity):
    """Of a net that gives one vector per patch."""

    cosine_mean: float
    cosine_lowest: float
    """That of the token at the lowest 5 % of all tokens of all images."""
    token_snr_db: float
    """That of the token in the middle."""
    token_snr_db_lowest: float
    """That of the token at the lowest 5 %."""

    @property
    def figures(self) -> tuple[tuple[str, str], ...]:
        return (
            ("cosine per token", f"mean {self.cosine_mean:.5f}, lowest {_LOWEST} % {self.cosine_lowest:.5f}"),
            (
                "SNR per token",
                f"median {self.token_snr_db:.1f} dB, lowest {_LOWEST} % {self.token_snr_db_lowest:.1f} dB",
            ),
            *super().figures,
        )

    def to_json(self) -> dict[str, Any]:
        own = {
            "output": "features",
            "cosine_mean": finite_or_none(self.cosine_mean),
            "cosine_lowest": finite_or_none(self.cosine_lowest),
            "token_snr_db": finite_or_none(self.token_snr_db),
            "token_snr_db_lowest": finite_or_none(self.token_snr_db_lowest),
        }
        return {**own, **super().to_json()}


def compare_outputs(
    output: str,
    reference: Sequence[Prediction],
    artifact: Sequence[Prediction],
    labels: Sequence[int] | None,
    gates: Gates,
) -> Parity:
    """Compare predictions of the same inputs by what they are: logits, embeddings or features.

    Args:
        labels: the classes of the images, if known; read of logits alone.

    Raises:
        InputError: they cannot be compared, or the gates ask for what only a classifier has.
    """
    if output == "logits":
        return compare(reference, artifact, labels, gates)
    if gates.max_drop is not None:
        raise InputError("--max-drop: only a classifier has top-1 accuracy; leave it out")
    return (compare_embeddings if output == "embedding" else compare_features)(reference, artifact, gates)


def compare_embeddings(
    reference: Sequence[Prediction], artifact: Sequence[Prediction], gates: Gates
) -> EmbeddingParity:
    """Compare embeddings by their angles. Raises as :func:`tofe_edge.evaluation.parity.paired`."""
    both = paired(reference, artifact, "channels", gates)
    alike = cosines(both.expected, both.actual)
    mean, worst = float(alike.mean()), float(alike.min())
    same, decided = neighbours(both.expected, both.actual)
    rate = float(same[decided].mean()) if decided.any() else 1.0
    results = [
        _at_least("mean cosine", mean, gates.min_cosine),
        _at_least("worst cosine", worst, gates.min_worst_cosine),
        *distance_gates("embedding", both, gates),
    ]
    if decided.sum() >= gates.min_images_for_rate:
        passed, least = rate >= gates.min_neighbour_agreement, 100 * gates.min_neighbour_agreement
        name = "nearest neighbours of decided images"
        results.append(GateResult(name, f"{name} agree on {rate:.1%}, which {side(passed)} {least:g}%", passed))
    return EmbeddingParity(
        **both.common(),
        gates=tuple(results),
        cosine_mean=mean,
        cosine_worst=worst,
        neighbour_agreement=float(same.mean()) if same.size else None,
        decided_neighbours=int(decided.sum()),
        decided_neighbour_agreement=rate,
    )


def compare_features(reference: Sequence[Prediction], artifact: Sequence[Prediction], gates: Gates) -> FeatureParity:
    """Compare features token by token. Raises as :func:`tofe_edge.evaluation.parity.paired`."""
    both = paired(reference, artifact, "tokens or channels", gates)
    alike, ratios = cosines(both.expected, both.actual).ravel(), token_snr_db(both.expected, both.actual).ravel()
    mean, lowest = float(alike.mean()), _quantile(alike, _LOWEST)
    middle, lowest_snr = _quantile(ratios, 50), _quantile(ratios, _LOWEST)
    passed = middle >= gates.min_token_snr_db
    message = f"median SNR of a token {middle:.1f} dB {side(passed)} {gates.min_token_snr_db:.0f} dB"
    return FeatureParity(
        **both.common(),
        gates=(
            _at_least("mean cosine per token", mean, gates.min_cosine),
            _at_least(f"cosine of the lowest {_LOWEST}% of the tokens", lowest, gates.min_worst_cosine),
            GateResult("SNR per token", message, passed),
            *distance_gates("features", both, gates),
        ),
        cosine_mean=mean,
        cosine_lowest=lowest,
        token_snr_db=middle,
        token_snr_db_lowest=lowest_snr,
    )


def cosines(expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Cosines of the last axis; -1 if one of both is no direction: zero, infinite or not a number."""
    one, other = expected.astype(np.float64), actual.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        alike = (one * other).sum(-1) / lengths
    found: npt.NDArray[np.float64] = np.where(np.isfinite(alike), alike, -1.0)
    return found


def neighbours(
    expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Per image, whether its nearest other one by cosine is the reference's too, and whether that one is clearly the nearest.

    Of embeddings ``(images, D)``; empty of fewer than three, which have no second-nearest.
    """
    if len(expected) < 3:
        return np.zeros(0, np.bool_), np.zeros(0, np.bool_)
    by_reference, by_artifact = _resemblance(expected), _resemblance(actual)
    ranked = np.sort(by_reference, axis=1)
    decided: npt.NDArray[np.bool_] = ranked[:, -1] - ranked[:, -2] >= DECIDED_NEIGHBOUR
    return by_reference.argmax(1) == by_artifact.argmax(1), decided


def token_snr_db(expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Signal-to-noise ratio of each vector of the last axis, as :func:`tofe_edge.evaluation.parity.snr_db`."""
    signal = np.square(expected.astype(np.float64)).sum(-1)
    noise = np.square(expected.astype(np.float64) - actual).sum(-1)
    ratios = [
        snr_of_powers(float(one), float(other)) if np.isfinite(other) else -np.inf
        for one, other in zip(signal.ravel(), noise.ravel())
    ]
    return np.array(ratios, np.float64).reshape(signal.shape)


def _resemblance(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Cosines of all pairs ``(images, images)``; that of an image with itself is below all."""
    with np.errstate(invalid="ignore", divide="ignore"):
        directions = vectors.astype(np.float64)
        directions = np.nan_to_num(directions / np.linalg.norm(directions, axis=-1, keepdims=True))
    alike: npt.NDArray[np.float64] = directions @ directions.T
    np.fill_diagonal(alike, -2.0)
    return alike


def _quantile(values: npt.NDArray[np.float64], per_cent: float) -> float:
    """One that was measured, not one between two: those may be infinite."""
    return float(np.percentile(values, per_cent, method="lower"))


def _at_least(name: str, value: float, least: float) -> GateResult:
    passed = value >= least
    return GateResult(name, f"{name} {value:.5f} {side(passed)} {least:g}", passed)
