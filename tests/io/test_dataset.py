"""Every data source gives the same samples of the same images, and a sample is spread evenly over classes."""

import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.io.dataset import Sample, find_samples, sample_evenly

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


def test_several_sets_one_level_deeper_are_read(image_folder: Path) -> None:
    (image_folder / "a").mkdir()
    (image_folder / "0").rename(image_folder / "a" / "0")
    labels = {
        sample.path.parent.relative_to(image_folder).as_posix(): sample.label
        for sample in find_samples(image_folder, CLASS_IDS)
    }
    assert labels == {"a/0": 1, "1": 0}


def test_a_folder_that_is_no_class_is_refused_by_name(image_folder: Path) -> None:
    with pytest.raises(InputError, match=f"^{image_folder / '1'}: '1' is not a class id of this model"):
        find_samples(image_folder, ["0", "2"])


def test_images_outside_any_class_folder_are_refused(image_folder: Path) -> None:
    (image_folder / "0" / "0.png").rename(image_folder / "stray.png")
    with pytest.raises(InputError, match="'images' is not a class id"):
        find_samples(image_folder, CLASS_IDS)


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


@settings(max_examples=30, deadline=None)
@given(st.permutations(samples_of([5, 3, 8, 1])), st.integers(0, 16))
def test_a_sample_does_not_depend_on_the_order_of_the_samples(shuffled: list[Sample], limit: int) -> None:
    assert sample_evenly(shuffled, limit) == sample_evenly(samples_of([5, 3, 8, 1]), limit)


def sources_of(folder: Path, parts: Path) -> dict[str, Path]:
    """The images of a folder in each form."""
    table, shard, shards = parts / "images.csv", parts / "images.tar", parts / "shards"
    lines = [f"{path.relative_to(parts)},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    table.write_text("\n".join(["path,label", *lines]))
    with tarfile.open(shard, "w") as archive:
        archive.add(folder, "val")
    shards.mkdir()
    for identifier in ("0", "1"):
        with tarfile.open(shards / f"val-{identifier}.tar", "w") as archive:
            archive.add(folder / identifier, identifier)
    return {"folder": folder, "table": table, "shard": shard, "shards": shards}


def test_every_source_of_the_same_images_gives_the_same_samples_and_pixels(image_folder: Path, tmp_path: Path) -> None:
    found = {name: find_samples(source, CLASS_IDS) for name, source in sources_of(image_folder, tmp_path).items()}
    for samples in found.values():
        assert [(one.location.parts[-2:], one.label) for one in samples] == [
            (one.path.parts[-2:], one.label) for one in found["folder"]
        ]
        for one, wanted in zip(samples, found["folder"], strict=True):
            np.testing.assert_array_equal(np.asarray(one.read()), np.asarray(wanted.read()))


@pytest.mark.parametrize("limit", [1, 3, 6, None])
def test_every_source_gives_the_same_choice(image_folder: Path, tmp_path: Path, limit: int | None) -> None:
    sources = sources_of(image_folder, tmp_path)
    chosen = [
        [sample.location.parts[-2:] for sample in sample_evenly(find_samples(source, CLASS_IDS), limit, seed=3)]
        for source in sources.values()
    ]
    assert len(chosen[0]) == (limit or 6)
    assert all(names == chosen[0] for names in chosen)


def test_a_folder_named_like_a_shard_is_a_folder(image_folder: Path) -> None:
    renamed = image_folder.rename(image_folder.with_name("images.tar"))
    assert len(find_samples(renamed, CLASS_IDS)) == 6
    assert len(find_samples(renamed.rename(renamed.with_name("images.csv")), CLASS_IDS)) == 6


@pytest.mark.parametrize("name", ["missing", "missing.csv", "missing.tar"])
def test_a_source_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    assert "does not exist" in refused(tmp_path / name, lambda: find_samples(tmp_path / name, CLASS_IDS))


def test_a_file_of_another_kind_is_refused(image_folder: Path) -> None:
    image = image_folder / "0" / "0.png"
    assert "is not a folder, a .csv or a .tar file" in refused(image, lambda: find_samples(image, CLASS_IDS))


@pytest.mark.parametrize("name", ["pipe.csv", "pipe.tar", "shards/pipe.tar"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    source = tmp_path / name.split("/")[0]
    assert "is not a regular file" in refused(path, lambda: find_samples(source, CLASS_IDS))


def test_shards_beside_images_are_refused_rather_than_left_out(image_folder: Path, tmp_path: Path) -> None:
    sources_of(image_folder, tmp_path)["shard"].rename(image_folder / "more.tar")
    message = refused(image_folder, lambda: find_samples(image_folder, CLASS_IDS))
    assert "holds both 'more.tar' and '0'" in message


def test_permissions_are_needed(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    sources = sources_of(image_folder, tmp_path)
    monkeypatch.setattr(Path, "open", deny)
    for name in ("table", "shard"):
        message = refused(sources[name], lambda name=name: find_samples(sources[name], CLASS_IDS))  # type: ignore[misc]
        assert "cannot be read (Permission denied); check its permissions" in message
