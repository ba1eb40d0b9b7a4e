"""What any form of the model says about one image: the common currency of reference, runtimes and parity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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


def compose_selections(selections: Sequence[npt.ArrayLike], kept: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """Image positions of the kept patch tokens of each stage, best first.

    Args:
        selections: one a stage; selection s indexes that stage's input tokens, which stand in the order
            of selection s - 1.
        kept: ``(N^1, …, N^S)``.
    """
    positions: npt.NDArray[np.int64] | None = None
    result = []
    for selection, count in zip(selections, kept):
        index = np.asarray(selection, dtype=np.int64)
        positions = index if positions is None else positions[index]
        result.append(positions[:count])
    return result
