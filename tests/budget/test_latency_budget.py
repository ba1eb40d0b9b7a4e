"""Choosing by latency: what fits, what is raised, what is scaled, and what is said."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from latency_tables import NET, OWN, table_for

from tofe_edge.budget.gmacs import WHOLE
from tofe_edge.budget.latency import (
    FREE,
    MARGIN,
    LatencyChoice,
    LatencyLimit,
    Net,
    choose_by_latency,
    forecast,
    raise_to_edges,
)
from tofe_edge.errors import GateError, InputError
from tofe_edge.io.labels import Classes
from tofe_edge.io.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.profiles import Alignment, LatencyTable, Step

BASE = Checkpoint(
    name="tofe", backbone_name=NET.name, overrides={}, token_counts=TokenCounts(OWN), gmacs=0.63, dense_gmacs=1.25,
    preprocessing=Preprocessing(224, 0.9, "bicubic", IMAGENET_MEAN, IMAGENET_STD), classes=Classes((), ()),
    accuracy={"top1": 75.0, "dataset": "ImageNet"}, training=None,
)  # fmt: skip
TOFE = Net(BASE, NET)
DENSE = Net(replace(BASE, name="dense", token_counts=None, gmacs=1.25, accuracy={"top1": 80.0}), NET)
INT8, FP32 = table_for(), table_for(precision="fp32", block_us=10.0)
STEPPED = table_for(step=Step(7, 0.028))
"""Its steps are flat: what a token costs is what a tooth falls."""

COUNTS = st.lists(st.integers(1, NET.patch_tokens), min_size=3, max_size=3).map(lambda kept: TokenCounts(tuple(kept)))


def choose(ms: float, nets: Sequence[Net], *tables: LatencyTable, first: str = "int8") -> LatencyChoice:
    """The choice, the precision ``first`` tried before the other."""
    precisions = sorted(("int8", "fp32"), key=lambda one: one != first)
    return choose_by_latency(nets, LatencyLimit(ms, "board", tables), precisions)


def test_the_most_accurate_that_fits_wins_in_the_precision_that_is_preferred() -> None:
    roomy = choose(100, [TOFE, DENSE], INT8, FP32)
    assert (roomy.forecast.net, roomy.forecast.table) == (DENSE, INT8)
    assert roomy.reason == f"most accurate of 2 that fit 100 ms (top-1 80.0 % on unnamed data){WHOLE}"
    assert [(other.net.checkpoint.name, other.table.precision) for other in roomy.others] == [
        ("dense", "fp32"),
        ("tofe", "int8"),
        ("tofe", "fp32"),
    ]
    assert choose(100, [TOFE, DENSE], INT8, FP32, first="fp32").forecast.table is FP32
    tight = choose(8.5, [TOFE, DENSE], INT8, FP32, first="fp32")
    assert (tight.forecast.net, tight.forecast.table) == (TOFE, INT8)
    assert tight.forecast.at_own_counts


def test_a_prediction_is_held_to_the_margin() -> None:
    ms = forecast(TOFE, BASE.token_counts, INT8).ms
    assert choose(ms / (1 - MARGIN) + 1e-6, [TOFE], INT8).forecast.at_own_counts
    assert not choose(ms / (1 - MARGIN) - 1e-6, [TOFE], INT8).forecast.at_own_counts


def test_counts_are_scaled_if_nothing_fits_with_a_note_on_accuracy() -> None:
    choice = choose(5.0, [TOFE, DENSE], INT8, FP32)
    counts = choice.forecast.counts
    assert counts is not None
    assert choice.forecast.ms <= 5.0 * (1 - MARGIN)
    assert not choice.forecast.at_own_counts
    assert all(count < own for count, own in zip(counts.kept, OWN))
    assert counts.kept[0] / counts.kept[1] == pytest.approx(OWN[0] / OWN[1], rel=0.1)
    assert "scaled down from 95,63,31; accuracy at these counts was not measured" in choice.reason
    assert len(choice.others) == 4


def test_counts_are_raised_to_the_edge_of_a_flat_step_and_said_so() -> None:
    choice = choose(100, [Net(replace(BASE, token_counts=TokenCounts((95, 64, 34))), NET)], STEPPED)
    assert choice.forecast.counts == TokenCounts((97, 69, 34))
    assert "counts 95,64,34 raised to the edge of their steps" in choice.reason


def test_counts_are_raised_to_alignment_where_it_pays() -> None:
    table = table_for(aligned=Alignment(16, 0.05))
    raised = raise_to_edges(forecast(TOFE, TokenCounts((94, 63, 20)), table), 100)
    assert raised.counts is not None
    assert raised.counts.kept[:2] == (95, 63)
    assert raised.ms < forecast(TOFE, TokenCounts((94, 63, 20)), table).ms


@given(COUNTS, st.sampled_from([INT8, STEPPED, table_for(aligned=Alignment(16, 0.02))]))
def test_raising_keeps_no_fewer_tokens_and_costs_next_to_nothing(counts: TokenCounts, table: LatencyTable) -> None:
    before = forecast(TOFE, counts, table)
    after = raise_to_edges(before, before.ms)
    free = raise_to_edges(before, 1e9)
    for raised, most in ((after, before.ms), (free, before.ms * (1 + FREE))):
        assert raised.counts is not None
        assert all(new >= old for new, old in zip(raised.counts.kept, counts.kept))
        assert max(raised.counts.kept) <= NET.patch_tokens
        assert raised.ms <= most


@given(st.floats(0.1, 40), st.sampled_from([INT8, FP32, STEPPED]), st.booleans())
def test_what_is_chosen_never_exceeds_the_limit(ms: float, table: LatencyTable, with_dense: bool) -> None:
    nets = [TOFE, DENSE] if with_dense else [TOFE]
    try:
        chosen = choose(ms, nets, table).forecast
    except GateError:
        assert forecast(TOFE, TokenCounts((1, 1, 1)), table).ms > ms * (1 - MARGIN)
        return
    assert chosen.ms <= ms * (1 - MARGIN)
    assert chosen.ms == forecast(chosen.net, chosen.counts, chosen.table).ms


def test_an_infeasible_limit_names_the_least_latency() -> None:
    with pytest.raises(
        GateError, match=r"2 ms: nothing fits; the least possible on board is ([\d.]+) ms .*1,1,1"
    ) as caught:
        choose(2.0, [TOFE, DENSE], INT8)
    least = float(str(caught.value).split("is ")[1].split(" ")[0])
    assert choose(least * 1.01, [TOFE], INT8).forecast.counts is not None
    with pytest.raises(GateError, match="a dense model has no token counts to lower"):
        choose(2.0, [DENSE], INT8)


def test_a_missing_table_names_those_there_are_and_what_to_run() -> None:
    with pytest.raises(InputError, match=r"profile board has no latency table for tofe in int8 or fp32 \(it has: none"):
        choose(5.0, [TOFE])
    other = replace(INT8, backbone="another_net")
    with pytest.raises(
        InputError, match=r"it has: another_net in int8\); run `tofe-edge calibrate --profile board --check"
    ):
        choose(5.0, [TOFE], other)
    with pytest.raises(InputError, match="no checkpoint to choose from"):
        choose(5.0, [], INT8)
