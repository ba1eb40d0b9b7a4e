"""Masked attention against a loop over tokens, and the bookkeeping of kept and frozen tokens."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tofe_edge.model.masking import mask_of, masked_attention, put, rank_order, take

SEEDS = st.integers(0, 2**32 - 1)
ROUNDING = 2e-6
"""masked_attention takes exponentials in float32, whatever it is given."""


def random_qkv(seed: int, tokens: int = 7, heads: int = 2, width: int = 4, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, heads, tokens, width, generator=generator, dtype=torch.float64) for _ in range(3)]


def naive_masked_attention(query: Tensor, key: Tensor, value: Tensor, keep: Tensor) -> Tensor:
    """Eq. 17-18 read token by token: token i looks at itself and at every kept token, at nothing else."""
    out = torch.zeros_like(query)
    batch, heads, tokens, width = query.shape
    for b in range(batch):
        for h in range(heads):
            for i in range(tokens):
                seen = [j for j in range(tokens) if j == i or keep[b, j] == 1]
                weights = [math.exp(float(query[b, h, i] @ key[b, h, j]) / math.sqrt(width)) for j in seen]
                for weight, j in zip(weights, seen):
                    out[b, h, i] += weight / sum(weights) * value[b, h, j]
    return out


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 8), st.lists(st.booleans(), min_size=16, max_size=16))
def test_masked_attention_is_the_naive_loop(seed: int, tokens: int, flags: list[bool]) -> None:
    keep = torch.tensor(flags).reshape(2, 8)[:, :tokens].double()
    query, key, value = random_qkv(seed, tokens)
    torch.testing.assert_close(
        masked_attention(query, key, value, keep),
        naive_masked_attention(query, key, value, keep),
        rtol=0,
        atol=ROUNDING,
    )


@pytest.mark.parametrize("kept", [[0, 2, 3, 6], [*range(7)]])
def test_rows_of_kept_tokens_are_plain_attention_among_the_kept(kept: list[int]) -> None:
    query, key, value = random_qkv(0)
    found = masked_attention(query, key, value, mask_of(torch.tensor([kept] * 2), 7).double())[:, :, kept]
    gathered = F.scaled_dot_product_attention(query[:, :, kept], key[:, :, kept], value[:, :, kept])
    torch.testing.assert_close(found, gathered, rtol=0, atol=ROUNDING)


def test_nobody_but_itself_sees_a_frozen_token() -> None:
    query, key, value = random_qkv(1)
    keep = torch.tensor([[1, 0, 1, 1, 0, 1, 1]] * 2).double()
    before = masked_attention(query, key, value, keep)
    key, value = key.clone(), value.clone()
    key[:, :, 1] += 1.0
    value[:, :, 1] -= 1.0
    changed = ((masked_attention(query, key, value, keep) - before).abs() > ROUNDING).any(dim=-1).any(dim=1)
    assert changed.tolist() == [[False, True, False, False, False, False, False]] * 2


def test_each_row_is_its_own_value_if_no_token_is_kept() -> None:
    query, key, value = random_qkv(3)
    torch.testing.assert_close(masked_attention(query, key, value, torch.zeros(2, 7).double()), value)


def test_huge_scores_neither_overflow_nor_vanish() -> None:
    query, key, value = (part.float() for part in random_qkv(4))
    found = masked_attention(200 * query, key, value, torch.ones(2, 7))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, F.scaled_dot_product_attention(200 * query, key, value), rtol=1e-4, atol=1e-4)


def test_the_gradient_reaches_keep_and_is_the_derivative() -> None:
    query, key, value = random_qkv(5, tokens=5)
    keep = torch.tensor([[1.0, 0.3, 0.0, 1.0, 0.7], [1.0, 1.0, 0.2, 0.9, 0.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda mask: masked_attention(query, key, value, mask), (keep,))
    (gradient,) = torch.autograd.grad(masked_attention(query, key, value, keep).square().sum(), keep)
    assert (gradient != 0).all()


def test_gradients_of_query_key_and_value_are_those_of_a_softmax_over_what_is_seen() -> None:
    query, key, value = (part.requires_grad_() for part in random_qkv(6))
    keep = torch.tensor([[1, 0, 1, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0, 1]]).double()
    seen = (keep[:, None] + torch.eye(7)).clamp(max=1).bool()[:, None]
    weights = torch.randn(2, 2, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = F.scaled_dot_product_attention(query, key, value, seen), masked_attention(query, key, value, keep)
    wanted, found = (torch.autograd.grad((output * weights).sum(), (query, key, value)) for output in outputs)
    torch.testing.assert_close(found, wanted, rtol=0, atol=ROUNDING)


def permutations(seed: int, batch: int, tokens: int) -> Tensor:
    return torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 9), st.data())
def test_put_is_the_inverse_of_take(seed: int, tokens: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, tokens))
    content = torch.randn(3, tokens, 4, generator=torch.Generator().manual_seed(seed))
    index = permutations(seed, 3, tokens)[:, :count]
    values = torch.randn(3, count, 4, generator=torch.Generator().manual_seed(seed ^ 1))
    assert torch.equal(put(content, index, take(content, index)), content)
    assert torch.equal(take(put(content, index, values), index), values)
    untouched = mask_of(index, tokens) == 0
    assert torch.equal(put(content, index, values)[untouched], content[untouched])


def test_put_leaves_its_argument_alone() -> None:
    content = torch.zeros(1, 3, 2)
    put(content, torch.tensor([[1]]), torch.ones(1, 1, 2))
    assert not content.any()


def test_take_follows_the_order_of_the_index() -> None:
    content = torch.arange(8.0).reshape(2, 4, 1)
    assert take(content, torch.tensor([[3, 0], [1, 2]]))[..., 0].tolist() == [[3, 0], [5, 6]]


def test_ties_go_to_the_lower_position_among_many() -> None:
    assert rank_order(torch.zeros(1, 1000)).tolist() == [list(range(1000))]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=40))
def test_rank_order_sorts_by_score_then_position(scores: list[float]) -> None:
    wanted = sorted(range(len(scores)), key=lambda position: (-scores[position], position))
    assert rank_order(torch.tensor([scores])).tolist() == [wanted]


@pytest.mark.parametrize(("index", "mask"), [([0, 2], [1, 0, 1, 0]), ([3, 1, 0, 2], [1, 1, 1, 1]), ([], [0, 0, 0, 0])])
def test_mask_of_marks_the_indexed_positions(index: list[int], mask: list[int]) -> None:
    assert mask_of(torch.tensor([index] * 2, dtype=torch.long), 4).tolist() == [mask] * 2
