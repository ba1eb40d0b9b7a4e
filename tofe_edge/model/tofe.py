"""ToFe: a backbone with token selectors and token approximators, and its forwards.

* :meth:`ToFe.forward_masked` is the training graph: every token goes through every block, frozen ones are
  masked (Eq. 16-18), so gradients reach the selectors.
* :meth:`ToFe.gathered_from` trains the form that is exported: the top-N^s tokens alone go through the blocks.
  No gradient reaches the selectors, and a step costs what the small net costs.
* :meth:`ToFe.forward_instance` is instance-adaptive inference: one image keeps what its selectors say.
* :meth:`ToFe.forward_batch` is batch-adaptive inference: the top-N^s tokens per stage, static counts.

The two inference forms gather kept tokens and put them back in place (``Rearrange``, Eq. 7). On kept
tokens they equal the masked form with the same masks.

How tokens are selected and what frozen ones do is the reduction of the backbone's spec, ``"paper"`` or ``"merging"``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.errors import InputError
from tofe_edge.model.backbones import BackboneAdapter, TokenCounts
from tofe_edge.model.backbones.spec import FEATURES, Output
from tofe_edge.model.masking import mask_of, put, rank_order, take
from tofe_edge.model.merging import Merge, masked_merge, merge, resemblance_to_better

KEEP = 0
"""Index of "keep" among a selector's two outputs."""

Gumbel = Callable[[Tensor], Tensor]
"""Log-probabilities ``(B, N, 2)`` to a hard, differentiable one-hot sample of the same shape."""


class TokenSelector(nn.Module):
    """Scores patch tokens: LayerNorm, then a three-layer MLP to (keep, freeze) logits (Eq. 8)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim // 2)
        self.fc2 = nn.Linear(dim // 2, dim // 4)
        self.fc3 = nn.Linear(dim // 4, 2)

    def forward(self, patches: Tensor) -> Tensor:
        """Patch tokens ``(B, N, D)`` to logits ``(B, N, 2)``."""
        hidden = F.gelu(self.fc2(F.gelu(self.fc1(self.norm(patches)))))
        out: Tensor = self.fc3(hidden)
        return out


class ComparingSelector(TokenSelector):
    """A selector that sees more than each token alone; not of the paper.

    The MLP sees the mean of all tokens beside each one. Of its score is taken off how much the token resembles one with a
    higher score: what it would say is said already.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.context = nn.Linear(dim, dim // 2, bias=False)
        self.features = nn.Linear(dim, FEATURES)
        self.aversion = nn.Parameter(torch.zeros(()))
        """Weight of the resemblance; 0 ranks by the MLP alone."""

    def compare(self, patches: Tensor) -> Tensor:
        """Features ``(B, N, FEATURES)`` of patch tokens: vectors of length 1, whose products say how alike tokens are."""
        features = self.features(F.layer_norm(patches, patches.shape[-1:]))
        return F.normalize(features - features.mean(dim=-1, keepdim=True), dim=-1)

    def by_importance(self, patches: Tensor) -> Tensor:
        """Logits ``(B, N, 2)`` of the MLP alone."""
        tokens = self.norm(patches)
        hidden = self.fc1(tokens) + self.context(tokens.mean(dim=1, keepdim=True))
        logits: Tensor = self.fc3(F.gelu(self.fc2(F.gelu(hidden))))
        return logits

    def forward(self, patches: Tensor) -> Tensor:
        logits = self.by_importance(patches)
        resemblance = resemblance_to_better(self.compare(patches), score_of(logits))
        return logits - self.aversion * F.pad(resemblance[..., None], (KEEP, 1 - KEEP))


class TokenApproximator(nn.Module):
    """What the skipped blocks would have added to a frozen token: a bottleneck MLP, residual (Eq. 6).

    Paper feeds the MLP the token itself; we feed it the token less the mean of its channels. All else that reads
    the residual stream reads it through a LayerNorm, which ignores that mean: so an exported graph may remove the
    mean where the stream is written, in the weights, and never compute it (4 % of the latency of a small net).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim // 2)
        self.fc2 = nn.Linear(dim // 2, dim)
        # Starts as the identity on frozen tokens, from which the paper's own observation (tokens change
        # little over a few blocks) says it is a short way.
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, frozen: Tensor) -> Tensor:
        """Frozen tokens ``(B, K, D)`` to their approximation, same shape."""
        centred = frozen - frozen.mean(dim=-1, keepdim=True)
        out: Tensor = frozen + self.fc2(F.gelu(self.fc1(centred)))
        return out


class UpdateApproximator(nn.Module):
    """What the skipped blocks would have added to a frozen token, from what they added to the kept token it was merged
    into: one Linear, which is the identity until it is fitted.

    Not of the paper. It is given updates less the mean of their channels, as :class:`TokenApproximator` is given tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, dim)
        nn.init.eye_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, update: Tensor) -> Tensor:
        """Updates ``(B, K, D)`` of kept tokens to those of the frozen tokens merged into them, same shape."""
        out: Tensor = self.fc(update - update.mean(dim=-1, keepdim=True))
        return out


