"""Fitting the parts of a net that merges, stage by stage, to what the dense net does. No labels, no training of blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tofe_edge.model.backbones import Backbone, BackboneAdapter, TokenCounts
from tofe_edge.model.masking import take
from tofe_edge.model.tofe import ComparingSelector, Selection, ToFe, UpdateApproximator, score_of
from tofe_edge.reduction.evidence import BATCH, Evidence
from tofe_edge.reduction.regression import towards_identity
from tofe_edge.training.schedule import set_one_rate

_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 0.01
_WARM_UP = 50


@dataclass(frozen=True)
class Plan:
    """What a reduction looks like: what a search chooses.

    Attributes:
        stages: blocks before which tokens are selected.
        counts: patch tokens kept per stage.
        aversion: weight of the resemblance to better tokens in the scores.
    """

    stages: tuple[int, ...]
    counts: TokenCounts
    aversion: float


class Fitter:
    """Fits plans for one dense net; what plans share is computed once.

    Args:
        fit: what selectors and approximators are fitted to.
        judged: what plans are judged on.
        passes: over the images of ``fit``, per selector.
    """

    def __init__(self, backbone: BackboneAdapter, fit: Evidence, judged: Evidence, passes: int, seed: int) -> None:
        self.backbone, self.fit, self.judged = backbone, fit, judged
        self._passes, self._seed = passes, seed
        self._first: dict[int, tuple[ComparingSelector, Tensor, Tensor]] = {}

    @torch.no_grad()
    def build(self, plan: Plan) -> tuple[ToFe, Tensor]:
        """The net of a plan, fitted, and its outputs on the judged images. Its blocks are those of the dense net."""
        model = reduced_net(self.backbone, plan.stages)
        prefix, edges = self.backbone.spec.prefix_tokens, (*plan.stages, self.backbone.spec.depth)
        selector, fitting, judging = self._first_stage(plan.stages[0])
        for stage, number in enumerate(plan.counts.kept):
            # 1. A selector that expects what the dense net will attend to.
            if stage > 0:
                importance = self.fit.future_importance(edges[stage])
                selector = fit_selector(fitting[:, prefix:], importance, self._passes, self._seed + stage)
            selector = copy.deepcopy(selector)
            selector.aversion.fill_(plan.aversion)
            model.selectors[stage] = selector
            # 2. An approximator that brings thawed tokens near the dense net's.
            if stage < len(model.approximators):
                model.approximators[stage] = self._approximator(model, stage, number, fitting, edges[stage + 1])
            if stage + 1 < len(plan.counts.kept):
                fitting = advance(model, stage, number, fitting)
            judging = advance(model, stage, number, judging)
        return model.eval(), self.backbone.logits(judging)

    def divergence(self, plan: Plan) -> float:
        """The divergence of a plan's net from the dense net on the judged images."""
        return self.judged.divergence(self.build(plan)[1])

    def at_first_selection(self, plan: Plan) -> Tensor:
        """The dense net's tokens ``(B, P + N, D)`` of the images to fit to, where the plan first selects."""
        return self._first_stage(plan.stages[0])[1]

    def _first_stage(self, block: int) -> tuple[ComparingSelector, Tensor, Tensor]:
        """The first selector, and tokens of both sets of images at its block: they do not depend on counts."""
        if block not in self._first:
            stem = reduced_net(self.backbone, (block,))
            fitting, judging = (
                _in_batches(partial(stem.run_blocks, 0), one.embedded) for one in (self.fit, self.judged)
            )
            patches = fitting[:, self.backbone.spec.prefix_tokens :]
            selector = fit_selector(patches, self.fit.future_importance(block), self._passes, self._seed)
            self._first[block] = selector, fitting, judging
        return self._first[block]

    def _approximator(self, model: ToFe, stage: int, number: int, tokens: Tensor, block: int) -> UpdateApproximator:
        """Ridge regression of the updates that frozen tokens had in the dense net, from those of their kept tokens."""
        prefix, updates, wanted, weights = self.backbone.spec.prefix_tokens, [], [], []
        target = self.fit.states[:, block]
        # What matters is tokens that will be attended to; behind the last block all count alike.
        last = block == self.backbone.spec.depth
        importance = torch.ones(target.shape[:2]) if last else self.fit.future_importance(block)[: len(target)]
        for start in range(0, len(target), BATCH):
            some = slice(start, min(start + BATCH, len(target)))
            selection, processed = _run(model, stage, number, tokens[some])
            assert selection.merged is not None, "a plan freezes some tokens in every stage"
            update = processed[:, prefix:] - selection.merged.tokens
            update = selection.merged.shares @ (update - update.mean(dim=-1, keepdim=True))
            updates.append(update)
            wanted.append(take(target[some].float(), selection.frozen_index) - selection.frozen)
            weights.append(importance[some].gather(1, selection.frozen_index))
        weight, bias = towards_identity(torch.cat(updates), torch.cat(wanted), torch.cat(weights))
        approximator = UpdateApproximator(self.backbone.spec.dim)
        approximator.fc.weight.copy_(weight)
        approximator.fc.bias.copy_(bias)
        return approximator


