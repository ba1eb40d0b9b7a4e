"""EViT: CLS attention ranks patches; the best stay, the rest become one token."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from research.method import (
    Method,
    attend,
    attention_macs,
    block_macs,
    feed_forward,
    feed_forward_macs,
    shared_macs,
    solve,
)
from tofe_edge.model.backbones import Backbone, BackboneAdapter
from tofe_edge.model.macs import gmacs
from tofe_edge.model.masking import rank_order, take


class EViT(Method):
    """Between attention and MLP of blocks l_1 … l_S the patches to which CLS attends least are fused.

    They become one token, their sum weighted by that attention, which later selections treat like any other. All
    selections keep the same share.
    """

    paper = "Liang et al. 2022, EViT"

    def __init__(self, host: BackboneAdapter, target_gmacs: float) -> None:
        super().__init__(host)
        self.ratio = solve(lambda ratio: gmacs(evit_macs(host.spec, ratio)), 0.01, 1.0, target_gmacs)

    def infer(self, stem: Tensor) -> Tensor:
        tokens = stem
        for index in range(self.spec.stages[0], self.spec.depth):
            if index in self.spec.stages:
                attended = attend(self.backbone, index, tokens, with_weights=True)
                assert attended.weights is not None
                scores = attended.weights[:, :, 0, 1:].mean(dim=1)
                tokens = feed_forward(self.backbone, index, fuse(attended.tokens, scores, self.ratio))
            else:
                tokens = self.backbone.block(index, tokens)
        return self.backbone.logits(tokens)

    def macs(self) -> int:
        return evit_macs(self.spec, self.ratio)

    def describe(self) -> str:
        return f"keeps {100 * self.ratio:.1f} % a selection"


def kept_of(tokens: int, ratio: float) -> int:
    """Patches kept of ``tokens``, that of fused ones included."""
    # Less a little: 0.7 x 10 is 7.000000000000001.
    return min(tokens, max(1, math.ceil(ratio * tokens - 1e-9)))


def fuse(tokens: Tensor, scores: Tensor, ratio: float) -> Tensor:
    """``(B, 1 + n, D)`` and scores ``(B, n)`` to CLS, the best patches and, where any is left, the fused token."""
    patches, kept = tokens[:, 1:], kept_of(tokens.shape[1] - 1, ratio)
    order = rank_order(scores)
    parts = [tokens[:, :1], take(patches, order[:, :kept])]
    rest = order[:, kept:]
    if rest.shape[1]:
        parts.append((take(patches, rest) * scores.gather(1, rest)[..., None]).sum(dim=1, keepdim=True))
    return torch.cat(parts, dim=1)


def evit_macs(spec: Backbone, ratio: float) -> int:
    """Whole net. Scores are the attention map's own and cost nothing; the weighted sum is no matrix product."""
    total, tokens = shared_macs(spec), spec.patch_tokens
    for index in range(spec.stages[0], spec.depth):
        if index in spec.stages:
            total += attention_macs(tokens + 1, spec)
            kept = kept_of(tokens, ratio)
            tokens = kept + (kept < tokens)
            total += feed_forward_macs(tokens + 1, spec)
        else:
            total += block_macs(tokens + 1, spec)
    return int(total)
