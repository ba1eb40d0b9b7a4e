"""From the selections that an exported graph returns to positions in the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


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
