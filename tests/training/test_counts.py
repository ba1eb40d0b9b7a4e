"""Token counts fitted to a budget, thresholds that keep them, the fading of the Gumbel noise, and the course of a run."""

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_tofe
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.budget.cost import TARGET_TOLERANCE, fit_counts
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import TokenCounts, create_backbone
from tofe_edge.model.macs import gmacs, tofe_macs
from tofe_edge.training import counts as counts_module
from tofe_edge.training.counts import center_selectors, measure_counts, typical_samples
from tofe_edge.training.recipe import TrainingConfig
from tofe_edge.training.schedule import Schedule, gumbel_sampler, noise_scale

_SPEC = create_backbone("deit_tiny_patch16_224").spec


def test_means_that_meet_the_target_are_only_rounded_half_up() -> None:
    means = (96.4, 48.5, 27.0)
    target = gmacs(tofe_macs(_SPEC, (96, 49, 27)))
    fitted = fit_counts(means, _SPEC, target)
    assert fitted.counts.kept == (96, 49, 27)
    assert fitted.factor == 1.0


@given(means=st.tuples(st.floats(40, 150), st.floats(25, 120), st.floats(10, 80)), target=st.floats(0.55, 0.75))
def test_fitted_counts_meet_any_target_within_reach(means: tuple[float, float, float], target: float) -> None:
    fitted = fit_counts(means, _SPEC, target)
    assert gmacs(tofe_macs(_SPEC, fitted.counts.kept)) == pytest.approx(target, rel=TARGET_TOLERANCE)
    assert all(1 <= count <= 196 for count in fitted.counts.kept)


def test_an_unreachable_target_gives_counts_in_range() -> None:
    assert fit_counts((100.0, 70.0, 30.0), _SPEC, 0.1).counts.kept < (60, 60, 60)
    assert max(fit_counts((100.0, 70.0, 30.0), _SPEC, 9.0).counts.kept) == 196


def test_the_noise_stays_fades_and_is_gone() -> None:
    scales = [noise_scale(step, 100, 0.6) for step in (0, 59, 60, 70, 80, 99)]
    assert scales == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.0, 0.0])
    assert noise_scale(99, 100, 1.0) == 1.0


def test_samples_follow_from_seed_and_step_alone() -> None:
    logits = torch.zeros(2, 50, 2)
    assert torch.equal(gumbel_sampler(0, 7)(logits), gumbel_sampler(0, 7)(logits))
    assert not torch.equal(gumbel_sampler(0, 7)(logits), gumbel_sampler(0, 8)(logits))
    assert not torch.equal(gumbel_sampler(0, 7)(logits), gumbel_sampler(1, 7)(logits))


def test_sampled_masks_are_hard_and_as_frequent_as_their_probability() -> None:
    logits = torch.log(torch.tensor([0.8, 0.2])).expand(1, 20_000, 2)
    kept = gumbel_sampler(0, 0)(logits)[..., 0]
    assert set(kept.round(decimals=5).unique().tolist()) == {0.0, 1.0}
    assert float(kept.mean()) == pytest.approx(0.8, abs=0.02)


def test_the_likelier_choice_is_taken_if_there_is_no_noise() -> None:
    logits = torch.log(torch.tensor([[[0.6, 0.4], [0.4, 0.6]]])).requires_grad_()
    kept = gumbel_sampler(0, 0, scale=0.0)(logits)[..., 0]
    assert kept.detach().round().tolist() == [[1.0, 0.0]]
    kept.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and bool((logits.grad != 0).all())


def test_a_run_has_one_target() -> None:
    with pytest.raises(InputError, match="either target_gmacs or target_ms"):
        TrainingConfig()
    with pytest.raises(InputError, match="either target_gmacs or target_ms"):
        TrainingConfig(target_gmacs=0.6, target_ms=5.0)
    with pytest.raises(InputError, match="target_ms must be a finite number greater than 0, not -1"):
        TrainingConfig(target_ms=-1.0)
    with pytest.raises(InputError, match="latency_table is for a target in milliseconds"):
        TrainingConfig(target_gmacs=0.6, latency_table="a_board int8")
    assert TrainingConfig(target_gmacs=0.6).to_json().keys().isdisjoint({"target_ms", "latency_table"})


