"""What any form of the model predicts for one image: what reference, runtimes and parity exchange."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Prediction:
    """Logits ``(classes,)`` float32, and per stage the image positions of kept patch tokens, best first."""

    logits: npt.NDArray[np.float32]
    kept: tuple[npt.NDArray[np.int64], ...]
    margins: tuple[float, ...] = ()
    """Per stage: the score of the last kept token less that of the first frozen one; empty if they are not known."""

    @property
    def margin(self) -> float:
        """The least of the margins; infinite if they are not known."""
        return min(self.margins, default=math.inf)


Predictor = Callable[[npt.NDArray[np.float32]], Prediction]
"""An input ``(1, 3, H, W)`` to a prediction."""


@dataclass(frozen=True)
class RankedClass:
    """One line of a top-k list; ``probability`` is the softmax of the logits."""

    index: int
    name: str
    probability: float


def probabilities(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Softmax over the last axis, in float64."""
    with np.errstate(over="ignore"):  # finite logits may lie further apart than the largest float: probability 0
        shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    shares: npt.NDArray[np.float64] = shifted / shifted.sum(-1, keepdims=True)
    return shares


def top_classes(logits: npt.NDArray[np.float32], names: list[str], count: int = 5) -> list[RankedClass]:
    """The ``count`` likeliest classes, best first."""
    shares = probabilities(logits)
    best = np.argsort(-shares, kind="stable")[:count]
    return [RankedClass(int(index), names[index], float(shares[index])) for index in best]


def compose_selections(selections: Sequence[npt.ArrayLike], kept: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """Image positions of the kept patch tokens of each stage, best first.

    Args:
        selections: one per stage; selection s indexes that stage's input tokens, which stand in the order
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
