"""IdleViT, selecting once per stage: tokens that a stage leaves out come back as they were."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from research.anatomy import (
    attend,
    attention_macs,
    block_macs,
    feed_forward,
    feed_forward_macs,
    run_stage,
    shared_macs,
)
from research.budget import Counted, geometric
from research.method import Step, taught
from tofe_edge.model.backbones import Host
from tofe_edge.model.macs import Number
from tofe_edge.model.masking import mask_of, put, rank_order, take

_CUT_WEIGHT = 0.1


class IdleViT(Counted):
    """IdleViT, selecting once per stage; the published one selects anew in every block, by CLS attention as here.

    The first block of a stage attends over all tokens, and CLS attention there picks those that go on.

    Idle tokens bypass the stage, this block too, and the next stage selects from all again. All selections keep the
    same share of what the one before kept. Training adds the token cut loss: the normalized cut of the attention map
    between kept and idle tokens. Its weight is ours.
    """

    paper = "Xu et al. 2023, IdleViT, selecting once per stage"

    def __init__(self, host: Host, target_gmacs: float) -> None:
        super().__init__(host)
        self.solve_counts(target_gmacs, geometric)

    def infer(self, stem: Tensor) -> Tensor:
        return self._run(stem)[0]

    def losses(self, step: Step) -> dict[str, Tensor]:
        logits, cuts = self._run(step.batch.view.stem, with_cuts=True)
        return taught(logits, step) | {"cut": _CUT_WEIGHT * torch.stack(cuts).mean()}

    def _run(self, stem: Tensor, with_cuts: bool = False) -> tuple[Tensor, list[Tensor]]:
        tokens = stem
        cuts: list[Tensor] = []
        last = len(self.spec.stages) - 1
        for stage, (block, number) in enumerate(zip(self.spec.stages, self.counts)):
            attended = attend(self.backbone, block, tokens, with_weights=True)
            assert attended.weights is not None
            index = rank_order(attended.weights[:, :, 0, 1:].mean(dim=1))[:, :number]
            if with_cuts:
                among = attended.weights.mean(dim=1)[:, 1:, 1:]
                cuts.append(normalized_cut(among, mask_of(index, self.spec.patch_tokens).to(among)))
            idle = tokens[:, 1:]
            tokens = torch.cat((attended.tokens[:, :1], take(attended.tokens[:, 1:], index)), dim=1)
            tokens = run_stage(self.backbone, stage + 1, feed_forward(self.backbone, block, tokens), skip=1)
            if stage < last:
                tokens = torch.cat((tokens[:, :1], put(idle, index, tokens[:, 1:])), dim=1)
        return self.backbone.logits(tokens), cuts

    def macs_of(self, kept: Sequence[Number]) -> Number:
        spec = self.spec
        total: Number = shared_macs(spec) + len(spec.stages) * attention_macs(spec.patch_tokens + 1, spec)
        for blocks, count in zip(spec.stage_lengths()[1:], kept, strict=True):
            total = total + feed_forward_macs(count + 1, spec) + (blocks - 1) * block_macs(count + 1, spec)
        return total


def normalized_cut(attention: Tensor, kept: Tensor) -> Tensor:
    """Mean over images of cut / association, either way (Shi and Malik 2000); 0 where no attention crosses.

    Args:
        attention: ``(B, N, N)`` among patches.
        kept: ``(B, N)``, 1 or 0.
    """
    to_kept = (attention @ kept[..., None])[..., 0]
    whole = attention.sum(dim=-1)
    out = (kept * (whole - to_kept)).sum(dim=1) / (kept * whole).sum(dim=1).clamp(min=1e-9)
    back = ((1 - kept) * to_kept).sum(dim=1) / ((1 - kept) * whole).sum(dim=1).clamp(min=1e-9)
    return (out + back).mean()
