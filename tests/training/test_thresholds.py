"""Thresholds: instance mode keeps as much as batch mode, and batch mode does not notice."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe
from tofe_edge.training import counts as counts_module
from tofe_edge.training.counts import center_selectors, measure_counts, typical_samples

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
    found = counts_module._threshold(torch.tensor(scores, dtype=torch.float64), above)
    assert sum(score > float(found) for score in scores) == above


def test_of_a_folder_any_images_are_taken_whatever_its_folders_are_called(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts_module, "_MOST_IMAGES", 4)
    (image_folder / "1").rename(image_folder / "no class of the net")
    taken = [typical_samples(image_folder, ("0", "1"), seed) for seed in range(8)]
    assert all(len({sample.path for sample in samples}) == 4 for samples in taken)
    assert taken[0] == typical_samples(image_folder, ("0", "1"), 0)
    assert len({tuple(samples) for samples in taken}) > 1


def test_tables_and_shards_keep_their_own_rules(image_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "some.csv"
    table.write_text("path,label\nimages/0/0.png,0\nimages/1/2.png,1\n")
    assert [sample.label for sample in typical_samples(table, ("0", "1"), 0)] == [0, 1]
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/0.tar", "w") as shard:
        shard.add(image_folder / "1/0.png", "1/0.png")
    (sample,) = typical_samples(tmp_path / "shards", ("0", "1"), 0)
    assert (sample.location, sample.label) == (tmp_path / "shards/0.tar/1/0.png", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        typical_samples(tmp_path / "empty", ("0", "1"), 0)
