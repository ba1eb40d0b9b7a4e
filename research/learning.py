"""What selectors have learned, measured on views."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tofe_edge.budget.cost import Cost, fit_to_budget
from tofe_edge.model.tofe import TrainingOutput
from tofe_edge.training.schedule import gumbel_sampler
from tofe_edge.training.views import Views

_VIEWS = 256
_BATCH = 32
_FAR_STEP = 1_000_000
"""No run has as many: these draws are none of its own."""


@torch.no_grad()
def learned_counts(
    masked_from: Callable[..., TrainingOutput], views: Views, cost: Cost, seed: int, noise: float
) -> tuple[int, ...]:
    """Mean kept tokens per stage over 256 views, or all where there are fewer, brought to the budget.

    Args:
        noise: scale of the Gumbel noise with which the selectors have just been trained: what they keep without it
            differs while they are undecided.
    """
    batch = min(_BATCH, len(views))
    steps = max(1, min(_VIEWS, len(views)) // batch)
    sums: Tensor | None = None
    for step in range(_FAR_STEP, _FAR_STEP + steps):
        view, _ = views.draw(step, batch, seed)
        masks = masked_from(view.stem, gumbel_sampler(seed, step, noise) if noise else None).masks
        kept = torch.stack([mask.sum() for mask in masks]).double()
        sums = kept if sums is None else sums + kept
    assert sums is not None
    return fit_to_budget(tuple((sums / (steps * batch)).tolist()), cost).counts.kept
