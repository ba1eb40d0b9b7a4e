"""What any form of the model says about one image: the common currency of reference, runtimes and parity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Prediction:
    """Logits ``(classes,)`` float32, and per stage the image positions of kept patch tokens, best first."""

    logits: npt.NDArray[np.float32]
    kept: tuple[npt.NDArray[np.int64], ...]
    margins: tuple[float, ...] = ()
    """Per stage: the score of the last kept token less that of the first frozen one; empty where they are not known."""

    @property
    def margin(self) -> float:
        """The least of them; infinite where they are not known."""
        return min(self.margins, default=math.inf)


Predictor = Callable[[npt.NDArray[np.float32]], Prediction]
"""An input ``(1, 3, H, W)`` to a prediction."""


@dataclass(frozen=True)
class RankedClass:
    """One line of a top-k list; ``probability`` is the softmax of the logits."""

    index: int
    name: str
    probability: float


def top_classes(logits: npt.NDArray[np.float32], names: list[str], count: int = 5) -> list[RankedClass]:
    """The ``count`` likeliest classes, best first."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = shifted / shifted.sum()
    best = np.argsort(-probabilities, kind="stable")[:count]
    return [RankedClass(int(index), names[index], float(probabilities[index])) for index in best]
