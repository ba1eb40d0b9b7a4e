"""Fitted parts: regression against NumPy, selectors that find a planted signal, nets that keep the dense net's blocks."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_tofe

from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ComparingSelector, UpdateApproximator
from tofe_edge.reduction.evidence import examine
from tofe_edge.reduction.fitting import Fitter, Plan, advance, fit_selector, principal_directions
from tofe_edge.reduction.reduce import run

PLAN = Plan((1, 2), TokenCounts((9, 4)), 5.0)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def fitter() -> Fitter:
    backbone = tiny_tofe().backbone
    images = noise(40, 3, 64, 64)
    return Fitter(backbone, examine(backbone, images[:24], 20), examine(backbone, images[24:], 1), passes=4, seed=0)


def test_principal_directions() -> None:
    patches = noise(20, 9, 12) * torch.linspace(3, 0.1, 12)
    directions = principal_directions(patches, 5)
    torch.testing.assert_close(directions @ directions.T, torch.eye(5))
    assert torch.equal(directions, principal_directions(patches.clone(), 5))
    # Signs are settled, and the first direction is the one in which rows are longest.
    assert (directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)) > 0).all()
    rows = torch.nn.functional.normalize(torch.nn.functional.layer_norm(patches, (12,)), dim=-1).flatten(0, 1)
    lengths = (rows @ directions.T).square().sum(dim=0)
    assert (lengths.diff() <= 0).all()
    assert lengths[0] == pytest.approx(float(torch.linalg.svdvals(rows)[0] ** 2), rel=1e-4)
    # There are no more than channels.
    padded = principal_directions(patches, 16)
    assert padded.shape == (16, 12) and not padded[12:].any()


def test_a_selector_learns_a_planted_signal() -> None:
    patches = noise(48, 12, 16)
    importance = (3 * patches[..., 5]).softmax(dim=1)

    def loss(selector: ComparingSelector) -> float:
        logits = selector.by_importance(patches)
        return float(-(importance * (logits[..., 0] - logits[..., 1]).log_softmax(dim=1)).sum(dim=1).mean())

    with torch.no_grad():
        few, many = (fit_selector(patches, importance, passes, seed=0) for passes in (1, 60))
        assert loss(many) < loss(few) - 0.3
        scores = many(patches)[..., 0] - many(patches)[..., 1]
    ranks = [one.argsort(dim=1).argsort(dim=1).float().flatten() for one in (scores, importance)]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.7
    assert not any(parameter.requires_grad for parameter in many.parameters()) and float(many.aversion) == 0


def test_fitting_is_seeded_and_leaves_the_generator_alone() -> None:
    patches, importance = noise(20, 12, 16), noise(20, 12, seed=1).softmax(dim=1)
    torch.manual_seed(7)
    first = fit_selector(patches, importance, 2, seed=0)
    drawn = torch.rand(1)
    second, other = (fit_selector(patches, importance, 2, seed) for seed in (0, 1))
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1))
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    assert not torch.equal(first.fc1.weight, other.fc1.weight)


def test_a_built_net_is_the_dense_one_with_fitted_parts(fitter: Fitter) -> None:
    model, logits = fitter.build(PLAN)
    assert (model.backbone.spec.stages, model.backbone.spec.reduction) == (PLAN.stages, "merging")
    assert fitter.backbone.spec.reduction == "paper"
    dense = fitter.backbone.state_dict()
    assert all(value.data_ptr() == dense[key].data_ptr() for key, value in model.backbone.state_dict().items())
    assert [float(selector.aversion) for selector in model.selectors] == [5.0, 5.0]  # type: ignore[arg-type]
    # What it says of its own logits is what the net computes in the form that is exported.
    torch.testing.assert_close(logits, run(model, PLAN.counts, fitter.judged), atol=1e-4, rtol=1e-4)


def test_another_plan_does_not_change_a_net_that_was_built(fitter: Fitter) -> None:
    model, _ = fitter.build(PLAN)
    again = {key: value.clone() for key, value in model.state_dict().items()}
    fitter.build(replace(PLAN, aversion=0.0, counts=TokenCounts((6, 5))))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.items())
    assert fitter.divergence(PLAN) == fitter.divergence(PLAN)


@torch.no_grad()
def test_the_approximator_brings_tokens_nearer_the_dense_net(fitter: Fitter) -> None:
    model, _ = fitter.build(PLAN)
    number, prefix = PLAN.counts.kept[0], fitter.backbone.spec.prefix_tokens
    tokens, target = model.run_blocks(0, fitter.fit.embedded), fitter.fit.states[:, PLAN.stages[1]].float()
    weights = fitter.fit.future_importance(PLAN.stages[1])[: len(target), :, None]

    def missing() -> float:
        after = advance(model, 0, number, tokens)[: len(target), prefix:]
        # The mean of a token's channels reaches nothing: LayerNorm takes it off.
        return float((weights * (after - target).square()).sum())

    fitted = missing()
    model.approximators[0] = UpdateApproximator(fitter.backbone.spec.dim)
    assert fitted < missing()
