"""Masked attention and the bookkeeping of kept and frozen tokens. Pure functions on tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sized_attention(query: Tensor, key: Tensor, value: Tensor, sizes: Tensor) -> Tensor:
    """Attention ``(B, H, T, d)`` in which token j counts ``sizes`` ``(B, T)`` times as key and value."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=sizes.log()[:, None, None].to(query.dtype))


def masked_attention(query: Tensor, key: Tensor, value: Tensor, keep: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Attention in which frozen tokens are seen by nobody but themselves (Eq. 17-18).

    Args:
        query, key, value: ``(B, H, T, d)``.
        keep: ``(B, T)``, 1 for kept tokens and 0 for frozen ones; CLS is 1. May carry gradients.
        sizes: ``(B, T)``, how often a kept token counts; ``None``: once.

    Returns:
        ``(B, H, T, d)``; row i mixes the kept tokens and token i.

    The row maximum is taken over all keys. Nothing is added to numerator or denominator, so rows of kept
    tokens equal plain attention among the kept tokens alone, up to rounding. The division comes after the
    product with the values: it then touches T x d numbers and not T x T, which training on a CPU feels.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    weights = torch.exp(scores.float() - scores.amax(dim=-1, keepdim=True).detach().float())
    weights = weights * _visible(keep, sizes)[:, None]
    mixed: Tensor = weights.to(value.dtype) @ value
    return mixed / weights.sum(dim=-1, keepdim=True).to(value.dtype)


def received(query: Tensor, key: Tensor, prefix: int, cls: bool = True) -> Tensor:
    """What patch tokens receive of attention: from CLS, and on average from all tokens; mean over heads.

    Args:
        query, key: ``(B, H, P + N, d)``.
        prefix: P, CLS first.
        cls: whether what CLS pays counts; it does not if there is none, or if nothing reads it.

    Returns:
        ``(B, N)``
    """
    weights: Tensor = ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(dim=-1).mean(dim=1)
    average = weights[:, :, prefix:].mean(dim=1)
    return weights[:, 0, prefix:] + average if cls else average


def _visible(keep: Tensor, sizes: Tensor | None = None) -> Tensor:
    """G of Eq. 17, ``(B, T, T)``: 1 on the diagonal, ``keep_j`` elsewhere; kept tokens count ``sizes_j`` times."""
    tokens = keep.shape[1]
    diagonal = torch.eye(tokens, dtype=keep.dtype, device=keep.device)
    if sizes is None:
        return keep[:, None, :] * (1 - diagonal) + diagonal
    weight = keep * sizes
    return weight[:, None, :] * (1 - diagonal) + torch.diag_embed(weight + 1 - keep)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Gather ``tokens`` ``(B, N, D)`` at ``index`` ``(B, K)``: ``(B, K, D)``."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def put(tokens: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """A copy of ``tokens`` ``(B, N, D)`` with ``values`` ``(B, K, D)`` at positions ``index`` ``(B, K)``."""
    return tokens.scatter(1, index[..., None].expand(-1, -1, tokens.shape[-1]), values)


def rank_order(scores: Tensor) -> Tensor:
    """Token positions ``(B, N)`` from the highest score to the lowest; ties go to the lower position."""
    return torch.sort(scores, dim=1, descending=True, stable=True).indices


def mask_of(index: Tensor, tokens: int) -> Tensor:
    """The 0/1 float mask ``(B, tokens)`` that is 1 at the positions ``index`` ``(B, K)``."""
    mask = torch.zeros(index.shape[0], tokens, device=index.device)
    return mask.scatter(1, index, 1.0)