CENTRED = torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kept", [(9, 5, 3), (16, 1, 8), (2, 12, 16)])
def test_centred_selectors_keep_the_counts_on_average(kept: tuple[int, int, int]) -> None:
    model = tiny_tofe()
    center_selectors(model, TokenCounts(kept), CENTRED)
    assert measure_counts(model, CENTRED).means == pytest.approx(kept, abs=0.051)  # one of 20 x 16 scores


def test_batch_mode_gives_what_it_gave() -> None:
    model, counts = tiny_tofe(), TokenCounts((9, 5, 3))
    with torch.no_grad():
        before = model.forward_batch(CENTRED, counts)
        center_selectors(model, counts, CENTRED)
        after = model.forward_batch(CENTRED, counts)
    torch.testing.assert_close(after.logits, before.logits)
    for one, other in zip(before.kept, after.kept):
        assert torch.equal(one, other)


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40, unique=True), st.data())
def test_the_threshold_has_as_many_scores_above_it_as_asked(scores: list[float], data: st.DataObject) -> None:
    above = data.draw(st.integers(1, len(scores)))
    found = counts_module._threshold(torch.tensor(scores, dtype=torch.float64), above)
    assert sum(score > float(found) for score in scores) == above


def test_folders_may_have_any_names(image_folder: Path) -> None:
    (image_folder / "1").rename(image_folder / "no class of the net")
    taken = [typical_samples(image_folder, ("0", "1"), seed, 4) for seed in range(8)]
    assert all(len({sample.path for sample in samples}) == 4 for samples in taken)
    assert taken[0] == typical_samples(image_folder, ("0", "1"), 0, 4)
    assert len({tuple(samples) for samples in taken}) > 1


def test_tables_and_shards_keep_their_own_rules(image_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "some.csv"
    table.write_text("path,label\nimages/0/0.png,0\nimages/1/2.png,1\n")
    assert [sample.label for sample in typical_samples(table, ("0", "1"), 0)] == [0, 1]
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/0.tar", "w") as shard:
        shard.add(image_folder / "1/0.png", "1/0.png")
    (sample,) = typical_samples(tmp_path / "shards", ("0", "1"), 0)
    assert (sample.location, sample.label) == (tmp_path / "shards/0.tar/1/0.png", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        typical_samples(tmp_path / "empty", ("0", "1"), 0)


CONFIG = TrainingConfig(target_gmacs=1.0, epochs=10, fixed_epochs=2, batch_size=8)


def test_epochs_become_steps() -> None:
    assert Schedule.of(CONFIG, 80) == Schedule(selecting=100, gathered=0, fixed=20)
    assert Schedule.of(replace(CONFIG, gathered_epochs=4), 80) == Schedule(selecting=60, gathered=40, fixed=20)


@given(st.floats(0.01, 20), st.floats(0, 40), st.integers(1, 500))
def test_a_run_has_its_epochs_however_they_are_shared_out(epochs: float, gathered: float, samples: int) -> None:
    schedule = Schedule.of(replace(CONFIG, epochs=epochs, gathered_epochs=gathered), samples)
    assert schedule.steps == max(1, round(epochs * samples / 8))
    assert schedule.selecting >= 0 and schedule.gathered >= 0
    assert [schedule.gathers(step) for step in range(schedule.steps)].count(True) == schedule.gathered
    assert not any(schedule.gathers(step) and schedule.fixes_backbone(step) for step in range(schedule.steps))


def test_either_part_starts_low_rises_and_falls_to_nothing() -> None:
    schedule = Schedule(selecting=100, gathered=100, fixed=0)
    rates = [schedule.lr_factor(step) * schedule.warm_up(step) for step in range(200)]
    assert rates[:100] == pytest.approx(rates[100:])
    assert rates[0] == pytest.approx(0.5) and rates[1] > 0.99
    assert rates[2:100] == sorted(rates[2:100], reverse=True)
    assert rates[99] < 0.001
