"""How far logits are from the reference's. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Agreement:
    """The agreement of one contender with the fp32 reference over some images."""

    snr_db: float
    """Mean over images of ``10 log10(sum r^2 / sum (x - r)^2)``; inf where all are equal."""
    cosine: float
    """The least over images."""


def agreement(found: Sequence[Logits], wanted: Sequence[Logits]) -> Agreement:
    """Compare logits image by image. A contender that gives NaN agrees in nothing: -inf dB, cosine -1."""
    snrs = [_snr_db(x, r) for x, r in zip(found, wanted, strict=True)]
    cosines = [_cosine(x, r) for x, r in zip(found, wanted, strict=True)]
    return Agreement(float(np.mean(snrs)), min(cosines))


def _snr_db(x: Logits, r: Logits) -> float:
    if not np.isfinite(x).all():
        return -np.inf
    signal, noise = np.square(r, dtype=np.float64).sum(), np.square(x - r, dtype=np.float64).sum()
    return float(10 * np.log10(signal / noise)) if noise else np.inf


def _cosine(x: Logits, r: Logits) -> float:
    if not np.isfinite(x).all():
        return -1.0
    a, b = x.astype(np.float64).ravel(), r.astype(np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
