"""The noise of training: Gumbel samples that follow from (seed, step) alone, so that a resumed run repeats them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tofe_edge.tofe import Gumbel


def gumbel_sampler(seed: int, step: int) -> Gumbel:
    """Hard Gumbel-softmax samples at temperature 1 with straight-through gradients (Eq. 9)."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)

    def draw(log_probabilities: Tensor) -> Tensor:
        # Drawn on the CPU, so that a GPU run sees the same noise.
        noise = -torch.empty(log_probabilities.shape).exponential_(generator=generator).log()
        soft = F.softmax(log_probabilities + noise.to(log_probabilities.device), dim=-1)
        hard = F.one_hot(soft.argmax(dim=-1), 2).to(soft.dtype)
        return hard - soft.detach() + soft

    return draw
