"""Selections of an exported graph, composed to positions in the image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tofe_edge.evaluation.prediction import compose_selections


def test_a_worked_example() -> None:
    # Stage 1 sees positions 0 1 2 3 and orders them 2 0 3 1, keeping 2 and 0; stage 2 sees [2 0 3 1] and wants its
    # last and first: positions 1 and 2; stage 3 sees [1 2 0 3] and wants its third.
    selections = [[2, 0, 3, 1], [3, 0, 1, 2], [2, 0, 1, 3]]
    found = compose_selections(selections, [2, 2, 1])
    assert [positions.tolist() for positions in found] == [[2, 0], [1, 2], [0]]


def test_the_first_selection_is_taken_as_it_is() -> None:
    assert compose_selections([[4, 1, 0, 3, 2]], [3])[0].tolist() == [4, 1, 0]


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
def test_indices_of_any_whole_number_type_become_int64(kind: type) -> None:
    found = compose_selections([np.array([1, 0], kind), np.array([1, 0], kind)], [1, 1])
    assert [positions.tolist() for positions in found] == [[1], [0]]
    assert all(positions.dtype == np.int64 for positions in found)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 12).flatmap(lambda tokens: st.lists(st.permutations(range(tokens)), min_size=1, max_size=4)),
    st.data(),
)
def test_names_carried_along_through_every_reordering_agree(orders: list[list[int]], data: st.DataObject) -> None:
    tokens = len(orders[0])
    kept = [data.draw(st.integers(1, tokens)) for _ in orders]
    names = list(range(tokens))
    for order, count, found in zip(orders, kept, compose_selections(orders, kept)):
        names = [names[index] for index in order]
        assert found.tolist() == names[:count]