def reduced_net(backbone: BackboneAdapter, stages: tuple[int, ...]) -> ToFe:
    """A net that merges, with selections before these blocks; the backbone's weights are shared, not copied."""
    twin = copy.copy(backbone)
    twin.spec = merging_spec(backbone.spec, stages)
    return ToFe(twin).eval()


def merging_spec(spec: Backbone, stages: tuple[int, ...]) -> Backbone:
    """The shape of a net that merges, with selections before these blocks. Without a head all its patch tokens are of use."""
    return replace(spec, stages=stages, reduction="merging", thaws_last=spec.thaws_last or not spec.classes)


def fit_selector(patches: Tensor, importance: Tensor, passes: int, seed: int) -> ComparingSelector:
    """A selector whose scores rank patch tokens ``(B, N, D)`` by their importance ``(B, N)``.

    The loss is the cross entropy between the shares of importance and the softmax of the scores of an image (ListNet, Cao et
    al. 2007). Of the losses tried its best tokens held most of the importance; squared error of logarithms and membership in
    the best N^s came behind.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        selector = ComparingSelector(patches.shape[-1])
    shares = importance / importance.sum(dim=1, keepdim=True)
    learned = [p for name, p in selector.named_parameters() if not name.startswith(("features", "aversion"))]
    optimizer = torch.optim.AdamW(learned, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    steps, step = passes * -(-len(patches) // BATCH), 0
    with torch.enable_grad():
        for _ in range(passes):
            for some in torch.randperm(len(patches), generator=generator).split(BATCH):
                set_one_rate(optimizer, _LEARNING_RATE, step, steps, _WARM_UP)
                scores = score_of(selector.by_importance(patches[some].detach()))
                loss = -(shares[some] * scores.log_softmax(dim=1)).sum(dim=1).mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                step += 1
    with torch.no_grad():
        selector.features.weight.copy_(principal_directions(patches, selector.features.out_features))
        selector.features.bias.zero_()
    return selector.requires_grad_(False)


def principal_directions(patches: Tensor, number: int) -> Tensor:
    """The directions ``(number, D)`` in which normalised patch tokens ``(B, N, D)`` vary most, around zero; zeros behind the D-th."""
    dim = patches.shape[-1]
    moment = torch.zeros(dim, dim, dtype=torch.float64)
    for some in patches.split(BATCH):
        rows = F.normalize(F.layer_norm(some, (dim,)), dim=-1).flatten(0, 1)
        moment += (rows.T @ rows).double()
    directions = torch.linalg.eigh(moment).eigenvectors.flip(1)[:, :number].T
    # The sign of an eigenvector is anybody's: the largest component is positive.
    sign = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
    return F.pad(directions * sign, (0, 0, 0, max(0, number - dim))).float()


def advance(model: ToFe, stage: int, number: int, tokens: Tensor) -> Tensor:
    """Tokens ``(B, P + N, D)`` through a stage: to the next selection, or ``(B, P + K, D)`` to a head that reads no others."""
    prefix = model.backbone.spec.prefix_tokens

    def through(some: Tensor) -> Tensor:
        selection, processed = _run(model, stage, number, some)
        if stage == len(model.approximators):
            return processed
        patches = model.rearrange(stage, selection, processed[:, prefix:])
        return torch.cat((processed[:, :prefix], patches), dim=1)

    return _in_batches(through, tokens)


def _run(model: ToFe, stage: int, number: int, tokens: Tensor) -> tuple[Selection, Tensor]:
    prefix = model.backbone.spec.prefix_tokens
    patches = tokens[:, prefix:]
    selection = model.freeze(stage, patches, model.score(stage, patches), number)
    return selection, model.run_stage(stage, tokens[:, :prefix], selection)


def _in_batches(function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    return torch.cat([function(some) for some in tokens.split(BATCH)])
