"""Tuned nets: nearer to the dense net at every budget, with the matrices that they had."""

import copy

import pytest
import torch
from conftest import tiny_tofe

from tofe_edge.model.backbones import TokenCounts
from tofe_edge.reduction.evidence import examine
from tofe_edge.reduction.fitting import Fitter, Plan
from tofe_edge.reduction.tuning import tune

PLAN = Plan((1, 2), TokenCounts((9, 4)), 5.0)
BUDGETS = [PLAN.counts, TokenCounts((6, 2))]


@pytest.fixture(scope="module")
def fitter() -> Fitter:
    backbone = tiny_tofe().backbone
    images = torch.randn(40, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return Fitter(backbone, examine(backbone, images[:24], 20), examine(backbone, images[24:], 1), passes=4, seed=0)


def test_predictions_come_nearer_at_every_budget(fitter: Fitter) -> None:
    model, _ = fitter.build(PLAN)
    stems, dense = fitter.at_first_selection(PLAN), fitter.fit
    tuned = tune(model, BUDGETS, stems, dense, steps=30, seed=0)
    for counts in BUDGETS:
        before, after = (dense.divergence(net.gathered_from(stems, counts).output.detach()) for net in (model, tuned))
        assert after < 0.8 * before


def test_what_changes(fitter: Fitter) -> None:
    """Approximators, and vectors of blocks behind the first selection; the net that was given stays as it was."""
    model, _ = fitter.build(PLAN)
    before = copy.deepcopy(model.state_dict())
    tuned = tune(model, BUDGETS, fitter.at_first_selection(PLAN), fitter.fit, steps=2, seed=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    changed = {key for key, value in tuned.state_dict().items() if not torch.equal(value, before[key])}
    assert {"approximators.0.fc.weight", "backbone.vit.blocks.1.norm1.weight", "backbone.vit.norm.bias"} <= changed
    backbone = {key for key in changed if not key.startswith("approximators.")}
    assert all(before[key].ndim == 1 and "blocks.0." not in key for key in backbone)
    assert not any(parameter.requires_grad for parameter in tuned.parameters())


def test_it_is_seeded(fitter: Fitter) -> None:
    model, _ = fitter.build(PLAN)
    stems, dense = fitter.at_first_selection(PLAN), fitter.fit
    one, same, other = (tune(model, BUDGETS, stems, dense, steps=2, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert not all(torch.equal(value, other[key]) for key, value in one.items())


def test_budgets_take_turns(fitter: Fitter) -> None:
    model, _ = fitter.build(PLAN)
    stems = fitter.at_first_selection(PLAN)
    both, one = (tune(model, budgets, stems, fitter.fit, 2, 0).state_dict() for budgets in (BUDGETS, BUDGETS[:1]))
    assert not all(torch.equal(value, one[key]) for key, value in both.items())
