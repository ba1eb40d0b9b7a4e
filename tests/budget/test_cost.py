"""What a net costs: GMACs, and milliseconds of made-up latency tables with steps and dips."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_tables import NET, table_for

from tofe_edge.budget.cost import Cost, GmacsCost, LatencyCost, rising_parabola
from tofe_edge.budget.latency_model import predict_ms
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.macs import tofe_macs
from tofe_edge.profiles import Alignment, LatencyTable, Step

TABLES = {
    "even": table_for(),
    "steps": table_for(step=Step(7, 0.04)),
    "wide steps": table_for(step=Step(32, 0.12)),
    "dips": table_for(aligned=Alignment(16, 0.02)),
    "steps and dips": table_for(step=Step(5, 0.03), aligned=Alignment(16, 0.02)),
}
every_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
counts = st.lists(st.integers(1, NET.patch_tokens), min_size=3, max_size=3)


def in_ms(table: LatencyTable, target: float = 5.0) -> LatencyCost:
    return LatencyCost(NET, target, table, "a_board")


def tensors(kept: Sequence[float]) -> list[torch.Tensor]:
    """One sample's counts, with a gradient."""
    return [torch.tensor([float(count)], requires_grad=True) for count in kept]


def slopes(cost: Cost, kept: Sequence[float]) -> list[float]:
    """The gradient of the cost in each stage's count."""
    given_counts = tensors(kept)
    cost.of(given_counts).sum().backward()  # type: ignore[no-untyped-call]
    return [float(count.grad) for count in given_counts if count.grad is not None]


@settings(max_examples=30)
@given(kept=counts, table=st.sampled_from(list(TABLES.values())))
def test_the_cost_of_whole_counts_is_the_prediction(kept: list[int], table: LatencyTable) -> None:
    cost, wanted = in_ms(table), predict_ms(table, NET, TokenCounts(tuple(kept)))
    assert cost.of_counts(kept) == wanted
    assert float(cost.of(tensors(kept)).detach()) == pytest.approx(wanted, rel=1e-6)


@settings(max_examples=30)
@given(kept=counts, stage=st.integers(0, 2), share=st.floats(0, 1))
def test_the_cost_is_linear_between_whole_counts(kept: list[int], stage: int, share: float) -> None:
    cost = in_ms(TABLES["steps and dips"])
    kept[stage] = min(kept[stage], NET.patch_tokens - 1)
    higher = [count + (index == stage) for index, count in enumerate(kept)]
    between = [count + share * (index == stage) for index, count in enumerate(kept)]
    wanted = (1 - share) * cost.of_counts(kept) + share * cost.of_counts(higher)
    assert float(cost.of(tensors(between)).detach()) == pytest.approx(wanted, rel=1e-5)


@settings(max_examples=20)
@given(kept=counts)
def test_a_smooth_table_has_the_gradient_of_its_curve(kept: list[int]) -> None:
    tokens = (2, *range(8, 197, 8), 197)
    table = replace(TABLES["even"], block=tuple((n, 0.01 + 2e-3 * n + 1e-5 * n * n) for n in tokens))
    cost, step = in_ms(table), 8
    for stage, slope in enumerate(slopes(cost, kept)):
        middle = min(max(kept[stage], 1 + step), NET.patch_tokens - step)
        around = [[middle + way * step if at == stage else one for at, one in enumerate(kept)] for way in (-1, 1)]
        at_middle = [middle if at == stage else one for at, one in enumerate(kept)]
        wanted = (cost.of_counts(around[1]) - cost.of_counts(around[0])) / (2 * step)
        assert slopes(cost, at_middle)[stage] == pytest.approx(wanted, rel=0.03)
        assert slope > 0


@every_table
def test_teeth_and_dips_hardly_change_the_gradient(table: LatencyTable) -> None:
    even = slopes(in_ms(TABLES["even"]), (95, 63, 31))
    assert slopes(in_ms(table), (95, 63, 31)) == pytest.approx(even, rel=0.12)


@settings(max_examples=30)
@given(kept=st.lists(st.integers(0, NET.patch_tokens), min_size=3, max_size=3), table=st.sampled_from(list(TABLES)))
def test_one_token_more_never_pulls_downwards(kept: list[int], table: str) -> None:
    """Also with no token kept at all, which a sample in training can have."""
    assert min(slopes(in_ms(TABLES[table]), kept)) > 0


