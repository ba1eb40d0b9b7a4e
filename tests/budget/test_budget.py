"""The budget selector: the most accurate checkpoint that fits, and why."""

import re
from dataclasses import replace

import pytest
from conftest import TINY_COUNTS
from hypothesis import given, settings
from hypothesis import strategies as st

from tofe_edge.budget.gmacs import TOLERANCE, WHOLE, Budget, choose
from tofe_edge.errors import GateError
from tofe_edge.io.labels import Classes
from tofe_edge.io.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tofe_edge.model.checkpoint import Checkpoint

BASE = Checkpoint(
    name="", backbone_name="deit_tiny_patch16_224", overrides={}, token_counts=TINY_COUNTS, gmacs=1.0, dense_gmacs=1.25,
    preprocessing=Preprocessing(224, 0.9, "bicubic", IMAGENET_MEAN, IMAGENET_STD), classes=Classes((), ()),
    accuracy=None, training=None,
)  # fmt: skip


def candidate(name: str, gmacs: float, top1: float | None) -> Checkpoint:
    accuracy = None if top1 is None else {"top1": top1, "dataset": "ImageNet"}
    return replace(BASE, name=name, gmacs=gmacs, accuracy=accuracy)


SMALL, MIDDLE, LARGE = candidate("small", 0.4, 60.0), candidate("middle", 0.7, 68.0), candidate("large", 1.2, 72.0)


@pytest.mark.parametrize(
    ("gmacs", "name"),
    [(0.4, "small"), (0.69, "small"), (0.7, "middle"), (1.1, "middle"), (1.2, "large"), (99, "large")],
)
def test_the_most_accurate_that_fits_wins(gmacs: float, name: str) -> None:
    assert choose([LARGE, SMALL, MIDDLE], Budget(gmacs, "test")).checkpoint.name == name


def test_ties_go_to_the_cheaper_then_to_the_name() -> None:
    equals = [candidate("b", 0.5, 68.0), candidate("c", 0.6, 68.0), candidate("a", 0.5, 68.0)]
    assert choose(equals, Budget(1.0, "test")).checkpoint.name == "a"
    assert choose(equals[:2], Budget(1.0, "test")).checkpoint.name == "b"


def test_an_unmeasured_checkpoint_loses_against_any_measured_one_and_wins_alone() -> None:
    unmeasured = candidate("unmeasured", 0.5, None)
    assert choose([unmeasured, candidate("bad", 0.9, 0.0)], Budget(1.0, "test")).checkpoint.name == "bad"
    alone = choose([unmeasured], Budget(1.0, "test"))
    assert alone.checkpoint is unmeasured
    assert "accuracy not measured" in alone.reason


def test_one_per_cent_over_the_budget_is_tolerated_and_no_more() -> None:
    assert TOLERANCE == 0.01
    assert choose([candidate("edge", 1.0099, 60.0)], Budget(1.0, "test")).checkpoint.name == "edge"
    with pytest.raises(GateError):
        choose([candidate("over", 1.0101, 60.0)], Budget(1.0, "test"))


def test_an_infeasible_budget_names_the_range_and_what_to_try() -> None:
    with pytest.raises(GateError) as caught:
        choose([LARGE, MIDDLE, SMALL], Budget(0.2, "profile my_board"))
    message = str(caught.value)
    assert "budget 0.2 GMACs (profile my_board)" in message
    assert "0.40 to 1.20 GMACs" in message
    assert "Raise --max-gmacs to 0.40" in message
    assert caught.value.exit_code == 1


@settings(max_examples=200, deadline=None)
@given(st.floats(0.001, 20))
def test_following_the_advice_to_raise_the_budget_helps(cost: float) -> None:
    only = candidate("only", cost, 60.0)
    with pytest.raises(GateError) as caught:
        choose([only], Budget(cost / 2, "test"))
    advice = re.search(r"Raise --max-gmacs to ([\d.]+),", str(caught.value))
    assert advice is not None
    assert choose([only], Budget(float(advice[1]), "test")).checkpoint is only
    assert float(advice[1]) <= cost + 0.01


def test_a_dense_net_that_fits_is_chosen_and_called_so() -> None:
    dense = replace(candidate("dense", 1.2, 72.0), token_counts=None)
    assert choose([MIDDLE, dense], Budget(1.2, "test")).reason.endswith(f"(top-1 72.0 % on ImageNet){WHOLE}")
    assert choose([MIDDLE, dense], Budget(0.9, "test")).checkpoint is MIDDLE
    with pytest.raises(GateError, match="or leave --dense out"):
        choose([dense], Budget(0.9, "test"))


def test_an_empty_zoo_says_how_to_get_a_checkpoint() -> None:
    with pytest.raises(GateError, match="no checkpoint to choose from; train one"):
        choose([], Budget(1.0, "test"))


def test_runners_up_are_all_the_others_with_their_verdicts_fitting_ones_first() -> None:
    choice = choose([SMALL, LARGE, MIDDLE, candidate("dear", 0.75, 61.0)], Budget(0.8, "test"))
    assert choice.checkpoint is MIDDLE
    assert choice.reason == "most accurate of 3 that fit 0.80 GMACs (top-1 68.0 % on ImageNet)"
    assert [(runner.checkpoint.name, runner.fits) for runner in choice.runners_up] == [
        ("dear", True),
        ("small", True),
        ("large", False),
    ]
    verdicts = [runner.verdict for runner in choice.runners_up]
    assert verdicts[0] == "fits, less accurate (top-1 61.0 % on ImageNet)"
    assert verdicts[2] == "0.40 GMACs over budget (top-1 72.0 % on ImageNet)"


CANDIDATES = st.lists(
    st.builds(
        candidate,
        st.text("abc", min_size=1, max_size=3),
        st.floats(0.01, 20),
        st.none() | st.floats(0, 100) | st.sampled_from([50.0, 60.0]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(CANDIDATES, st.floats(0.01, 20))
def test_the_choice_fits_and_no_fitting_one_is_more_accurate(checkpoints: list[Checkpoint], gmacs: float) -> None:
    fitting = [checkpoint for checkpoint in checkpoints if checkpoint.gmacs <= gmacs * (1 + TOLERANCE)]
    if not fitting:
        with pytest.raises(GateError):
            choose(checkpoints, Budget(gmacs, "test"))
        return
    choice = choose(checkpoints, Budget(gmacs, "test"))
    assert any(choice.checkpoint is checkpoint for checkpoint in fitting)
    assert choice.checkpoint.top1 == max(checkpoint.top1 for checkpoint in fitting)
    equals = [checkpoint for checkpoint in fitting if checkpoint.top1 == choice.checkpoint.top1]
    assert choice.checkpoint.gmacs == min(checkpoint.gmacs for checkpoint in equals)
    assert len(choice.runners_up) == len(checkpoints) - 1
    assert sum(runner.fits for runner in choice.runners_up) == len(fitting) - 1
