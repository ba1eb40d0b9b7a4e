"""A look at some pictures: does a net agree better with another usual way to prepare them?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import comb, sqrt

import numpy as np
import numpy.typing as npt
import torch

from tofe_edge.errors import InputError
from tofe_edge.io.configs import USUAL_PREPROCESSING, describe_preprocessing, read_preprocessing
from tofe_edge.io.dataset import Sample, sample_evenly
from tofe_edge.io.preprocessing import Preprocessing, normalize, resize_and_crop
from tofe_edge.model.macs import dense_macs, gmacs
from tofe_edge.model.tofe import ToFe

_FEWEST, _MOST, _MOST_LABELLED = 16, 64, 192
_COST = 80.0
"""GMACs of one way to prepare the pictures; larger nets look at fewer pictures."""

_SIGNIFICANT = 0.01
_CLEARLY = 0.75
"""Share of the entropy up to which another way is clearly more confident. Contrast alone takes off up to a tenth."""

_BATCH = 16


def look_at_preprocessing(model: ToFe, spec: Preprocessing, samples: Sequence[Sample]) -> str | None:
    """Return a warning if the dense net agrees better with another usual mean and standard deviation, else ``None``.

    With labels that is top-1 of the same pictures (a sign test, p < 0.01), without them and if it does not tell the mean
    entropy of the predictions, which has to be less than three quarters.

    Args:
        spec: how pictures are prepared.
        samples: a few of them are looked at; fewer than 16 tell nothing. Negative labels are unknown.
    """
    backbone = model.backbone.spec
    labelled = bool(samples) and all(sample.label >= 0 for sample in samples)
    most = _MOST_LABELLED if labelled else _MOST
    count = max(_FEWEST, min(most, round(_COST / max(gmacs(dense_macs(backbone)), 1e-9))))
    if backbone.classes < 2 or len(samples) < _FEWEST:
        return None
    pictures, labels = _read(sample_evenly(samples, count), spec)
    if len(pictures) < _FEWEST:
        return None
    own = _predict(model, pictures, spec)
    best: tuple[float, str] | None = None
    for name in USUAL_PREPROCESSING:
        other = replace(spec, **read_preprocessing(name)[0])
        if describe_preprocessing(other) == describe_preprocessing(spec):
            continue
        verdict = _compare(own, _predict(model, pictures, other), labels if labelled else None)
        if verdict is not None and (best is None or verdict[0] > best[0]):
            best = (verdict[0], f"{verdict[1]} with --preprocessing {name}")
    if best is None:
        return None
    return f"{len(pictures)} pictures prepared as {describe_preprocessing(spec)}: the dense net {best[1]}; check how it was trained"


def _read(samples: Sequence[Sample], spec: Preprocessing) -> tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.int64]]:
    pictures, labels = [], []
    for sample in samples:
        try:
            pictures.append(np.asarray(resize_and_crop(sample.read(), spec)))
        except InputError:
            continue  # counted by what reads all of them
        labels.append(sample.label)
    return pictures, np.array(labels, np.int64)


def _predict(model: ToFe, pictures: Sequence[npt.NDArray[np.uint8]], spec: Preprocessing) -> npt.NDArray[np.float64]:
    """Probabilities ``(B, classes)``."""
    device = next(model.parameters()).device
    rows = []
    for start in range(0, len(pictures), _BATCH):
        inputs = np.stack([normalize(pixels, spec) for pixels in pictures[start : start + _BATCH]])
        with torch.inference_mode():
            rows.append(model.forward_dense(torch.from_numpy(inputs).to(device)).double().softmax(-1).cpu().numpy())
    return np.concatenate(rows)


def _compare(
    own: npt.NDArray[np.float64], other: npt.NDArray[np.float64], labels: npt.NDArray[np.int64] | None
) -> tuple[float, str] | None:
    """How much better the other one is, and in words; ``None`` if it is not clearly."""
    if labels is not None:
        right, others_right = (rows.argmax(-1) == labels for rows in (own, other))
        gained, lost = int((others_right & ~right).sum()), int((right & ~others_right).sum())
        if gained > lost and _sign_test(gained, lost) < _SIGNIFICANT:
            return others_right.mean() - right.mean(), (
                f"is right about {right.mean():.1%} of them, and about {others_right.mean():.1%}"
            )
    entropies = [-(rows * np.log(rows + 1e-12)).sum(-1) for rows in (own, other)]
    gain = entropies[0] - entropies[1]
    steady = gain.mean() > 4 * gain.std() / sqrt(len(gain))
    if steady and entropies[1].mean() < _CLEARLY * entropies[0].mean():
        share = 1 - entropies[1].mean() / entropies[0].mean()
        return (
            share,
            f"is clearly more sure of itself (mean entropy {entropies[1].mean():.2f} nats, not {entropies[0].mean():.2f})",
        )
    return None


def _sign_test(gained: int, lost: int) -> float:
    """How likely at least so many of the changes are gains if neither way is better."""
    changes = gained + lost
    return float(sum(comb(changes, number) for number in range(gained, changes + 1)) / 2**changes)
