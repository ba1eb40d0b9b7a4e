"""Frozen tokens that keep speaking: each is merged into the kept token most like it. Pure functions on tensors.

A departure from the paper, whose frozen tokens are silent until they are thawed. Here a kept token becomes the mean of
the tokens that it stands for and counts as often in attention (ToMe, arXiv 2210.09461). Unlike ToMe's, a merge is undone:
when a frozen token thaws it is itself again, plus the update of its kept token.

Tokens are compared by features ``(B, N, F)`` of length 1, see :meth:`tofe_edge.model.tofe.ComparingSelector.compare`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SHARPNESS = 300.0
"""Factor of the cosines in the softmax that says which kept token is most like a frozen one. From 150 on, the divergence
from the dense net is that of an argmax (DeiT-Tiny); unlike an argmax it has a gradient and stays within a delegate."""

CLOSENESS = 20.0
"""Factor of the cosines in :func:`resemblance_to_better`. A maximum in its place gives the same divergence (DeiT-Tiny)."""


@dataclass(frozen=True)
class Merge:
    """Kept tokens with the frozen ones averaged in.

    Attributes:
        tokens: ``(B, K, D)``.
        sizes: ``(B, K)``, how many tokens each one stands for; at least 1.
        shares: ``(B, M, K)``, which kept tokens stand for each frozen one; rows add up to 1.
    """

    tokens: Tensor
    sizes: Tensor
    shares: Tensor


def merge(kept: Tensor, frozen: Tensor, kept_features: Tensor, frozen_features: Tensor) -> Merge:
    """Average frozen tokens ``(B, M, D)`` into kept ones ``(B, K, D)``, by features ``(B, K, F)`` and ``(B, M, F)``."""
    shares = (SHARPNESS * frozen_features @ kept_features.transpose(1, 2)).softmax(dim=-1)
    sizes = 1 + shares.sum(dim=1)
    return Merge((kept + shares.transpose(1, 2) @ frozen) / sizes[..., None], sizes, shares)


def masked_merge(patches: Tensor, features: Tensor, mask: Tensor) -> Merge:
    """:func:`merge` with every token in its place.

    Args:
        patches: ``(B, N, D)``.
        features: ``(B, N, F)``.
        mask: ``(B, N)``, 1 for kept tokens and 0 for frozen ones. May carry gradients. If it keeps none of an image,
            nothing of it is merged.

    Returns:
        ``tokens`` ``(B, N, D)`` and ``sizes`` ``(B, N)`` hold for kept tokens; frozen ones are as they were and have size 1.
        ``shares`` ``(B, N, N)`` has zeros in rows of kept tokens and in columns of frozen ones.
    """
    kept, frozen = mask[:, None, :], 1 - mask[:, :, None]
    scores = SHARPNESS * features @ features.transpose(1, 2)
    best = scores.masked_fill(kept < 0.5, torch.finfo(scores.dtype).min).amax(dim=-1, keepdim=True).detach()
    weights = torch.exp((scores - best).clamp(max=0)) * kept
    # The best kept token weighs 1. With none kept a smaller bound would make infinite gradients.
    shares = weights / weights.sum(dim=-1, keepdim=True).clamp(min=0.5) * frozen
    sizes = 1 + shares.sum(dim=1)
    return Merge((patches + shares.transpose(1, 2) @ patches) / sizes[..., None], sizes, shares)


def resemblance_to_better(features: Tensor, scores: Tensor) -> Tensor:
    """How much each token resembles a token with a higher score: ``(B, N)``.

    A soft maximum of the cosines less 1, so 0 for a twin; near -1 if no better token is alike, and -1 if none is better.

    Args:
        features: ``(B, N, F)``.
        scores: ``(B, N)``.
    """
    closeness = torch.exp(CLOSENESS * (features @ features.transpose(1, 2) - 1))
    better = (scores[:, None, :] > scores[:, :, None]).to(closeness.dtype)
    return ((closeness * better).sum(dim=-1) + math.exp(-CLOSENESS)).log() / CLOSENESS
