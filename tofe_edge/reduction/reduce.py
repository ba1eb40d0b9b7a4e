"""From a dense net, unlabelled images and a budget to a net that meets it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tofe_edge.budget.cost import Cost
from tofe_edge.errors import InputError
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.backbones import BackboneAdapter, TokenCounts
from tofe_edge.model.macs import dense_macs, gmacs
from tofe_edge.model.tofe import ComparingSelector, ToFe, UpdateApproximator
from tofe_edge.reduction.evidence import BATCH, Evidence, examine
from tofe_edge.reduction.fitting import Fitter, Plan, merging_spec
from tofe_edge.reduction.search import counts_for, search
from tofe_edge.reduction.tuning import tune
from tofe_edge.training.counts import center_selectors, show_something

FEWEST_IMAGES = 64
MOST_IMAGES = 2000

_JUDGED_SHARE = 0.2
_SEARCH_FIT, _SEARCH_JUDGED = 256, 160
"""Images of the search: a plan takes seconds, and two plans differ by more than they differ between draws of images."""

_LARGE_GMACS = 8.0
"""Of a dense net beyond this, the search sees half as many images."""

_SEARCH_PASSES, _PASSES = 8, 15
_FINALISTS = 2
_TUNING_STEPS = 200
"""Of a net of 1 GMAC. Larger ones take fewer, with the root of their work, since a step takes longer."""

_WITH_STATES = 256
_CENTER_ON = 256


@dataclass(frozen=True)
class Outcome:
    """What became of a budget, on images that nothing was fitted to.

    Attributes:
        target: the budget, in ``unit``.
        counts: patch tokens kept per stage.
        cost: what they come to, in ``unit``.
        divergence: from the dense net: in nats, or one less the cosine of embeddings.
        agreement: percentage of images with the dense net's best class, or nearest neighbour.
    """

    target: float
    unit: str
    counts: tuple[int, ...]
    cost: float
    divergence: float
    agreement: float


@dataclass(frozen=True)
class Report:
    """How a reduction was found, and what it is worth.

    Attributes:
        stages: blocks before which tokens are selected.
        outcomes: of the budgets, the main one first.
        without: divergence if one part is taken out again: resemblance in the scores, the approximators.
        fitted_to: images that parts were fitted to.
        judged_on: other images, on which divergences were measured.
        plans: how many were tried.
        measure: of divergences, ``"nats"`` or, of embeddings, ``"cosine distance"``.
    """

    stages: tuple[int, ...]
    aversion: float
    outcomes: tuple[Outcome, ...]
    without: dict[str, float]
    fitted_to: int
    judged_on: int
    plans: int
    seed: int
    measure: str = "nats"

    def to_json(self) -> dict[str, Any]:
        """The record in a checkpoint's header."""
        return asdict(self)


