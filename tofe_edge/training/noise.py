"""The noise of training: Gumbel samples that follow from (seed, step) alone, so that a resumed run repeats them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tofe_edge.model.tofe import Gumbel


def noise_scale(step: int, steps: int, decay_start: float) -> float:
    """Scale of the Gumbel noise at a step: 1, then a line to 0 that ends halfway between ``decay_start`` and the end."""
    if decay_start >= 1:
        return 1.0
    share = step / max(1, steps)
    return min(1.0, max(0.0, 1 - (share - decay_start) / ((1 - decay_start) / 2)))


def gumbel_sampler(seed: int, step: int, scale: float = 1.0) -> Gumbel:
    """Hard Gumbel-softmax samples at temperature 1 with straight-through gradients (Eq. 9).

    Args:
        scale: of the noise; 0 takes the likelier choice.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)

    def draw(log_probabilities: Tensor) -> Tensor:
        # Drawn on the CPU, so that a GPU run sees the same noise.
        noise = -torch.empty(log_probabilities.shape).exponential_(generator=generator).log()
        soft = F.softmax(log_probabilities + scale * noise.to(log_probabilities.device), dim=-1)
        hard = F.one_hot(soft.argmax(dim=-1), 2).to(soft.dtype)
        return hard - soft.detach() + soft

    return draw
