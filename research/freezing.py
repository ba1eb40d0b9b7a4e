"""ToFe with exchangeable parts: which tokens are frozen, what happens to them, and how many of them there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from research.anatomy import block_macs, ones_beside, run_stage, shared_macs
from research.approximators import Approximator, Bottleneck
from research.budget import Counted, geometric, learned_counts
from research.method import Step, draw_mask, guided, ratio_loss, score_of, taught
from research.selectors import LearnedSelector, MlpSelector, Scene, Selector
from tofe_edge.model.backbones import Host, TokenCounts
from tofe_edge.model.macs import Number, dense_macs, gmacs
from tofe_edge.model.masking import mask_of, put, rank_order, take
from tofe_edge.model.tofe import Gumbel, Inference, ToFe, TrainingOutput
from tofe_edge.training.config import TrainingConfig
from tofe_edge.training.losses import approximation_loss, budget_loss
from tofe_edge.training.views import Views

Count = Callable[[int, Tensor], int]
"""Stage (0-based) and scores ``(B, N)`` to how many tokens each image of the batch keeps."""


class Gathered(NamedTuple):
    """What the inference form gives."""

    inference: Inference
    rearranged: tuple[Tensor, ...]
    """Patch tokens ``(B, N, D)`` between stages."""
    scores: tuple[Tensor, ...]
    """``(B, N)``, a stage each."""


class Freezing(Counted):
    """Tokens that a stage leaves out are approximated and come back before the next selection.

    With its own parts this is ToFe. Where selectors are learned, so are the counts, unless a method says otherwise; else
    they follow from ``shares``.
    """

    paper = "ToFe"
    selector: ClassVar[type[Selector]] = MlpSelector
    approximator: ClassVar[type[Approximator]] = Bottleneck
    learns_counts: ClassVar[bool] = True
    """Whether counts are learned with the selectors."""

    def __init__(self, host: Host, target_gmacs: float) -> None:
        super().__init__(host)
        kind = type(self)
        stages = range(len(self.spec.stages))
        self.selectors = nn.ModuleList(kind.selector(self.spec.dim) for _ in stages)
        self.approximators = nn.ModuleList(kind.approximator(self.backbone, stage) for stage in stages[1:])
        self.solve_counts(target_gmacs, kind.shares)

    @staticmethod
    def shares(ratio: float, stages: int) -> Sequence[float]:
        """See :data:`research.budget.Shares`."""
        return geometric(ratio, stages)

    @classmethod
    def of(cls, net: ToFe, counts: TokenCounts) -> Freezing:
        """A trained ToFe with its counts."""
        made = cls(net.backbone, gmacs(dense_macs(net.backbone.spec)))
        for mine, its in zip((*made.selectors, *made.approximators), (*net.selectors, *net.approximators), strict=True):
            cast("MlpSelector | Bottleneck", mine).net.load_state_dict(its.state_dict())
        made.keep(counts.check(made.spec).kept)
        return made.eval()

    @property
    def selects(self) -> bool:
        return type(self).selector.learned

    def masked_from(
        self, stem: Tensor, gumbel: Gumbel | None = None, masks: Sequence[Tensor] | None = None
    ) -> TrainingOutput:
        """The form in which selectors learn; see ``ToFe.masked_from``."""
        tokens = stem
        used: list[Tensor] = []
        rearranged: list[Tensor] = []
        scores: list[Tensor] = []
        for stage, selector in enumerate(self.selectors):
            patches = tokens[:, 1:]
            if masks is not None:
                mask = masks[stage]
            else:
                logits = cast(LearnedSelector, selector).decide(patches)
                scores.append(score_of(logits))
                mask = draw_mask(logits, gumbel)
            used.append(mask)
            processed = run_stage(self.backbone, stage + 1, tokens, ones_beside(mask))
            if stage < len(self.approximators):
                frozen = cast(Approximator, self.approximators[stage]).masked(patches, 1 - mask)
                merged = mask[..., None] * processed[:, 1:] + (1 - mask)[..., None] * frozen
                rearranged.append(merged)
                processed = torch.cat((processed[:, :1], merged), dim=1)
            tokens = processed
        return TrainingOutput(self.backbone.logits(tokens), tuple(used), tuple(rearranged), tuple(scores))

    def gathered_from(self, stem: Tensor, count: Count | None = None) -> Gathered:
        """The inference form; ``count`` in place of the method's own counts."""
        counts, tokens = self.counts, stem
        kept: list[Tensor] = []
        rearranged: list[Tensor] = []
        every: list[Tensor] = []
        for stage, selector in enumerate(self.selectors):
            patches = tokens[:, 1:]
            # Selections are taken as given; guidance alone teaches selectors here, and nothing but them.
            scores = cast(Selector, selector).score(Scene(self.backbone, stage, tokens.detach(), stem))
            every.append(scores)
            order = rank_order(scores.detach())
            number = counts[stage] if count is None else count(stage, scores)
            index, rest = order[:, :number], order[:, number:]
            kept.append(index)
            tokens = run_stage(self.backbone, stage + 1, torch.cat((tokens[:, :1], take(patches, index)), dim=1))
            if stage < len(self.approximators):
                if rest.shape[1]:
                    frozen = cast(Approximator, self.approximators[stage]).gathered(patches, rest)
                    patches = put(patches, rest, frozen)
                patches = put(patches, index, tokens[:, 1:])
                rearranged.append(patches)
                tokens = torch.cat((tokens[:, :1], patches), dim=1)
        return Gathered(Inference(self.backbone.logits(tokens), tuple(kept), ()), tuple(rearranged), tuple(every))

    def infer(self, stem: Tensor) -> Tensor:
        return self.gathered_from(stem).inference.logits

    def losses(self, step: Step) -> dict[str, Tensor]:
        view, config = step.batch.view, step.config
        if step.gumbel is not None:
            output = self.masked_from(view.stem, step.gumbel)
        else:
            run = self.gathered_from(view.stem)
            masks = tuple(mask_of(index, self.spec.patch_tokens) for index in run.inference.kept)
            output = TrainingOutput(run.inference.logits, masks, run.rearranged, run.scores)
        apart = approximation_loss(output.rearranged, view.stages, output.masks)
        parts = taught(output.logits, step) | {"approximation": config.approximation_weight * apart}
        if type(self).selector.learned:
            parts |= guided(output.scores, view.importance.unbind(dim=1), config)
        if step.gumbel is None:
            return parts
        if not type(self).learns_counts:
            return parts | {"ratio": ratio_loss(output.masks, self.kept)}
        budget = budget_loss(output.masks, self.cost, config.budget == "per_sample")
        return parts | {"budget": config.budget_weight * budget}

    def settle(self, views: Views, config: TrainingConfig, noise: float) -> None:
        if self.selects and type(self).learns_counts:
            self.keep(learned_counts(self.masked_from, views, self.cost, config.seed, noise))

    def macs_of(self, kept: Sequence[Number]) -> Number:
        spec = self.spec
        total: Number = shared_macs(spec)
        for blocks, count in zip(spec.stage_lengths()[1:], kept, strict=True):
            total = total + blocks * block_macs(count + 1, spec)
        for selector in self.selectors:
            total = total + cast(Selector, selector).macs(spec.patch_tokens, spec)
        for approximator, count in zip(self.approximators, kept):
            total = total + cast(Approximator, approximator).macs(spec.patch_tokens - count, spec)
        return total
