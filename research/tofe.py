"""ToFe itself, as the paper trains it, and with random tokens in place of selected ones."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from research.method import Method, Step, solve, taught
from tofe_edge.budget.cost import GmacsCost, fit_to_budget
from tofe_edge.model.backbones import BackboneAdapter, Output, TokenCounts
from tofe_edge.model.macs import dense_macs, gmacs, selector_macs, tofe_macs
from tofe_edge.model.tofe import ToFe, TrainingOutput
from tofe_edge.training.losses import approximation_loss, budget_loss
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.schedule import gumbel_sampler

_BATCH = 32
_FAR_STEP = 1_000_000
"""No run has as many: these draws are none of its own."""


class CountedToFe(Method):
    """ToFe with fixed token counts, which fall by the same factor per stage."""

    paper = "ToFe"
    kept: Tensor
    """Token counts, as a buffer: they are part of a saved state."""

    def __init__(self, host: BackboneAdapter, target_gmacs: float) -> None:
        super().__init__(host)
        self.net = self.build()
        self.cost = GmacsCost(self.spec, target_gmacs)
        self.register_buffer("kept", torch.tensor(self._solve_counts(target_gmacs)))

    def build(self) -> ToFe:
        """The net around the method's backbone."""
        return ToFe(self.backbone)

    def _solve_counts(self, target_gmacs: float) -> list[int]:
        tokens = self.spec.patch_tokens

        def counts(ratio: float) -> list[int]:
            shares = (ratio**stage for stage in range(1, len(self.spec.stages) + 1))
            return [min(tokens, max(1, round(share * tokens))) for share in shares]

        return counts(solve(lambda ratio: gmacs(self.macs_of(counts(ratio))), 0.0, 1.0, target_gmacs))

    @property
    def counts(self) -> TokenCounts:
        """Patch tokens kept per stage."""
        return TokenCounts(tuple(self.kept.tolist()))

    def keep(self, counts: Sequence[int]) -> None:
        """Keep so many from now on."""
        self.kept.copy_(torch.tensor(list(counts)))

    def infer(self, stem: Tensor) -> Tensor:
        return self.net.gathered_from(stem, self.counts).logits

    def losses(self, step: Step) -> dict[str, Tensor]:
        view, config, stem = step.batch.view, step.config, self.stem(step.batch.images)
        if step.gumbel is None:
            output = self.net.gathered_from(stem, self.counts)
        else:
            output = self.net.masked_from(stem, step.gumbel)
        apart = approximation_loss(output.rearranged, view.stages, output.masks)
        parts = taught(output.logits, step) | {"approximation": config.approximation_weight * apart}
        if step.gumbel is not None:
            budget = budget_loss(output.masks, self.cost, config.budget == "per_sample")
            parts["budget"] = config.budget_weight * budget
        return parts

    def macs_of(self, kept: Sequence[int]) -> int:
        """Whole net with these token counts."""
        return int(tofe_macs(self.spec, kept))

    def macs(self) -> int:
        return self.macs_of(self.counts.kept)

    def describe(self) -> str:
        return f"keeps {', '.join(map(str, self.counts.kept))} tokens"


class LearnedToFe(CountedToFe):
    """Counts are learned with the selectors, on masked tokens."""

    @classmethod
    def of(cls, net: ToFe, counts: TokenCounts) -> LearnedToFe:
        """A trained ToFe with its counts."""
        made = cls(net.backbone, gmacs(dense_macs(net.backbone.spec)))
        made.net.load_state_dict(net.state_dict())
        made.keep(counts.check(made.spec).kept)
        return made.eval()

    @property
    def selects(self) -> bool:
        return True

    @torch.no_grad()
    def settle(self, images: Tensor, config: TrainingConfig, noise: float) -> None:
        """Mean kept tokens per stage, brought to the budget."""
        sums = torch.zeros(len(self.spec.stages), dtype=torch.float64)
        for step, some in enumerate(images.split(_BATCH), start=_FAR_STEP):
            # Undecided selectors keep other numbers without the noise that they have just been trained with.
            masks = self.net.forward_masked(some, gumbel_sampler(config.seed, step, noise) if noise else None).masks
            sums += torch.stack([mask.sum() for mask in masks]).double()
        self.keep(fit_to_budget(tuple((sums / len(images)).tolist()), self.cost).counts.kept)


class RandomToFe(CountedToFe):
    """Random tokens, with ToFe's reuse and approximators."""

    paper = "random selection"

    def build(self) -> ToFe:
        return RandomNet(self.backbone)

    def macs_of(self, kept: Sequence[int]) -> int:
        spec = self.spec
        return super().macs_of(kept) - len(spec.stages) * int(selector_macs(spec.patch_tokens, spec.dim))


class RandomNet(ToFe):
    """ToFe with chance in place of its selectors: another order for each image and stage, for an image always the same."""

    def __init__(self, backbone: BackboneAdapter) -> None:
        super().__init__(backbone)
        self.selectors = nn.ModuleList(nn.Identity() for _ in backbone.spec.stages)
        self.seeds: list[int] = []
        """Of the images of the batch at hand: they follow from CLS, so that it does not matter in which batch an image comes."""

    def gathered_from(self, stem: Tensor, counts: TokenCounts, output: Output | None = None) -> TrainingOutput:
        classes = stem[:, 0].detach().half().cpu().numpy()
        self.seeds = [zlib.crc32(row.tobytes()) for row in classes]
        return super().gathered_from(stem, counts, output)

    def score(self, stage: int, patches: Tensor) -> Tensor:
        drawn = [np.random.default_rng((stage, seed)).random(patches.shape[1]) for seed in self.seeds]
        return torch.from_numpy(np.stack(drawn)).to(patches)
