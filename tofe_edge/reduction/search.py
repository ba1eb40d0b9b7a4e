"""The search for a reduction: where tokens are selected, and how many stay, by the divergence from the dense net."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

from tofe_edge.budget.cost import Cost, GmacsCost
from tofe_edge.errors import InputError
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.macs import product_macs, tofe_macs
from tofe_edge.reduction.fitting import Fitter, Plan, merging_spec

_PLACES = ((2, 4, 7), (1, 4, 8), (2, 5, 8), (3, 6, 9), (2, 4, 6, 8), (2, 5))
"""Selections that are tried, as blocks of a net of twelve: others are scaled."""

_BLOCKS = 12
_AVERSIONS = (8.0, 5.0, 12.0)
"""Weights of resemblance that are tried; the first one while places are. Without any, the divergence is half as large again."""

_FALL = 0.6
"""Exponent of the curve on which the first counts lie: they fall quickly in early blocks and slowly in late ones."""

_FEWEST = 4
"""Patch tokens that a stage keeps at least."""

_STEP = 1.12
"""Factor by which a stage's count is changed; the others make up for it."""

_SELECTION_SHARE = 0.012
"""Time of one more selection beyond its multiply-accumulates, as a share of the dense net's (topk, gather, softmax: XNNPACK)."""

_USUAL_SELECTIONS = 3

_PRODUCTS = 3.5
"""Time of a multiply-accumulate of two activations in floating point, in those of int8 weights (XNNPACK, AVX-512 VNNI)."""

_STEEPNESS = 2.5
"""The divergence falls with about this power of the work, so a plan that takes 1 % longer has to be 2.5 % better."""

_ROUNDS = 2


@dataclass(frozen=True)
class Judged:
    """A plan, and what it is worth.

    Attributes:
        divergence: from the dense net on the judged images.
        relative_time: of the plan, in that of its multiply-accumulates with int8 weights.
    """

    plan: Plan
    divergence: float
    relative_time: float

    def at_equal_time(self, divergence: float) -> float:
        """A divergence as it would be, had the plan the time of any other under the budget."""
        return float(divergence * self.relative_time**_STEEPNESS)

    @property
    def rank(self) -> float:
        """What plans are ranked by: the least is the best."""
        return self.at_equal_time(self.divergence)


def search(fitter: Fitter, cost: Cost) -> list[Judged]:
    """Try places, weights of resemblance and counts under the budget; every plan that was tried, the best first.

    Raises:
        InputError: no plan meets the budget.
    """
    tried: dict[Plan, Judged] = {}

    def best() -> Plan:
        return min(tried.values(), key=lambda one: one.rank).plan

    places = list(dict.fromkeys(_places(fitter.backbone.spec.depth)))
    first = [plan for stages in places if (plan := _first_plan(stages, _AVERSIONS[0], cost)) is not None]
    if not first:
        raise InputError(out_of_reach(cost, places))
    with progress_bar("searching", total=len(first), unit="plan") as bar:

        def judge(plans: Sequence[Plan]) -> None:
            new = [plan for plan in plans if plan not in tried]
            bar.total = len(tried) + len(new)
            for plan in new:
                tried[plan] = Judged(plan, fitter.divergence(plan), _relative_time(plan, cost))
                bar.update()

        # 1. Where tokens are selected.
        judge(first)
        # 2. How much resemblance weighs.
        judge([replace(best(), aversion=aversion) for aversion in _AVERSIONS[1:]])
        # 3. Tokens from one stage to another.
        for _ in range(_ROUNDS):
            judge(list(_neighbours(best(), cost)))
    return sorted(tried.values(), key=lambda one: one.rank)


def counts_for(plan: Plan, cost: Cost) -> list[TokenCounts]:
    """Token counts with which the net of a plan meets another budget.

    Raises:
        InputError: none do.
    """
    first = _first_plan(plan.stages, plan.aversion, cost)
    if first is None:
        raise InputError(out_of_reach(cost, [plan.stages]))
    return [first.counts, *(neighbour.counts for neighbour in _neighbours(first, cost))]


def out_of_reach(cost: Cost, places: Sequence[tuple[int, ...]]) -> str:
    """Why no plan meets the budget."""
    fewest = min(_at(cost, stages).of_counts((_FEWEST,) * len(stages)) for stages in places)
    return (
        f"a budget of {cost.target:g} {cost.unit} is out of reach: {cost.backbone.name} takes {fewest:.3g} (few tokens kept) to "
        f"{cost.dense:.3g} {cost.unit} (dense); choose one between them"
    )


def _places(depth: int) -> Iterator[tuple[int, ...]]:
    for places in _PLACES:
        scaled = tuple(max(1, round(block * depth / _BLOCKS)) for block in places)
        if len(set(scaled)) == len(scaled) and scaled[-1] < depth:
            yield scaled


def _at(cost: Cost, stages: tuple[int, ...]) -> Cost:
    """The cost of a net that merges, with selections before these blocks, and a target less the time of further selections."""
    extra = len(stages) - _USUAL_SELECTIONS
    target = cost.target - (_SELECTION_SHARE * cost.dense * extra if extra > 0 else 0.0)
    return replace(cost, backbone=merging_spec(cost.backbone, stages), target=target)


def _relative_time(plan: Plan, cost: Cost) -> float:
    """The time of a plan in that of its multiply-accumulates with int8 weights; 1 if the budget is one of time."""
    if not isinstance(cost, GmacsCost):
        return 1.0
    backbone = merging_spec(cost.backbone, plan.stages)
    total, products = tofe_macs(backbone, plan.counts.kept), product_macs(backbone, plan.counts.kept)
    return float(1 + (_PRODUCTS - 1) * products / total)


def _first_plan(stages: tuple[int, ...], aversion: float, cost: Cost) -> Plan | None:
    """Counts on a falling curve that meets the budget; ``None`` if none does."""
    depth, tokens = cost.backbone.depth, cost.backbone.patch_tokens
    middles = [(start + end) / 2 / depth for start, end in pairwise((*stages, depth))]

    def counts(slope: float) -> tuple[int, ...]:
        shares = (1 + slope * middle**_FALL for middle in middles)
        return tuple(min(tokens - 1, max(_FEWEST, round(tokens * share))) for share in shares)

    fitting = _largest(_at(cost, stages), counts, [-step / 1000 for step in range(3000)])
    return None if fitting is None else Plan(stages, TokenCounts(fitting), aversion)


def _neighbours(plan: Plan, cost: Cost) -> Iterator[Plan]:
    """Plans with more tokens in one stage, and fewer in another so that the budget is met."""
    kept, most = plan.counts.kept, cost.backbone.patch_tokens - 1
    for more, less in permutations(range(len(kept)), 2):
        changed = list(kept)
        changed[more] = min(most, max(kept[more] + 1, round(kept[more] * _STEP)))

        def counts(number: float, changed: list[int] = changed, less: int = less) -> tuple[int, ...]:
            return tuple(round(number) if stage == less else count for stage, count in enumerate(changed))

        fitting = _largest(_at(cost, plan.stages), counts, range(_FEWEST, kept[less]))
        if fitting is not None:
            yield replace(plan, counts=TokenCounts(fitting))


def _largest(
    cost: Cost, counts: Callable[[float], tuple[int, ...]], arguments: Sequence[float]
) -> tuple[int, ...] | None:
    """The counts of the last argument that meet the budget; counts rise with the arguments or stay."""
    ordered = sorted(arguments)
    position = bisect_right(ordered, cost.target, key=lambda argument: cost.of_counts(counts(argument)))
    return counts(ordered[position - 1]) if position else None
