"""Putting tokens in the order of their scores: two lowerings of one operation, equal to the last bit if no two
scores are equal. Among equals ranks take the first, as the reference does; topk takes any (it is PyTorch's and
ExecuTorch's partial sort), which fp32 scores of a trained selector do not bring up.

``select_by_topk`` takes two small operators per stage that no delegate takes (topk, index_select; for a batch also the
offsets of its images).
``select_by_rank`` takes none: ranks are counted by comparing all pairs, and tokens are moved by a product with a
permutation matrix. Which one is faster depends on the target: XNNPACK runs on the same cores as the portable
operators, an accelerator has to hand tokens back to the CPU and fetch them again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Select = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Scores ``(B, N)``, tokens ``(B, N, D)`` and how many to take, K: their indices ``(B, K)`` or ``(K,)`` in
descending order of score, and the tokens ``(B, K, D)`` in that order."""

STEEP = 2.0**126
"""Times this, the difference of two unequal scores is at least 1, unless both are under 1e-30."""


def select_by_topk(scores: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Take the ``count`` best tokens by topk and index_select."""
    batch, total, dim = tokens.shape
    if batch == 1:
        order = torch.topk(scores.view(total), count).indices
        # view, not unsqueeze: XNNPACK takes no unsqueeze_copy, which would be one more operator outside.
        return order, torch.index_select(tokens.view(total, dim), 0, order).view(1, count, dim)
    order = torch.topk(scores, count, dim=1).indices
    first = torch.arange(0, batch * total, total).view(batch, 1)
    rows = (order + first).view(batch * count)
    return order, torch.index_select(tokens.reshape(batch * total, dim), 0, rows).view(batch, count, dim)


def select_by_rank(scores: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Take the ``count`` best tokens by ranks and a one-hot product; see :class:`RankSelection`."""
    selected: tuple[Tensor, Tensor] = RankSelection(tokens.shape[1])(scores, tokens, count)
    return selected


class RankSelection(nn.Module):
    """Selection by ranks of ``total`` tokens; among equals the first comes first.

    A module for its constants: made while a graph is traced they would be operators of it.
    Indices come as float32: making integers of them would take an operator outside of the delegate.
    """

    def __init__(self, total: int) -> None:
        super().__init__()
        self.earlier: Tensor
        self.ones: Tensor
        self.numbers: Tensor
        self.register_buffer("earlier", torch.tril(torch.ones(total, total), diagonal=-1))
        self.register_buffer("ones", torch.ones(1, total))
        self.places: Tensor
        self.register_buffer("numbers", torch.arange(total, dtype=torch.float32).view(1, total))
        self.register_buffer("places", torch.arange(total, dtype=torch.float32).view(1, total, 1))

    def forward(self, scores: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
        batch, total, _ = tokens.shape
        # ahead[b, i, j] = 1 if token j is better than token i; a step function that XNNPACK takes.
        ahead = torch.clamp((scores.view(batch, 1, total) - scores.view(batch, total, 1)) * STEEP, 0.0, 1.0)
        behind = torch.clamp((scores.view(batch, total, 1) - scores.view(batch, 1, total)) * STEEP, 0.0, 1.0)
        rank = F.linear(ahead + (1.0 - ahead - behind) * self.earlier, self.ones)
        # one_hot[b, k, i] = 1 if token i has rank k: ranks are whole numbers, so a distance below 1 is 0. All ranks,
        # then a slice: slices of constants within a delegate crash ExecuTorch 1.5.1 when it runs them.
        one_hot = 1.0 - torch.clamp(torch.abs(rank.view(batch, 1, total) - self.places), 0.0, 1.0)
        if count < total:
            one_hot = one_hot[:, :count]
        return F.linear(one_hot, self.numbers).view(batch, count), torch.bmm(one_hot, tokens)


def prepared(select: Select, total: int) -> Select:
    """The selection to trace, for ``total`` tokens."""
    return RankSelection(total) if select is select_by_rank else select
