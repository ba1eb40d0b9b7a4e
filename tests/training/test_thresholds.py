"""Thresholds: instance mode keeps as much as batch mode, and batch mode does not notice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.backbones import TokenCounts
from tofe_edge.tofe import ToFe
from tofe_edge.training import thresholds
from tofe_edge.training.counts import measure_counts
from tofe_edge.training.thresholds import center_selectors

IMAGES = torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kept", [(9, 5, 3), (16, 1, 8), (2, 12, 16)])
def test_instance_mode_then_keeps_the_counts_on_average(
    tiny_tofe: Callable[..., ToFe], kept: tuple[int, int, int]
) -> None:
    model = tiny_tofe()
    center_selectors(model, TokenCounts(kept), IMAGES)
    assert measure_counts(model, IMAGES).means == pytest.approx(kept, abs=0.051)  # one of 20 x 16 scores


def test_batch_mode_gives_what_it_gave(tiny_tofe: Callable[..., ToFe]) -> None:
    model, counts = tiny_tofe(), TokenCounts((9, 5, 3))
    with torch.no_grad():
        before = model.forward_batch(IMAGES, counts)
        center_selectors(model, counts, IMAGES)
        after = model.forward_batch(IMAGES, counts)
    torch.testing.assert_close(after.logits, before.logits)
    for one, other in zip(before.kept, after.kept):
        assert torch.equal(one, other)


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40, unique=True), st.data())
def test_the_threshold_has_as_many_scores_above_it_as_asked(scores: list[float], data: st.DataObject) -> None:
    above = data.draw(st.integers(1, len(scores)))
    found = thresholds._threshold(torch.tensor(scores, dtype=torch.float64), above)
    assert sum(score > float(found) for score in scores) == above
