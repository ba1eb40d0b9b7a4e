"""The course of a run: two parts, each with its own warm-up and cosine."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.training.config import TrainingConfig
from tofe_edge.training.schedule import Schedule

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