def reduce_net(
    backbone: BackboneAdapter, images: Tensor, cost: Cost, further: Sequence[float] = (), seed: int = 0
) -> tuple[ToFe, TokenCounts, Report]:
    """Reduce a dense net to a budget. Its blocks keep their weights.

    Args:
        images: ``(B, 3, H, W)``, unlabelled, at least 64.
        cost: the budget.
        further: more budgets in the same unit, met by the same net with other token counts.

    Raises:
        InputError: the images are too few, or a budget is out of reach.
    """
    usable = _usable(images)
    # 1. What the dense net does.
    shuffled = usable[torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed))]
    judged_count = max(FEWEST_IMAGES // 4, round(len(shuffled) * _JUDGED_SHARE))
    judged = examine(backbone, shuffled[:judged_count], with_states=1)
    fit = examine(backbone, shuffled[judged_count:], with_states=_WITH_STATES)
    _check_numbers(fit, backbone)
    # 2. The plan, on a part of the images.
    fewer = 2 if gmacs(dense_macs(cost.backbone)) > _LARGE_GMACS else 1
    searched = Fitter(
        backbone,
        fit.part(slice(_SEARCH_FIT // fewer)),
        judged.part(slice(_SEARCH_JUDGED // fewer)),
        _SEARCH_PASSES,
        seed,
    )
    tried = search(searched, cost)
    # 3. The net, on all of them: the best plans once more, for the search saw few images.
    whole = Fitter(backbone, fit, judged, _PASSES, seed)
    nets = []
    with progress_bar("fitting", total=min(_FINALISTS, len(tried)), unit="net") as bar:
        for one in tried[:_FINALISTS]:
            model, outputs = whole.build(one.plan)
            nets.append((one.at_equal_time(judged.divergence(outputs)), one.plan, model))
            bar.update()
    _, plan, model = min(nets, key=lambda net: net[0])
    # 4. Token counts of further budgets, then small parameters tuned for all budgets.
    counts = [plan.counts, *(_counts_at(model, plan, replace(cost, target=target), judged) for target in further)]
    steps = round(_TUNING_STEPS / max(1.0, gmacs(dense_macs(cost.backbone))) ** 0.5)
    untuned, model = model, tune(model, counts, whole.at_first_selection(plan), fit, steps, seed)
    # 5. What became of each budget, and what each part brought.
    outcomes = [
        _outcome(replace(cost, target=target), plan, kept, run(model, kept, judged), judged)
        for target, kept in zip((cost.target, *further), counts, strict=True)
    ]
    without = {
        name: judged.divergence(run(twin, plan.counts, judged))
        for name, twin in [*_ablated(model), ("tuning", untuned)]
    }
    center_selectors(model, plan.counts, shuffled[judged_count:][:_CENTER_ON])
    report = Report(
        plan.stages,
        plan.aversion,
        tuple(outcomes),
        without,
        len(fit),
        len(judged),
        len(tried),
        seed,
        "nats" if judged.classifies else "cosine distance",
    )
    return model, plan.counts, report


@torch.no_grad()
def run(model: ToFe, counts: TokenCounts, evidence: Evidence) -> Tensor:
    """Outputs of a net with these counts, as in ``evidence``."""
    outputs = []
    for embedded in evidence.embedded.split(BATCH):
        stem = model.run_blocks(0, embedded)
        outputs.append(model.gathered_from(stem, counts).output)
    return torch.cat(outputs)


def _usable(images: Tensor) -> Tensor:
    """The images that show something. Raises :class:`InputError` if fewer than 64 do."""
    varied = show_something(images)
    flat = int((~varied).sum())
    if len(images) - flat < FEWEST_IMAGES:
        of_one_colour = f" ({flat} more are of one colour)" if flat else ""
        raise InputError(
            f"reduce: {len(images) - flat} images{of_one_colour}; selectors need at least {FEWEST_IMAGES}, better 1000"
        )
    return images[varied]


def _check_numbers(evidence: Evidence, backbone: BackboneAdapter) -> None:
    if not torch.isfinite(evidence.outputs).all():
        bad = [name for name, one in backbone.state_dict().items() if not torch.isfinite(one).all()]
        where = f"{bad[0]} holds NaN or infinity" if bad else "the dense net predicts NaN or infinity"
        raise InputError(f"{backbone.spec.name}: {where}; are the weights damaged?")


def _outcome(cost: Cost, plan: Plan, counts: TokenCounts, outputs: Tensor, judged: Evidence) -> Outcome:
    at = replace(cost, backbone=merging_spec(cost.backbone, plan.stages))
    return Outcome(
        target=cost.target,
        unit=cost.unit,
        counts=counts.kept,
        cost=round(at.of_counts(counts.kept), 6),
        divergence=round(judged.divergence(outputs), 5),
        agreement=round(judged.agreement(outputs), 2),
    )


def _counts_at(model: ToFe, plan: Plan, cost: Cost, judged: Evidence) -> TokenCounts:
    """The counts with which the net meets another budget best."""
    return min(counts_for(plan, cost), key=lambda counts: judged.divergence(run(model, counts, judged)))


def _ablated(model: ToFe) -> list[tuple[str, ToFe]]:
    """The net with one of its parts taken out again."""
    indifferent, unfitted = copy.deepcopy(model), copy.deepcopy(model)
    for selector in indifferent.selectors:
        assert isinstance(selector, ComparingSelector)
        with torch.no_grad():
            selector.aversion.zero_()
    for stage in range(len(unfitted.approximators)):
        unfitted.approximators[stage] = UpdateApproximator(model.backbone.spec.dim)
    return [("resemblance", indifferent.eval()), ("approximators", unfitted.eval())]