@dataclass(frozen=True)
class TrainingOutput:
    """What a graph that is trained gives for B images and S stages."""

    output: Tensor
    """What was asked for: by default logits ``(B, classes)``."""
    masks: tuple[Tensor, ...]
    """S masks ``(B, N)``, 1 = kept; differentiable if they were drawn by a sampler."""
    rearranged: tuple[Tensor, ...]
    """Patch token tensors ``(B, N, D)`` at the input of blocks l_2 … l_S, frozen ones approximated; one more behind the last
    block if the net thaws them there."""
    scores: tuple[Tensor, ...]
    """S tensors ``(B, N)``: what :meth:`ToFe.score` gives."""

    @property
    def logits(self) -> Tensor:
        """The output."""
        return self.output


@dataclass(frozen=True)
class Inference:
    """What an inference form gives."""

    output: Tensor
    """What was asked for: by default logits ``(B, classes)``."""
    kept: tuple[Tensor, ...]
    """S index tensors ``(B, N^s)``: positions of kept patch tokens, best first."""
    margins: tuple[Tensor, ...]
    """S tensors ``(B,)``: score of the last kept token less that of the first frozen one (inf if none is)."""

    @property
    def logits(self) -> Tensor:
        """The output."""
        return self.output


@dataclass(frozen=True)
class Selection:
    """Patch tokens, parted for a stage; B images, K of N tokens kept."""

    order: Tensor
    """``(B, N)``: positions, best first."""
    index: Tensor
    """``(B, K)``: positions of kept tokens."""
    frozen_index: Tensor
    """``(B, N - K)``"""
    staying: Tensor
    """``(B, K, D)``: what goes through the blocks."""
    frozen: Tensor
    """``(B, N - K, D)``: the frozen tokens as they were."""
    merged: Merge | None
    """``None``: frozen tokens are silent, or there are none."""


