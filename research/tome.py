"""ToMe: similar tokens are merged, a few in every block."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from research.method import Method, attend, attention_macs, feed_forward, feed_forward_macs, solve
from tofe_edge.model.backbones import Backbone, BackboneAdapter
from tofe_edge.model.macs import block_macs, gmacs, stem_macs


class ToMe(Method):
    """Between attention and MLP of every block from l_1 on, ``r`` tokens merge into the most similar ones.

    Similarity is the cosine of keys, mean over heads. Attention is proportional: a token counts as many times as
    there are patches in it. ``r`` is the same in all blocks; a budget between two values of it takes the larger one in
    the first blocks and the smaller one in the others.
    """

    paper = "Bolya et al. 2023, ToMe"

    def __init__(self, host: BackboneAdapter, target_gmacs: float) -> None:
        super().__init__(host)
        start = host.spec.stages[0]
        blocks = host.spec.depth - start

        # More merging costs less: the number that `solve` raises is what is left unmerged.
        def plan(less: float) -> tuple[int, ...]:
            total = round((1 - less) * blocks * (host.spec.patch_tokens // 2))
            return tuple(total // blocks + (number < total % blocks) for number in range(blocks))

        less = solve(lambda less: gmacs(tome_macs(host.spec, start, plan(less))), 0.0, 1.0, target_gmacs)
        self.start, self.merged = start, plan(less)

    def infer(self, stem: Tensor) -> Tensor:
        return self.backbone.logits(self._run(stem)[0])

    def _run(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The last block's tokens, and the sizes ``(B, T)`` of them."""
        sizes = tokens.new_ones(tokens.shape[:2])
        for number, index in enumerate(range(self.start, self.spec.depth)):
            bias = sizes.log() if number else None  # all are 1 at first
            attended = attend(self.backbone, index, tokens, bias)
            tokens = attended.tokens
            match = bipartite_match(attended.keys.mean(dim=1), self.merged[number])
            if match is not None:
                tokens, sizes = merge(tokens, sizes, match)
            tokens = feed_forward(self.backbone, index, tokens)
        return tokens, sizes

    def macs(self) -> int:
        return tome_macs(self.spec, self.start, self.merged)

    def describe(self) -> str:
        low, high = min(self.merged), max(self.merged)
        return f"merges {low if low == high else f'{high} to {low}'} a block from block {self.start}"


class Match(NamedTuple):
    """Which tokens merge: those at even positions are A, at odd ones B."""

    merged: Tensor
    """``(B, r)``: positions in A that disappear."""
    unmerged: Tensor
    """``(B, A - r)``: positions in A that stay, in order."""
    into: Tensor
    """``(B, r)``: positions in B."""


@torch.no_grad()
def bipartite_match(keys: Tensor, wanted: int) -> Match | None:
    """Bipartite soft matching of tokens by ``keys`` ``(B, T, d)``; CLS, first in A, stays. ``None``: nothing merges."""
    number = mergeable(keys.shape[1], wanted)
    if not number:
        return None
    keys = keys / keys.norm(dim=-1, keepdim=True)
    similarity = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)
    similarity[:, 0] = -torch.inf
    best, into = similarity.max(dim=-1)
    order = best.argsort(dim=-1, descending=True)
    merged, unmerged = order[:, :number], order[:, number:].sort(dim=1).values
    return Match(merged, unmerged, into.gather(1, merged))


def merge(tokens: Tensor, sizes: Tensor, match: Match) -> tuple[Tensor, Tensor]:
    """Means ``(B, T - r, D)`` of merged tokens, weighted by their sizes ``(B, T)``, and the new sizes."""
    sums = _gathered_sums(tokens * sizes[..., None], match)
    totals = _gathered_sums(sizes[..., None], match)
    return sums / totals, totals[..., 0]


def _gathered_sums(values: Tensor, match: Match) -> Tensor:
    def wide(index: Tensor) -> Tensor:
        return index[..., None].expand(-1, -1, values.shape[-1])

    even, odd = values[:, ::2], values[:, 1::2]
    odd = odd.scatter_add(1, wide(match.into), even.gather(1, wide(match.merged)))
    return torch.cat((even.gather(1, wide(match.unmerged)), odd), dim=1)


def mergeable(tokens: int, wanted: int) -> int:
    """How many of ``tokens``, CLS included, merge at once: at most half of the patches."""
    return min(wanted, (tokens - 1) // 2)


def tome_macs(spec: Backbone, start: int, merged: tuple[int, ...]) -> int:
    """Whole net, with the similarities."""
    tokens = spec.patch_tokens + 1
    total = stem_macs(spec) + start * block_macs(tokens, spec.dim, spec.mlp_hidden) + spec.dim * spec.classes
    for wanted in merged:
        total += attention_macs(tokens, spec)
        number = mergeable(tokens, wanted)
        if number:
            total += -(-tokens // 2) * (tokens // 2) * (spec.dim // spec.heads)
        tokens -= number
        total += feed_forward_macs(tokens, spec)
    return int(total)
