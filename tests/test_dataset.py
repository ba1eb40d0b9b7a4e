"""Labels come from folders, and a sample is spread evenly over classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tofe_edge.dataset import Sample, find_samples, sample_evenly
from tofe_edge.errors import InputError

CLASS_IDS = ["1", "0", "2"]


def samples_of(sizes: list[int]) -> list[Sample]:
    """``sizes[c]`` samples of each class c, in the order of their paths."""
    return [
        Sample(Path(f"{label:03}/{number:03}.png"), label) for label, size in enumerate(sizes) for number in range(size)
    ]


def test_labels_are_the_positions_of_the_folder_names_among_the_class_ids(image_folder: Path) -> None:
    samples = find_samples(image_folder, CLASS_IDS)
    wanted = [
        Sample(image_folder / name / f"{number}.png", label)
        for name, label in (("0", 1), ("1", 0))
        for number in range(3)
    ]
    assert samples == wanted


def test_several_sets_one_level_deeper_are_found(image_folder: Path) -> None:
    (image_folder / "a").mkdir()
    (image_folder / "0").rename(image_folder / "a" / "0")
    labels = {
        sample.path.parent.relative_to(image_folder).as_posix(): sample.label
        for sample in find_samples(image_folder, CLASS_IDS)
    }
    assert labels == {"a/0": 1, "1": 0}


def test_a_folder_that_is_no_class_is_refused_by_name(image_folder: Path) -> None:
    with pytest.raises(InputError, match=f"^{image_folder / '1'}: '1' is not a class id of this model") as caught:
        find_samples(image_folder, ["0", "2"])
    assert "\n" not in str(caught.value)


def test_images_outside_any_class_folder_are_refused(image_folder: Path) -> None:
    (image_folder / "0" / "0.png").rename(image_folder / "stray.png")
    with pytest.raises(InputError, match="'images' is not a class id"):
        find_samples(image_folder, CLASS_IDS)


@pytest.mark.parametrize("limit", [None, 7, 8, 1000])
def test_without_a_limit_or_below_it_everything_is_taken(limit: int | None) -> None:
    samples = samples_of([3, 4])
    assert sample_evenly(samples, limit) == samples


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data(), st.integers(0, 1000))
def test_a_sample_is_as_even_as_the_class_sizes_allow(sizes: list[int], data: st.DataObject, seed: int) -> None:
    samples = samples_of(sizes)
    limit = data.draw(st.integers(0, len(samples)))
    chosen = sample_evenly(samples, limit, seed)
    assert len(chosen) == limit == len(set(chosen))
    assert set(chosen) <= set(samples)
    assert chosen == sorted(chosen, key=lambda sample: sample.path)
    counts = Counter(sample.label for sample in chosen)
    most = max(counts.values(), default=0)
    # A class has fewer than the fullest, by more than one, only where it has no more to give.
    assert all(counts[label] >= min(size, most - 1) for label, size in enumerate(sizes))


def test_the_same_seed_gives_the_same_sample_and_another_seed_another() -> None:
    samples = samples_of([20] * 5)
    assert sample_evenly(samples, 10, seed=1) == sample_evenly(samples, 10, seed=1)
    assert sample_evenly(samples, 10, seed=1) != sample_evenly(samples, 10, seed=2)


def test_a_sample_is_not_the_first_of_each_class() -> None:
    chosen = sample_evenly(samples_of([100] * 4), 8)
    assert {sample.path.name for sample in chosen} - {"000.png", "001.png"}


@settings(max_examples=30, deadline=None)
@given(st.permutations(samples_of([5, 3, 8, 1])), st.integers(0, 16))
def test_a_sample_does_not_depend_on_the_order_of_the_samples(shuffled: list[Sample], limit: int) -> None:
    assert sample_evenly(shuffled, limit) == sample_evenly(samples_of([5, 3, 8, 1]), limit)
