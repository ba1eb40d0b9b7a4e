"""Kept, frozen, reused and how often computed: the masks say what sets of positions say."""

import statistics
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.evaluation.prediction import (
    PERCENTILES,
    MeanUsage,
    compose_selections,
    distributions,
    kept_mask,
    reused_counts,
    reused_mask,
    stages_computed,
)
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe

Kept = list[list[int]]


def reused_sets(kept: Kept, patch_tokens: int) -> list[set[int]]:
    """The other implementation: sets, token by token."""
    frozen: set[int] = set()
    reused = []
    for positions in kept:
        reused.append({position for position in positions if position in frozen})
        frozen |= set(range(patch_tokens)) - set(positions)
    return reused


selections = st.integers(1, 30).flatmap(
    lambda patches: st.tuples(
        st.just(patches),
        st.lists(st.lists(st.integers(0, patches - 1), unique=True, max_size=patches), min_size=1, max_size=5),
    )
)


@given(selections)
def test_masks_and_sets_agree(case: tuple[int, Kept]) -> None:
    patches, kept = case
    mask, wanted = kept_mask(kept, patches), reused_sets(kept, patches)
    assert [set(np.flatnonzero(row).tolist()) for row in mask] == [set(positions) for positions in kept]
    assert [set(np.flatnonzero(row).tolist()) for row in reused_mask(mask)] == wanted
    assert reused_counts(kept, patches) == tuple(map(len, wanted))
    usage = [1 + sum(patch in positions for positions in kept) for patch in range(patches)]
    assert stages_computed(mask).tolist() == usage


@given(selections)
def test_what_always_holds(case: tuple[int, Kept]) -> None:
    patches, kept = case
    mask = kept_mask(kept, patches)
    reused, usage = reused_mask(mask), stages_computed(mask)
    assert not reused[0].any() and (mask | ~reused).all()
    assert usage.min() >= 1 and usage.max() <= len(kept) + 1
    assert usage.sum() == patches + sum(map(len, kept))
    # A patch that is computed in every stage was never taken back.
    assert not reused[:, usage == len(kept) + 1].any()


def test_a_patch_is_reused_in_every_stage_that_keeps_it_once_it_was_frozen() -> None:
    assert reused_counts([[0, 1], [1, 2], [2], [0, 2]], 3) == (0, 1, 1, 2)


def test_a_dense_net_computes_every_patch_once() -> None:
    mask = kept_mask([], 4)
    assert mask.shape == (0, 4) == reused_mask(mask).shape and stages_computed(mask).tolist() == [1] * 4
    assert reused_counts([], 4) == ()


@pytest.mark.parametrize(("kept", "stage"), [([[0], [4]], 2), ([[-1]], 1), ([[0, 1], [2], [9, 0]], 3)])
def test_a_patch_that_is_none_is_refused(kept: Kept, stage: int) -> None:
    with pytest.raises(InputError, match=f"stage {stage} keeps a patch that is none of 4"):
        kept_mask(kept, 4)


def test_counts_of_a_net_are_those_of_its_masks() -> None:
    import torch
    from conftest import tiny_tofe

    from tofe_edge.model.tofe import masks_of

    model: ToFe = tiny_tofe()
    inference = model.forward_batch(
        torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(3)), TokenCounts((9, 5, 3))
    )
    masks = torch.stack(masks_of(inference, 16), dim=1).bool().numpy()
    found = [reused_counts([index[image].numpy() for index in inference.kept], 16) for image in range(5)]
    assert found == [tuple(reused_mask(mask).sum(axis=1).tolist()) for mask in masks]
    assert any(sum(counts) for counts in found)


def test_means_are_those_of_the_paper() -> None:
    usage = MeanUsage(50_000, 196, (90.0, 48.71, 26.43), (0.0, 5.32, 2.68))
    assert [f"{share:.2%}" for share in usage.reused_share] == ["0.00%", "10.92%", "10.14%"]
    assert usage.stages_computed == pytest.approx(1 + (90 + 48.71 + 26.43) / 196)
    assert MeanUsage(1, 4, (0.0,), (0.0,)).reused_share == (0.0,)


images = st.integers(1, 4).flatmap(
    lambda stages: st.lists(st.tuples(*[st.integers(1, 196)] * stages), min_size=1, max_size=60)
)


@given(images)
def test_a_tally_gives_what_single_images_give(counts: list[tuple[int, ...]]) -> None:
    found = distributions(sorted(Counter(counts).items()))
    assert len(found) == len(counts[0])
    for one, column in zip(found, zip(*counts)):
        assert one.mean == pytest.approx(statistics.fmean(column))
        assert one.std == pytest.approx(statistics.pstdev(column))
        assert (one.least, one.most) == (min(column), max(column))
        assert one.percentiles == pytest.approx([np.percentile(column, at) for at in PERCENTILES])
        assert Counter(dict(one.histogram)) == Counter(column)
        assert list(one.histogram) == sorted(one.histogram)


def test_json_has_the_keys_that_others_read() -> None:
    (one,) = distributions([((5,), 3), ((9,), 1)])
    assert one.to_json() == {
        "mean": 6.0, "std": 1.732, "min": 5, "max": 9,
        "percentiles": {"p5": 5.0, "p25": 5.0, "p50": 5.0, "p75": 6.0, "p95": 8.4},
        "histogram": {"5": 3, "9": 1},
    }  # fmt: skip


def test_nothing_and_dense_nets_have_none() -> None:
    assert distributions([]) == () == distributions([((), 5)])


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
