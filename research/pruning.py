"""Pruning with learned selectors: what is left out once is gone (DynamicViT, and ToFe without reuse)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from research.anatomy import block_macs, ones_beside, run_stage, shared_macs
from research.budget import Counted, geometric, learned_counts
from research.method import Step, draw_mask, guided, ratio_loss, score_of, taught
from research.selectors import LearnedSelector, LocalGlobalSelector, MlpSelector, Scene
from tofe_edge.model.backbones import Host
from tofe_edge.model.macs import Number
from tofe_edge.model.masking import rank_order, take
from tofe_edge.model.tofe import Gumbel, TrainingOutput
from tofe_edge.training.config import TrainingConfig
from tofe_edge.training.losses import budget_loss
from tofe_edge.training.views import Views

_TOKEN_WEIGHT = 0.5


class Pruned(NamedTuple):
    """What the inference form gives."""

    logits: Tensor
    kept: tuple[Tensor, ...]
    """Positions ``(B, N^s)`` among all patches, a stage each."""
    tokens: tuple[Tensor, ...]
    """Patch tokens ``(B, N^s, D)`` at the end of each stage."""
    scores: tuple[Tensor, ...]
    """Scores of the patch tokens that were left, a stage each."""
    scored: tuple[Tensor, ...]
    """Their positions among all patches."""

    def guided(self, importance: Tensor, config: TrainingConfig) -> dict[str, Tensor]:
        """See :func:`research.method.guided`; importance is ``(B, S, N)``."""
        received = [part.gather(1, where) for part, where in zip(importance.unbind(dim=1), self.scored)]
        return guided(self.scores, received, config)


class Pruning(Counted):
    """Masks are cumulative: a stage selects among what the one before kept."""

    selector: ClassVar[type[LearnedSelector]]

    def __init__(self, host: Host, target_gmacs: float) -> None:
        super().__init__(host)
        self.selectors = nn.ModuleList(type(self).selector(self.spec.dim) for _ in self.spec.stages)
        self.solve_counts(target_gmacs, geometric)

    @property
    def selects(self) -> bool:
        return True

    def masked_from(
        self, stem: Tensor, gumbel: Gumbel | None = None, masks: Sequence[Tensor] | None = None
    ) -> TrainingOutput:
        """The form in which selectors learn; ``rearranged`` has patch tokens at the input of l_2 … l_S."""
        tokens, alive = stem, stem.new_ones(len(stem), stem.shape[1] - 1)
        used: list[Tensor] = []
        between: list[Tensor] = []
        scores: list[Tensor] = []
        for stage, selector in enumerate(self.selectors):
            if masks is not None:
                alive = masks[stage]
            else:
                logits = cast(LearnedSelector, selector).decide(tokens[:, 1:], alive)
                scores.append(score_of(logits))
                alive = alive * draw_mask(logits, gumbel)
            used.append(alive)
            tokens = run_stage(self.backbone, stage + 1, tokens, ones_beside(alive))
            between.append(tokens[:, 1:])
        return TrainingOutput(self.backbone.logits(tokens), tuple(used), tuple(between[:-1]), tuple(scores))

    def gathered_from(self, stem: Tensor) -> Pruned:
        """The inference form."""
        tokens = stem
        where = torch.arange(stem.shape[1] - 1, device=stem.device).expand(len(stem), -1)
        kept: list[Tensor] = []
        ends: list[Tensor] = []
        every: list[Tensor] = []
        scored: list[Tensor] = []
        for stage, (selector, number) in enumerate(zip(self.selectors, self.counts)):
            scores = cast(LearnedSelector, selector).score(Scene(self.backbone, stage, tokens.detach(), stem))
            every.append(scores)
            scored.append(where)
            index = rank_order(scores.detach())[:, :number]
            where = where.gather(1, index)
            tokens = torch.cat((tokens[:, :1], take(tokens[:, 1:], index)), dim=1)
            tokens = run_stage(self.backbone, stage + 1, tokens)
            kept.append(where)
            ends.append(tokens[:, 1:])
        return Pruned(self.backbone.logits(tokens), tuple(kept), tuple(ends), tuple(every), tuple(scored))

    def infer(self, stem: Tensor) -> Tensor:
        return self.gathered_from(stem).logits

    def macs_of(self, kept: Sequence[Number]) -> Number:
        spec = self.spec
        total: Number = shared_macs(spec)
        looked_at = (spec.patch_tokens, *kept)
        for selector, blocks, seen, count in zip(self.selectors, spec.stage_lengths()[1:], looked_at, kept):
            total = total + cast(LearnedSelector, selector).macs(seen, spec) + blocks * block_macs(count + 1, spec)
        return total


class DynamicViT(Pruning):
    """Every selection keeps the same share; a loss holds each image's masks to it.

    Its loss on tokens, at the end of the net in the paper, is at the inputs of blocks l_2 … l_S here, where views have
    the dense model's tokens. The paper masks pruned tokens' columns and lets each see itself, as we do for ToFe.
    """

    paper = "Rao et al. 2021, DynamicViT"
    selector = LocalGlobalSelector

    def losses(self, step: Step) -> dict[str, Tensor]:
        view = step.batch.view
        if step.gumbel is None:
            pruned = self.gathered_from(view.stem)
            teacher = [take(tokens, index) for tokens, index in zip(view.stages, pruned.kept)]
            gaps = [(mine - its).square().mean() for mine, its in zip(pruned.tokens, teacher)]
            guidance = pruned.guided(view.importance, step.config)
            return taught(pruned.logits, step) | guidance | {"tokens": _TOKEN_WEIGHT * torch.stack(gaps).mean()}
        output = self.masked_from(view.stem, step.gumbel)
        guidance = guided(output.scores, view.importance.unbind(dim=1), step.config)
        return (
            taught(output.logits, step)
            | guidance
            | {
                "ratio": ratio_loss(output.masks, self.kept),
                "tokens": _TOKEN_WEIGHT * _kept_token_loss(output, view.stages),
            }
        )


def _kept_token_loss(output: TrainingOutput, teacher: Sequence[Tensor]) -> Tensor:
    gaps = []
    for mine, its, mask in zip(output.rearranged, teacher, output.masks):
        apart = (mine - its).square().mean(dim=-1)
        gaps.append((mask * apart).sum() / mask.sum().clamp(min=1))
    return torch.stack(gaps).mean()


class ToFeWithoutReuse(Pruning):
    """ToFe with cumulative masks (Table II): its selectors, its learned counts, no approximators."""

    paper = "ToFe, Table II"
    selector = MlpSelector

    def losses(self, step: Step) -> dict[str, Tensor]:
        view, config = step.batch.view, step.config
        if step.gumbel is None:
            pruned = self.gathered_from(view.stem)
            return taught(pruned.logits, step) | pruned.guided(view.importance, config)
        output = self.masked_from(view.stem, step.gumbel)
        budget = config.budget_weight * budget_loss(output.masks, self.cost, config.budget == "per_sample")
        guidance = guided(output.scores, view.importance.unbind(dim=1), config)
        return taught(output.logits, step) | guidance | {"budget": budget}

    def settle(self, views: Views, config: TrainingConfig, noise: float) -> None:
        self.keep(learned_counts(self.masked_from, views, self.cost, config.seed, noise))
