"""Two lowerings of one operation: topk with index_select, and ranks with one-hot products."""

from functools import cache

import pytest
import tiny_exports
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_exports import images, seeded
from torch import Tensor, nn

from tofe_edge.converters.executorch import lower
from tofe_edge.converters.selection import Select, select_by_rank, select_by_topk

SEEDS = st.integers(0, 2**16)
SELECTS = [pytest.param(select_by_topk, id="topk"), pytest.param(select_by_rank, id="rank")]

SCORES = st.one_of(
    st.floats(-10, 10, width=32),
    st.floats(-(2.0**100), 2.0**100, width=32),
    # Neighbouring floats: the differences are single bits.
    st.integers(0, 40).map(lambda bits: float(torch.tensor(1.0).view(torch.int32).add(bits).view(torch.float32))),
    st.integers(0, 40).map(lambda bits: -float(torch.tensor(1e30).view(torch.int32).add(bits).view(torch.float32))),
).filter(lambda score: score == 0 or abs(score) > 1e-30)
"""Zero, and whatever is far enough from it that differences are normal floats."""


def tokens_for(batch: int, total: int, seed: int, dim: int = 5) -> Tensor:
    return torch.randn(batch, total, dim, generator=seeded(seed))


def stable_order(scores: Tensor) -> Tensor:
    return torch.sort(scores, dim=1, descending=True, stable=True).indices


def assert_equal_selections(scores: Tensor, count: int, seed: int = 0) -> None:
    tokens = tokens_for(scores.shape[0], scores.shape[1], seed)
    by_topk, by_rank = select_by_topk(scores, tokens, count), select_by_rank(scores, tokens, count)
    assert torch.equal(by_rank[0].view(-1), by_topk[0].view(-1).float())
    assert torch.equal(by_rank[1], by_topk[1])


@given(scores=st.lists(SCORES, min_size=1, max_size=30, unique=True), data=st.data())
def test_the_lowerings_are_equal_on_any_different_scores(scores: list[float], data: st.DataObject) -> None:
    assert_equal_selections(torch.tensor([scores]), data.draw(st.integers(1, len(scores))))


@pytest.mark.parametrize("select", SELECTS)
@given(seed=SEEDS, batch=st.integers(1, 3), total=st.integers(1, 40), data=st.data())
def test_tokens_come_best_first(select: Select, seed: int, batch: int, total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, total))
    scores, tokens = torch.randn(batch, total, generator=seeded(seed)), tokens_for(batch, total, seed)
    order, taken = select(scores, tokens, count)
    wanted = stable_order(scores)[:, :count]
    assert torch.equal(order.view(batch, count).long(), wanted)
    assert torch.equal(taken, torch.stack([rows[index] for rows, index in zip(tokens, wanted)]))


@given(scores=st.lists(st.sampled_from([-1.0, 0.0, -0.0, 0.5, 2.0]), min_size=1, max_size=24), data=st.data())
def test_ranks_put_the_first_of_equals_first(scores: list[float], data: st.DataObject) -> None:
    """As in the reference, which sorts stably."""
    count = data.draw(st.integers(1, len(scores)))
    tensor = torch.tensor([scores])
    order, taken = select_by_rank(tensor, tokens_for(1, len(scores), 0), count)
    wanted = stable_order(tensor)[:, :count]
    assert torch.equal(order.long(), wanted)
    assert torch.equal(taken[0], tokens_for(1, len(scores), 0)[0, wanted[0]])


@given(scores=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=24), data=st.data())
def test_topk_puts_equals_in_any_order(scores: list[float], data: st.DataObject) -> None:
    """torch.topk is no stable sort: which of two equals is taken is not said. Their scores are."""
    count = data.draw(st.integers(1, len(scores)))
    tensor = torch.tensor([scores])
    tokens = tokens_for(1, len(scores), 0)
    order, taken = select_by_topk(tensor, tokens, count)
    assert torch.equal(tensor[0, order], tensor[0, stable_order(tensor)[0, :count]])
    assert len(set(order.tolist())) == count
    assert torch.equal(taken[0], tokens[0, order])


class Topk(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, scores: Tensor) -> Tensor:
        return torch.topk(scores, self.count).indices


@pytest.mark.parametrize(("total", "count"), [(16, 9), (16, 16), (196, 2), (196, 137)])
def test_the_runtime_s_topk_takes_the_best_scores_ties_or_not(total: int, count: int) -> None:
    """Which of two equals comes first it leaves to its C++ library, as torch does."""
    lowered = lower({"forward": Topk(count)}, (total,))
    for seed in range(20):
        scores = torch.randint(0, total // 2, (total,), generator=seeded(seed)).float()
        (found,) = tiny_exports.run(lowered, scores)
        assert torch.equal(scores[found], torch.topk(scores, count).values)
        assert len(found.unique()) == count
        different = torch.randperm(total, generator=seeded(seed)).float()
        (found,) = tiny_exports.run(lowered, different)
        assert torch.equal(found, torch.topk(different, count).indices)


@cache
def outputs(kind: str) -> list[list[Tensor]]:
    lowered = tiny_exports.export(kind).lowered
    return [tiny_exports.run(lowered, image) for image in images(8, seed=2)]


def test_the_program_by_rank_selects_what_the_program_by_topk_selects() -> None:
    for by_rank, by_topk in zip(outputs("rank"), outputs("fp32"), strict=True):
        assert len(by_rank) == len(by_topk) == 4
        for found, wanted in zip(by_rank[1:], by_topk[1:], strict=True):
            assert torch.equal(found.view(-1), wanted.view(-1).float())
        torch.testing.assert_close(by_rank[0], by_topk[0], atol=1e-5, rtol=1e-5)
