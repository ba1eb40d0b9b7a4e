"""The search with a made-up fitter, whose divergence is a formula of the plan."""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_tables import NET, table_for

from tofe_edge.budget.cost import Cost, GmacsCost, LatencyCost
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import Backbone, TokenCounts
from tofe_edge.profiles import Alignment, Step
from tofe_edge.reduction import search as searching
from tofe_edge.reduction.fitting import Fitter, Plan
from tofe_edge.reduction.search import counts_for, search

DENSE = GmacsCost(NET, 1.0).dense
PLAN = Plan((2, 4, 7), TokenCounts((95, 63, 31)), 8.0)


@dataclass
class MadeUp:
    """Just what the search asks of a fitter."""

    formula: Callable[[Plan], float]
    spec: Backbone = NET

    @property
    def backbone(self) -> "MadeUp":
        return self

    def divergence(self, plan: Plan) -> float:
        return self.formula(plan)


def fitter(formula: Callable[[Plan], float], spec: Backbone = NET) -> Fitter:
    return cast(Fitter, MadeUp(formula, spec))


def chance(plan: Plan) -> float:
    """Any number, the same for equal plans."""
    return zlib.crc32(repr(plan).encode()) / 2**32


def price(cost: Cost, plan: Plan) -> float:
    return replace(cost, backbone=replace(NET, stages=plan.stages, reduction="merging")).of_counts(plan.counts.kept)


def in_ms(share: float, **teeth: object) -> Cost:
    cost = LatencyCost(NET, 1.0, table_for(**teeth), "a_board")  # type: ignore[arg-type]
    return replace(cost, target=share * cost.dense)


COSTS: dict[str, Callable[[float], Cost]] = {
    "GMACs": lambda share: GmacsCost(NET, share * DENSE),
    "ms": in_ms,
    "ms with steps and dips": lambda share: in_ms(share, step=Step(7, 0.04), aligned=Alignment(16, 0.02)),
}


@pytest.mark.parametrize("unit", COSTS)
@settings(max_examples=8)
@given(share=st.floats(0.25, 0.99))
def test_no_plan_that_is_tried_is_over_the_budget(unit: str, share: float) -> None:
    cost = COSTS[unit](share)
    tried = search(fitter(chance), cost)
    assert max(price(cost, one.plan) for one in tried) <= cost.target
    assert all(one.divergence == chance(one.plan) for one in tried)
    assert [one.rank for one in tried] == sorted(one.rank for one in tried)
    # Under a budget in GMACs the time of products counts; one in milliseconds holds it already.
    assert all((one.rank == one.divergence) is (unit != "GMACs") for one in tried if one.divergence)
    assert len({one.plan for one in tried}) == len(tried)
    for plan in (one.plan for one in tried):
        assert all(1 <= count < NET.patch_tokens for count in plan.counts.kept)
        assert all(price(cost, replace(plan, counts=counts)) <= cost.target for counts in counts_for(plan, cost))


def test_a_planted_optimum_is_found() -> None:
    def formula(plan: Plan) -> float:
        kept = plan.counts.kept
        return (plan.stages != (2, 4, 6, 8)) + abs(plan.aversion - 12) / 10 + abs(math.log(kept[0] / kept[-1] / 4))

    tried = search(fitter(formula), GmacsCost(NET, 0.6 * DENSE))
    best = tried[0].plan
    assert (best.stages, best.aversion) == ((2, 4, 6, 8), 12.0)
    # Counts moved from the first ones towards a ratio of 4, as far as its steps go.
    start = counts_for(best, GmacsCost(NET, 0.6 * DENSE))[0].kept

    def distance(kept: Sequence[int]) -> float:
        return abs(math.log(kept[0] / kept[-1] / 4))

    assert distance(best.counts.kept) < min(distance(start), max(0.15, distance(start) - 0.2))


def test_first_counts_use_the_budget_up() -> None:
    cost = GmacsCost(NET, 0.5 * DENSE)
    first = counts_for(PLAN, cost)[0]
    assert first.kept == tuple(sorted(first.kept, reverse=True))
    assert price(cost, replace(PLAN, counts=first)) > 0.99 * cost.target


def test_deeper_and_shallower_nets_have_places_of_their_own() -> None:
    for depth in (4, 6, 12, 24):
        places = list(searching._places(depth))
        assert places and all(list(one) == sorted(set(one)) and one[0] >= 1 and one[-1] < depth for one in places)


@pytest.mark.parametrize("share", [0.001, 0.05])
def test_a_budget_out_of_reach_is_one_line(share: float) -> None:
    cost = GmacsCost(NET, share * DENSE)
    with pytest.raises(
        InputError, match=f"{cost.target:g} GMACs is out of reach: a_net takes 0.1.* to {DENSE:.3g} GMACs"
    ):
        search(fitter(chance), cost)
    with pytest.raises(InputError, match="out of reach"):
        counts_for(PLAN, cost)