@every_table
@pytest.mark.parametrize("share", [0.2, 0.4, 0.8])
@pytest.mark.parametrize("start", [(20.0, 10.0, 5.0), (190.0, 190.0, 190.0)], ids=["from below", "from above"])
def test_descending_the_loss_ends_at_the_target(table: LatencyTable, share: float, start: tuple[float, ...]) -> None:
    """Of counts that differ between samples, as they do in training; no tooth is a trap."""
    cost = in_ms(table)
    cost = replace(cost, target=cost.least + share * (cost.dense - cost.least))
    generator = torch.Generator().manual_seed(0)
    spread = 4 * torch.randn(64, 3, generator=generator)
    mean = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Adam([mean], lr=4.0, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 200)
    for _ in range(200):
        optimizer.zero_grad()
        kept = (mean + spread).clamp(1, NET.patch_tokens).round().detach() + mean - mean.detach()
        cost.gap(list(kept.unbind(1))).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    reached = float(cost.of(list(kept.detach().unbind(1))).mean())
    assert reached == pytest.approx(cost.target, rel=0.005)


@every_table
def test_the_same_share_of_the_dense_cost_weighs_the_same_in_both_units(table: LatencyTable) -> None:
    kept = (95, 63, 31)
    ms, macs = in_ms(table), GmacsCost(NET, 0.0)
    for share in (-0.2, 0.1, 0.4):
        late = replace(ms, target=ms.of_counts(kept) - share * ms.dense)
        over = replace(macs, target=macs.of_counts(kept) - share * macs.dense)
        assert float(late.gap(tensors(kept)).detach()) == pytest.approx(
            float(over.gap(tensors(kept)).detach()), rel=1e-3
        )


@given(linear=st.floats(0.01, 10), square=st.floats(0, 0.1), points=st.integers(3, 300), offset=st.floats(-100, 100))
def test_a_rising_parabola_is_fitted(linear: float, square: float, points: int, offset: float) -> None:
    n = np.arange(1, points + 1)
    found = rising_parabola(linear * n + square * n**2 + offset)
    assert found == pytest.approx((linear, square), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("target", [1.0, 40.0], ids=["too little", "more than dense"])
@pytest.mark.parametrize("cost", [GmacsCost(NET, 1.0), in_ms(TABLES["steps"])], ids=["GMACs", "ms"])
def test_a_target_out_of_reach_is_refused_with_what_is_in_reach(cost: Cost, target: float) -> None:
    scale = cost.least / 2 if target < 2 else cost.dense
    with pytest.raises(InputError) as caught:
        replace(cost, target=target * scale).check()
    message = str(caught.value)
    assert message.startswith(f"--target-{cost.unit.lower()} ")
    assert f"{cost.least:.3g} (one token per stage) to {cost.dense:.3g} {cost.unit} (dense)" in message
    for within in (cost.least, cost.dense):
        replace(cost, target=within).check()


def test_tokens_up_to_the_edge_of_a_flat_step_come_on_top() -> None:
    # A tooth of 7 tokens that is as high as 7 tokens are dear: flat within a step. CLS counts: edges at 7 n - 1.
    # The classifier's part of the last stage has no steps, so that nothing is free there.
    flat = in_ms(table_for(step=Step(7, 7 * 4.0 / 1e3)))
    assert flat.raised((95, 63, 31)) == (97, 69, 31)
    assert flat.of_counts(flat.raised((95, 63, 31))) <= flat.of_counts((95, 63, 31))
    dips = in_ms(TABLES["dips"])
    # 15 patch tokens and CLS are a multiple of 16: fewer than that cost no less.
    assert dips.raised((94, 62, 12)) == (95, 63, 15)
    assert in_ms(TABLES["even"]).raised((95, 63, 31)) == (95, 63, 31)
    assert GmacsCost(NET, 1.0).raised((95, 63, 31)) == (95, 63, 31)


def test_a_fingerprint_names_the_table_and_changes_with_it() -> None:
    one, other = in_ms(TABLES["even"]), in_ms(replace(TABLES["even"], stem=0.21))
    assert one.fingerprint.startswith("a_board int8 ")
    assert one.fingerprint == in_ms(table_for()).fingerprint != other.fingerprint


def test_a_table_of_another_net_is_refused() -> None:
    with pytest.raises(InputError, match="the latency table is of another_net"):
        in_ms(replace(TABLES["even"], backbone="another_net"))


def test_the_record_says_what_was_aimed_at_and_where_it_is_measured() -> None:
    table = table_for()
    times = {"unit": "ms", "target": 4.2, "predicted": round(predict_ms(table, NET, TokenCounts((95, 63, 31))), 3)}
    place = {"profile": "a_board", "precision": "int8", "threads": 1, "table": "made up for a test"}
    assert in_ms(table, 4.2).to_json((95, 63, 31)) == {**times, **place}
    record = GmacsCost(NET, 0.63).to_json((95, 63, 31))
    assert (record["unit"], record["target"]) == ("GMACs", 0.63)
    assert record["reached"] == pytest.approx(tofe_macs(NET, (95, 63, 31)) / 1e9, abs=1e-6)
