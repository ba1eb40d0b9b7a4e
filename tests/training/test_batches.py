"""What a training run sees follows from (seed, step) alone; pieces of one image in another."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tofe_edge.errors import InputError
from tofe_edge.io.dataset import Sample, find_samples
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.training.batches import Batch, Source, TrainingSet, batches, cutmix
from tofe_edge.training.recipe import Augmentation

SPEC = Preprocessing(16, 0.9, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IDS = [str(number) for number in range(10)]


def run(samples: list[Sample], steps: range, size: int = 4, seed: int = 0, mixed: float = 0.0) -> list[Batch]:
    return list(batches(samples, SPEC.image_size, size, steps, seed, Augmentation(0.35, mixed)))


def flat_images(folder: Path, count: int) -> list[Sample]:
    """Images of one colour each, which survives any crop: label and colour tell them apart."""
    samples = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.new("RGB", (20, 20), (10 * number, 0, 0)).save(path)
        samples.append(Sample(path, number))
    return samples


def find_images(folder: Path) -> set[Path]:
    return {sample.path for sample in find_samples(folder, IDS)}


def test_a_resumed_run_sees_the_tail_of_the_whole_run(image_folder: Path) -> None:
    samples = find_samples(image_folder, IDS)
    whole, tail = run(samples, range(6)), run(samples, range(3, 6))
    assert [batch.step for batch in tail] == [3, 4, 5]
    for resumed, wanted in zip(tail, whole[3:], strict=True):
        assert torch.equal(resumed.pixels, wanted.pixels)
        assert torch.equal(resumed.labels, wanted.labels)


def test_an_image_is_cropped_anew_each_time(image_folder: Path) -> None:
    sample = find_samples(image_folder, IDS)[:1]
    first, second = run(sample, range(2), size=1)
    assert not torch.equal(first.pixels, second.pixels)


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_each_epoch_sees_every_image_once_whatever_the_batch_size(tmp_path: Path, size: int) -> None:
    samples = flat_images(tmp_path, 7)
    seen = [int(label) for batch in run(samples, range(-(-21 // size)), size) for label in batch.labels]
    epochs = [seen[start : start + 7] for start in (0, 7, 14)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(7))
    assert epochs[0] != epochs[1]


def test_labels_stay_with_their_images(tmp_path: Path) -> None:
    samples = flat_images(tmp_path, 7)
    for batch in run(samples, range(3)):
        red = batch.pixels[:, 0].float().mean(dim=(1, 2))
        assert torch.equal(red, 10.0 * batch.labels)


def test_a_corrupt_image_is_named_and_left_out_of_its_batch(tmp_path: Path) -> None:
    samples = flat_images(tmp_path, 4)
    samples[2].path.write_bytes(b"not an image")
    (batch,) = run(samples, range(1))
    assert batch.unreadable == (samples[2].path,)
    assert sorted(batch.labels.tolist()) == [0, 1, 3]
    assert len(batch.pixels) == 3


def test_a_corrupt_image_does_not_change_what_later_batches_see(tmp_path: Path) -> None:
    samples = flat_images(tmp_path, 8)
    whole = run(samples, range(2))
    broken = whole[0].labels[0].item()
    samples[int(broken)].path.write_bytes(b"not an image")
    assert torch.equal(run(samples, range(2))[1].pixels, whole[1].pixels)


def test_a_batch_of_corrupt_images_alone_is_an_error_that_names_one(tmp_path: Path) -> None:
    samples = flat_images(tmp_path, 2)
    for sample in samples:
        sample.path.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 2 images of a batch could be read \(first: .*\d\.png\)"):
        run(samples, range(1), size=2)


def test_held_out_images_are_never_trained_on(image_folder: Path) -> None:
    data = TrainingSet.find([Source(image_folder, 3)], IDS, held_out=2, seed=0)
    held_out = {sample.path for sample in data.held_out}
    assert len(held_out) == 2
    assert held_out.isdisjoint(sample.path for sample in data.train)
    counts = Counter(sample.path for sample in data.train)
    assert len(counts) == 4 and set(counts.values()) == {3}


def test_an_image_of_several_sources_is_held_out_of_all(image_folder: Path) -> None:
    sources = [Source(image_folder), Source(image_folder / "0", 2), Source(image_folder)]
    for seed in range(8):
        data = TrainingSet.find(sources, IDS, held_out=3, seed=seed)
        held_out = {sample.path for sample in data.held_out}
        assert len(held_out) == len(data.held_out) == 3
        counts = Counter(sample.path for sample in data.train)
        assert counts == {path: 4 if path.parent.name == "0" else 2 for path in find_images(image_folder) - held_out}
    with pytest.raises(InputError, match="6 images are too few to hold 6 out"):
        TrainingSet.find(sources, IDS, held_out=6, seed=0)


def test_sources_are_seen_as_often_as_their_repeats_say(image_folder: Path) -> None:
    sources = [Source(image_folder / "0", 2), Source(image_folder / "1")]
    counts = Counter(sample.label for sample in TrainingSet.find(sources, IDS, held_out=0, seed=0).train)
    assert counts == {0: 6, 1: 3}


def test_held_out_images_follow_from_the_seed(image_folder: Path) -> None:
    def held_out(seed: int) -> tuple[Sample, ...]:
        return TrainingSet.find([Source(image_folder)], IDS, held_out=3, seed=seed).held_out

    assert held_out(0) == held_out(0)
    assert len({held_out(seed) for seed in range(8)}) > 1


def test_images_of_repeated_folders_are_held_out_more_often(tmp_path: Path) -> None:
    for identifier in ("0", "1"):
        (tmp_path / identifier).mkdir()
        for number in range(10):
            Image.fromarray(np.full((2, 2, 3), number, np.uint8)).save(tmp_path / identifier / f"{number}.png")
    sources = [Source(tmp_path / "0", 9), Source(tmp_path / "1")]
    drawn = Counter(
        sample.label for seed in range(40) for sample in TrainingSet.find(sources, IDS, held_out=2, seed=seed).held_out
    )
    assert drawn[0] > 3 * drawn[1]


@pytest.mark.parametrize(
    ("text", "folder", "repeats"),
    [
        ("data/train", "data/train", 1),
        ("data/train:3", "data/train", 3),
        ("data:2024:3", "data:2024", 3),
        ("odd:name", "odd:name", 1),
        ("data:0", "data:0", 1),
        ("data:-2", "data:-2", 1),
        ("data:1.5", "data:1.5", 1),
        ("data:²", "data:²", 1),
        ("data:٣", "data", 3),
        ("data:", "data:", 1),
        (r"C:\images\train", r"C:\images\train", 1),
        (r"C:\images\train:2", r"C:\images\train", 2),
        ("C:/images", "C:/images", 1),
        ("with space:4", "with space", 4),
    ],
)
def test_a_source_is_a_folder_with_an_optional_number_of_repeats(text: str, folder: str, repeats: int) -> None:
    assert Source.parse(text) == Source(Path(folder), repeats)


def test_mixed_batches_have_pieces_of_their_own_images_and_nothing_else(tmp_path: Path) -> None:
    samples = flat_images(tmp_path, 4)
    (plain,), (mixed,) = run(samples, range(1)), run(samples, range(1), mixed=1.0)
    assert torch.equal(plain.labels, mixed.labels)
    colours = [image[0, 0, 0].item() for image in plain.pixels]
    foreign = 0
    for index, image in enumerate(mixed.pixels):
        own, other = colours[index], colours[(index + 1) % 4]
        assert set(image[0].unique().tolist()) <= {own, other}
        foreign += int((image[0] == other).sum())
    assert 0 < foreign < 4 * 16 * 16
    assert torch.equal(run(samples, range(1), mixed=1.0)[0].pixels, mixed.pixels)


SHAPES = st.tuples(st.integers(1, 6), st.just(3), st.integers(1, 9), st.integers(1, 9))


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """Images whose every pixel is the number of the image."""
    return np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None, None, None], shape).copy()


@given(SHAPES, st.integers(0, 2**32))
def test_what_is_pasted_is_one_rectangle_of_the_next_image(shape: tuple[int, ...], seed: int) -> None:
    for index, image in enumerate(cutmix(numbered(shape), 1.0, np.random.default_rng(seed))):
        assert all(np.array_equal(channel, image[0]) for channel in image)
        pasted = image[0] != index
        assert np.all(image[0][pasted] == (index + 1) % shape[0])
        rows, columns = pasted.any(axis=1), pasted.any(axis=0)
        assert np.array_equal(pasted, np.outer(rows, columns))
        for line in (rows, columns):
            where = np.flatnonzero(line)
            assert len(where) == 0 or where[-1] - where[0] + 1 == len(where)


def test_the_share_of_mixed_images_and_of_their_area() -> None:
    images, generator = numbered((2000, 1, 32, 32)), np.random.default_rng(0)
    mixed = cutmix(images, 0.3, generator)
    changed = (mixed != images).mean(axis=(1, 2, 3))
    assert (changed > 0).mean() == pytest.approx(0.3, abs=0.04)
    # Half of the area before the border cuts it off; some 0.32 after.
    assert changed[changed > 0].mean() == pytest.approx(0.32, abs=0.03)
    assert np.array_equal(images, numbered((2000, 1, 32, 32)))
