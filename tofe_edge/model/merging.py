"""Frozen tokens that keep speaking: each is merged into the kept token most like it. Pure functions on tensors.

A departure from the paper, whose frozen tokens are silent until they are thawed. Here the kept token becomes the mean of
the tokens it stands for and counts as often in attention (ToMe, arXiv 2210.09461). Unlike ToMe's, a merge is undone: when
the frozen token thaws it is itself again, plus the update of its kept token.

"Most like" is a softmax over cosine similarities that is sharp enough to pick one token: unlike an argmax it has a
gradient, does not jump where two tokens are equally like, and stays within one delegate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SHARPNESS = 300.0
"""Factor of the cosine similarities. From 150 on, the divergence from the dense net is that of an argmax (DeiT-Tiny)."""


@dataclass(frozen=True)
class Merge:
    """Kept tokens with the frozen ones averaged in.

    Attributes:
        tokens: ``(B, K, D)``.
        sizes: ``(B, K)``, how many tokens each one stands for; at least 1.
        shares: ``(B, F, K)``, which kept tokens stand for each frozen one; rows add up to 1.
    """

    tokens: Tensor
    sizes: Tensor
    shares: Tensor


def merge(kept: Tensor, frozen: Tensor) -> Merge:
    """Average frozen tokens ``(B, F, D)`` into kept ones ``(B, K, D)``."""
    shares = (SHARPNESS * similarity(frozen, kept)).softmax(dim=-1)
    sizes = 1 + shares.sum(dim=1)
    return Merge((kept + shares.transpose(1, 2) @ frozen) / sizes[..., None], sizes, shares)


def masked_merge(patches: Tensor, mask: Tensor) -> Merge:
    """:func:`merge` with every token in its place.

    Args:
        patches: ``(B, N, D)``.
        mask: ``(B, N)``, 1 for kept tokens and 0 for frozen ones. May carry gradients. If it keeps none of an image,
            nothing of it is merged.

    Returns:
        ``tokens`` ``(B, N, D)`` and ``sizes`` ``(B, N)`` hold for kept tokens; frozen ones are as they were and have size 1.
        ``shares`` ``(B, N, N)`` has zeros in rows of kept tokens and in columns of frozen ones.
    """
    kept, frozen = mask[:, None, :], 1 - mask[:, :, None]
    scores = SHARPNESS * similarity(patches, patches)
    best = scores.masked_fill(kept < 0.5, torch.finfo(scores.dtype).min).amax(dim=-1, keepdim=True).detach()
    weights = torch.exp((scores - best).clamp(max=0)) * kept
    shares = weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny) * frozen
    sizes = 1 + shares.sum(dim=1)
    return Merge((patches + shares.transpose(1, 2) @ patches) / sizes[..., None], sizes, shares)


def similarity(tokens: Tensor, others: Tensor) -> Tensor:
    """Cosines ``(B, K, L)`` of tokens ``(B, K, D)`` and others ``(B, L, D)``, each less the mean of its channels.

    Less the mean because that is what a LayerNorm reads, and what an exported graph carries.
    """
    unit, other_unit = (F.normalize(one - one.mean(dim=-1, keepdim=True), dim=-1) for one in (tokens, others))
    return unit @ other_unit.transpose(1, 2)
