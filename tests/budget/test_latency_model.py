"""Predicting latency from a table: the arithmetic, and what must hold for every table."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from latency_tables import NET, OWN, ms_by_hand, table_for

from tofe_edge.budget.latency_model import (
    block_ms,
    check_sum,
    curve,
    find_alignment,
    find_step,
    find_table,
    fits,
    predict_ms,
    rest_ms,
)
from tofe_edge.errors import DeviceError, InputError
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.profiles import Alignment, Anchor, Step

COUNTS = st.lists(st.integers(1, NET.patch_tokens), min_size=3, max_size=3)
STEPPED = table_for(step=Step(7, 0.02), aligned=Alignment(16, 0.01))
POINTS = st.lists(
    st.tuples(st.integers(1, 197), st.floats(1e-4, 10)), min_size=2, max_size=12, unique_by=lambda point: point[0]
).map(lambda points: tuple(sorted(points)))
RISING = POINTS.map(lambda points: tuple(zip([n for n, _ in points], sorted(ms for _, ms in points))))


@given(COUNTS, st.floats(0, 5))
def test_a_prediction_is_the_sum_of_the_parts_and_the_rest(kept: list[int], rest_ms: float) -> None:
    table, counts = table_for(rest_ms=rest_ms), tuple(kept)
    assert predict_ms(table, NET, TokenCounts(counts)) == pytest.approx(ms_by_hand(table, NET, counts, rest_ms))


def test_predictions_of_measured_nets_are_the_measurements() -> None:
    for table in (table_for(), STEPPED):
        assert predict_ms(table, NET, TokenCounts(OWN)) == pytest.approx(table.tofe[0].ms)
        assert predict_ms(table, NET, None) == table.dense


@pytest.mark.parametrize(("rest_ms", "fine"), [(0.3, True), (-1.0, True), (9.0, False), (-5.0, False)])
def test_parts_that_do_not_add_up_to_the_whole_are_refused(rest_ms: float, fine: bool) -> None:
    table = table_for(block_us=6.0)
    moved = replace(table, tofe=(replace(table.tofe[0], ms=table.tofe[0].ms - 0.3 + rest_ms),))
    if fine:
        check_sum(moved, NET)
    else:
        with pytest.raises(DeviceError, match="the device was busy or changed its clock"):
            check_sum(moved, NET)


def test_a_table_serves_nets_with_a_smaller_head() -> None:
    table, five = table_for(), replace(NET, classes=5)
    assert find_table([table], five, "int8") is table and not fits(table_for(five), NET)
    assert find_table([table, table_for(five)], five, "int8") == table_for(five), "its own, if there is one"
    assert predict_ms(table, five, TokenCounts(OWN)) == predict_ms(table, NET, TokenCounts(OWN))


def test_several_anchors_contribute_the_mean_of_their_rest() -> None:
    table = table_for(rest_ms=0.0)
    both = replace(table, tofe=tuple(Anchor(OWN, table.tofe[0].ms + more) for more in (0.1, 0.3)))
    assert predict_ms(both, NET, TokenCounts(OWN)) == pytest.approx(table.tofe[0].ms + 0.2)


def test_what_is_beyond_the_parts_does_not_depend_on_where_selections_stand() -> None:
    table, moved = table_for(rest_ms=0.4), replace(NET, stages=(1, 4, 8))
    assert rest_ms(table, moved) == pytest.approx(0.4)
    # Two blocks less on all tokens, and one more in the second stage than in the first.
    blocks = block_ms(table, NET)
    before, after = (predict_ms(table, net, TokenCounts(OWN)) for net in (NET, moved))
    all_tokens, first, second, third = (blocks[count + 1] for count in (NET.patch_tokens, *OWN))
    assert after - before == pytest.approx(-2 * all_tokens + 0 * first + second + third)


@given(COUNTS, st.integers(0, 2), st.sampled_from([table_for(), table_for(step=Step(7, 0.02))]))
def test_one_token_more_never_takes_less(kept: list[int], stage: int, table) -> None:  # type: ignore[no-untyped-def]
    flat = replace(table, approximator=((1, 0.01), (196, 0.01)))  # more kept is less to approximate
    more = [min(count + (stage == index), NET.patch_tokens) for index, count in enumerate(kept)]
    assert predict_ms(flat, NET, TokenCounts(tuple(more))) >= predict_ms(flat, NET, TokenCounts(tuple(kept)))


@given(RISING, st.none() | st.builds(Step, st.integers(2, 32), st.floats(1e-4, 1)))
def test_a_curve_never_falls_and_passes_through_points_that_do_not(points, step) -> None:  # type: ignore[no-untyped-def]
    found = curve(points, 197, step)
    assert len(found) == 198
    assert found[0] == 0.0
    assert np.all(np.diff(found) >= 0)
    if step is None:
        assert [float(found[tokens]) for tokens, _ in points[:2]] == pytest.approx([ms for _, ms in points[:2]])
        assert np.all(found[points[0][0] :] >= points[0][1] * (1 - 1e-9))


@given(POINTS, st.integers(2, 32), st.floats(1e-4, 1))
def test_alignment_spares_at_its_multiples_and_nowhere_else(points, width: int, ms: float) -> None:  # type: ignore[no-untyped-def]
    plain = curve(tuple((n, value + 1) for n, value in points), 197)
    aligned = Alignment(width, min(ms, 0.5))
    shifted = tuple((n, value + 1 - (aligned.ms if n % width == 0 else 0)) for n, value in points)
    found = curve(shifted, 197, None, aligned)
    every = np.arange(1, 198)
    expected = np.maximum(plain[1:] - np.where(every % width == 0, aligned.ms, 0), 0)
    assert found[1:] == pytest.approx(expected)


def test_teeth_stand_between_points_that_are_far_apart() -> None:
    found = block_ms(STEPPED, NET)
    assert found[141] - found[140] == pytest.approx(0.004 + 0.02 * 6 / 7)  # 140 is the edge of a step of 7
    assert found[144] < found[143]


def test_the_table_for_training_is_a_copy() -> None:
    block_ms(STEPPED, NET)[:] = -1
    assert block_ms(STEPPED, NET).min() == 0


@given(st.integers(2, 12), st.floats(0.02, 0.2), st.integers(0, 99))
def test_a_step_is_detected_in_noise(width: int, height: float, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, height / 30, 25)
    points = tuple(
        (n, 0.1 + n * 0.002 + height * (-(-n // width) - n / width) + float(extra))
        for n, extra in zip(range(49, 74), noise)
    )
    found = find_step(points)
    assert found is not None
    assert found.tokens == width
    assert found.ms == pytest.approx(height, rel=0.3)


def test_no_step_is_seen_in_noise_alone_or_in_too_few_points() -> None:
    generator = np.random.default_rng(0)
    draws = [
        find_step(tuple((n, 1 + 0.01 * n + float(generator.normal(0, 0.01))) for n in range(49, 74)))
        for _ in range(200)
    ]
    assert sum(found is not None for found in draws) <= 10
    assert find_step(((1, 1.0), (2, 2.0))) is None


@given(st.sampled_from([4, 8, 16, 32]), st.none() | st.just(Step(7, 0.04)))
def test_an_alignment_is_detected_beside_a_step(width: int, step: Step | None) -> None:
    near = sorted({*range(49, 74), *(count + beside for count in (32, 48, 80, 96) for beside in (-1, 0, 1))})
    noise = np.random.default_rng(width).normal(0, 0.001, len(near))
    teeth = [0.0 if step is None else step.ms * (-(-n // step.tokens) - n / step.tokens) for n in near]
    points = tuple(
        (n, 0.1 + n * 0.002 + tooth - (0.01 if n % width == 0 else 0) + float(extra))
        for n, tooth, extra in zip(near, teeth, noise)
    )
    found = find_alignment(points, step)
    assert found is not None
    assert found.tokens == width
    assert found.ms == pytest.approx(0.01, rel=0.3)
    plain = tuple((n, 0.1 + n * 0.002 + tooth + float(extra)) for n, tooth, extra in zip(near, teeth, noise))
    assert find_alignment(plain, step) is None


def test_a_table_of_another_net_is_refused() -> None:
    other = replace(NET, depth=6, stages=(1, 2, 3))
    assert fits(table_for(), NET)
    assert not fits(table_for(), other)
    with pytest.raises(InputError, match=r"of a_net \(196 patch tokens, depth 12.*not of a_net \(196, 6.*calibrate"):
        predict_ms(table_for(), other, TokenCounts(OWN))
    with pytest.raises(InputError, match="only 196 patch tokens"):
        predict_ms(table_for(), NET, TokenCounts((197, 1, 1)))
    with pytest.raises(InputError, match="has 3 stages, not 2"):
        predict_ms(replace(table_for(), tofe=(Anchor((3, 2), 1.0),)), NET, TokenCounts(OWN))


def test_a_table_is_chosen_by_precision() -> None:
    tables = [table_for(), table_for(precision="fp32")]
    assert find_table(tables, NET, "fp32") is tables[1]
    assert find_table(tables[:1], NET, "fp32") is None
    assert find_table(tables, replace(NET, name="other"), "fp32") is None