class ToFe(nn.Module):
    """A :class:`BackboneAdapter` with ToFe's selectors before blocks ``l_1 … l_S`` and an approximator behind each stage but
    the last, or behind that one too.

    Forwards take the ``output`` that is wanted, ``None`` for the net's default.
    """

    def __init__(self, backbone: BackboneAdapter) -> None:
        super().__init__()
        spec = backbone.spec
        selector, approximator = (
            (ComparingSelector, UpdateApproximator) if spec.merges else (TokenSelector, TokenApproximator)
        )
        self.backbone = backbone
        self.selectors = nn.ModuleList(selector(spec.dim) for _ in spec.stages)
        thawed = spec.stages if spec.thaws_last else spec.stages[1:]
        self.approximators = nn.ModuleList(approximator(spec.dim) for _ in thawed)

    def run_blocks(self, stage: int, tokens: Tensor, keep: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        """Run the blocks of ``stage`` (0 = before the first selection), masked if there is a ``keep``.

        ``sizes`` ``(B, n)``: how many patch tokens each one stands for; ``None``: 1 each.
        """
        if sizes is not None:
            sizes = F.pad(sizes, (self.backbone.spec.prefix_tokens, 0), value=1.0)
        edges = (0, *self.backbone.spec.stages, self.backbone.spec.depth)
        for index in range(edges[stage], edges[stage + 1]):
            if keep is None:
                tokens = self.backbone.block(index, tokens, sizes)
            else:
                tokens = self.backbone.masked_block(index, tokens, keep, sizes)
        return tokens

    def forward_dense(self, images: Tensor, output: Output | None = None) -> Tensor:
        """The dense backbone: images ``(B, 3, H, W)`` to logits ``(B, classes)`` or another output."""
        output = self.backbone.spec.check_output(output)
        tokens = self.backbone.embed(images)
        for stage in range(len(self.selectors) + 1):
            tokens = self.run_blocks(stage, tokens)
        return self.backbone.read(output, tokens)

    def score(self, stage: int, patches: Tensor) -> Tensor:
        """How much selector ``stage`` (0-based) wants each patch token: ``(B, N)``, positive = keep.

        The difference of the two logits; it orders tokens as p_keep does, and p_keep > 0.5 iff it is > 0.
        """
        return score_of(self.selectors[stage](patches))

    def stem(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` to tokens ``(B, P + N, D)`` at the input of block l_1."""
        return self.run_blocks(0, self.backbone.embed(images))

    def forward_masked(
        self,
        images: Tensor,
        gumbel: Gumbel | None = None,
        masks: Sequence[Tensor] | None = None,
        output: Output | None = None,
    ) -> TrainingOutput:
        """The training graph (Eq. 8-9, 16-18).

        Args:
            images: ``(B, 3, H, W)``.
            gumbel: draws the masks; ``None`` keeps tokens with p_keep > 0.5, without noise or gradient.
            masks: S masks ``(B, N)`` in place of the selectors' own.
        """
        return self.masked_from(self.stem(images), gumbel, masks, output)

    def masked_from(
        self,
        stem: Tensor,
        gumbel: Gumbel | None = None,
        masks: Sequence[Tensor] | None = None,
        output: Output | None = None,
    ) -> TrainingOutput:
        """:meth:`forward_masked` from the tokens that :meth:`stem` gives."""
        spec, tokens = self.backbone.spec, stem
        output = spec.check_output(output)
        used: list[Tensor] = []
        rearranged: list[Tensor] = []
        scores: list[Tensor] = []
        for stage, selector in enumerate(self.selectors):
            patches = tokens[:, spec.prefix_tokens :]
            logits = selector(patches)
            scores.append(score_of(logits))
            mask = masks[stage] if masks is not None else _draw(logits, gumbel)
            used.append(mask)
            keep = torch.cat((mask.new_ones(len(mask), spec.prefix_tokens), mask), dim=1)
            merged = None
            if isinstance(selector, ComparingSelector):
                merged = masked_merge(patches, selector.compare(patches), mask)
            start, sizes = (patches, None) if merged is None else (merged.tokens, merged.sizes)
            stage_input = torch.cat((tokens[:, : spec.prefix_tokens], start), dim=1)
            processed = tokens = self.run_blocks(stage + 1, stage_input, keep, sizes)
            if stage < len(self.approximators) or spec.reads_patches(output):
                out = processed[:, spec.prefix_tokens :]
                thawed = self._thaw(stage, patches, merged, out)
                kept = mask[..., None]
                together = kept * out + (1 - kept) * thawed
                rearranged.append(together)
                tokens = torch.cat((processed[:, : spec.prefix_tokens], together), dim=1)
        read = self.backbone.read(output, tokens if spec.reads_patches(output) else processed, used[-1])
        return TrainingOutput(read, tuple(used), tuple(rearranged), tuple(scores))

    def gathered_from(self, stem: Tensor, counts: TokenCounts, output: Output | None = None) -> TrainingOutput:
        """The form that is exported, to be trained: batch-adaptive selection, frozen tokens left out of the blocks.

        Selections are taken as given: no gradient of logits or tokens reaches the scores, and none of the scores
        reaches the blocks. What a merging net compares tokens by does learn.

        Args:
            stem: what :meth:`stem` gives.
            counts: of :meth:`forward_batch`, with which the logits agree.

        Raises:
            InputError: the counts do not fit the backbone.
        """
        kept = counts.check(self.backbone.spec).kept
        run = self._infer(stem, lambda stage, scores: kept[stage], output, trained=True)
        masks = masks_of(run.inference, self.backbone.spec.patch_tokens)
        return TrainingOutput(run.inference.output, masks, run.rearranged, run.scores)

    def forward_batch(self, images: Tensor, counts: TokenCounts, output: Output | None = None) -> Inference:
        """Batch-adaptive inference (Algorithm 1): top-N^s tokens by score in each stage; ties to the lower position.

        Raises:
            InputError: the counts do not fit the backbone.
        """
        kept = counts.check(self.backbone.spec).kept
        return self._infer(self.stem(images), lambda stage, scores: kept[stage], output).inference

    def forward_instance(self, image: Tensor, output: Output | None = None) -> Inference:
        """Instance-adaptive inference (Algorithm 1): one image ``(1, 3, H, W)`` keeps tokens with p_keep > 0.5, at least one.

        Raises:
            InputError: more than one image.
        """
        if len(image) != 1:
            raise InputError(f"instance-adaptive inference takes one image at a time, not {len(image)}")
        return self._infer(self.stem(image), lambda stage, scores: max(1, int((scores > 0).sum())), output).inference

    def freeze(self, stage: int, patches: Tensor, scores: Tensor, number: int) -> Selection:
        """Keep the ``number`` patch tokens ``(B, N, D)`` with the highest scores ``(B, N)``; the others freeze."""
        selector, order = self.selectors[stage], rank_order(scores)
        index, frozen_index = order[:, :number], order[:, number:]
        staying, frozen, merged = take(patches, index), take(patches, frozen_index), None
        if isinstance(selector, ComparingSelector) and number < patches.shape[1]:
            features = selector.compare(patches)
            merged = merge(staying, frozen, take(features, index), take(features, frozen_index))
            staying = merged.tokens
        return Selection(order, index, frozen_index, staying, frozen, merged)

    def rearrange(self, stage: int, selection: Selection, processed: Tensor) -> Tensor:
        """Patch tokens ``(B, N, D)`` after ``stage``, of which the kept ones ``(B, K, D)`` came out as ``processed``.

        Frozen tokens are corrected where they stand, kept ones put back (Eq. 7).
        """
        patches = processed.new_zeros(*selection.order.shape, processed.shape[-1])
        patches = put(patches, selection.index, processed)
        if selection.frozen_index.shape[1]:
            thawed = self._thaw(stage, selection.frozen, selection.merged, processed)
            patches = put(patches, selection.frozen_index, thawed)
        return patches

    def run_stage(self, stage: int, prefix: Tensor, selection: Selection) -> Tensor:
        """Prefix ``(B, P, D)`` and kept tokens through the blocks between selection ``stage`` and the next: ``(B, P + K, D)``."""
        sizes = selection.merged.sizes if selection.merged else None
        return self.run_blocks(stage + 1, torch.cat((prefix, selection.staying), dim=1), sizes=sizes)

    def _infer(
        self, tokens: Tensor, count: Callable[[int, Tensor], int], output: Output | None, trained: bool = False
    ) -> _Run:
        """Algorithm 1 from the first selection on; ``trained``: every approximator runs, whether the output needs it or not."""
        spec = self.backbone.spec
        output = spec.check_output(output)
        prefix, last = spec.prefix_tokens, len(self.selectors) - 1
        reads_patches = spec.reads_patches(output)
        kept: list[Tensor] = []
        margins: list[Tensor] = []
        rearranged: list[Tensor] = []
        every: list[Tensor] = []
        for stage in range(len(self.selectors)):
            patches = tokens[:, prefix:]
            scores = self.score(stage, patches.detach())
            every.append(scores)
            number = count(stage, scores)
            selection = self.freeze(stage, patches, scores, number)
            kept.append(selection.index)
            margins.append(_margin(scores, selection.order, number))
            processed = tokens = self.run_stage(stage, tokens[:, :prefix], selection)
            if stage < last or reads_patches or (trained and spec.thaws_last):
                patches = self.rearrange(stage, selection, processed[:, prefix:])
                rearranged.append(patches)
                tokens = torch.cat((processed[:, :prefix], patches), dim=1)
        read = self.backbone.read(output, tokens if reads_patches else processed)
        inference = Inference(read, tuple(kept), tuple(margins))
        return _Run(inference, tuple(rearranged), tuple(every))

    def _thaw(self, stage: int, frozen: Tensor, merged: Merge | None, processed: Tensor) -> Tensor:
        """Frozen tokens ``(B, F, D)`` after ``stage``, approximated: silent ones from themselves, merged ones from the update
        of the kept tokens, which went in as ``merged`` and came out as ``processed``.

        A last stage without an approximator leaves silent ones as they are, and takes updates as they are.
        """
        approximator = self.approximators[stage] if stage < len(self.approximators) else nn.Identity()
        if merged is None:
            thawed: Tensor = approximator(frozen)
        else:
            thawed = frozen + merged.shares @ approximator(processed - merged.tokens)
        return thawed


@dataclass(frozen=True)
class _Run:
    """An inference, and what came up on the way; as in :class:`TrainingOutput`."""

    inference: Inference
    rearranged: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]


def score_of(logits: Tensor) -> Tensor:
    """The score that a selector's logits ``(..., 2)`` come to: positive = keep."""
    return logits[..., KEEP] - logits[..., 1 - KEEP]


def _draw(logits: Tensor, gumbel: Gumbel | None) -> Tensor:
    """A mask ``(B, N)`` from a selector's logits ``(B, N, 2)``; without noise the tokens with p_keep > 0.5."""
    if gumbel is None:
        return (score_of(logits) > 0).to(logits.dtype)
    # log_softmax, not softmax, goes into the Gumbel softmax: probabilities taken as logits would cap
    # P(keep) to [0.27, 0.73] (Eq. 8 followed literally by Eq. 9).
    return gumbel(F.log_softmax(logits.float(), dim=-1))[..., KEEP]


def _margin(scores: Tensor, order: Tensor, number: int) -> Tensor:
    if number >= scores.shape[1]:
        return scores.new_full((len(scores),), float("inf"))
    ranked = scores.gather(1, order)
    return ranked[:, number - 1] - ranked[:, number]


def masks_of(inference: Inference, patch_tokens: int) -> tuple[Tensor, ...]:
    """The 0/1 masks ``(B, N)`` of an inference, one per stage."""
    return tuple(mask_of(index, patch_tokens) for index in inference.kept)
