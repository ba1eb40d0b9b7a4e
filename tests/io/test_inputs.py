"""Model inputs from data and photographs: labelled, seeded, and honest about what could not be read."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tofe_edge.errors import InputError
from tofe_edge.io.dataset import Sample, find_samples
from tofe_edge.io.images import read_image
from tofe_edge.io.inputs import SAMPLES, Inputs, load_image, load_photographs, load_unlabelled, read_inputs
from tofe_edge.io.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, preprocess

SPEC = Preprocessing(image_size=32, crop_pct=0.9, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD)
CLASS_IDS = ["0", "1"]


def same(one: Inputs, other: Inputs) -> bool:
    return len(one.pixels) == len(other.pixels) and all(map(np.array_equal, one.pixels, other.pixels))


def test_a_folder_gives_preprocessed_pixels_with_labels(image_folder: Path) -> None:
    inputs = load_unlabelled(image_folder, SPEC, 9, class_ids=CLASS_IDS)
    assert inputs.labels is not None and sorted(inputs.labels) == [0, 0, 0, 1, 1, 1]
    assert inputs.unreadable == () and inputs.source == f"images of {image_folder}"
    paths = [image_folder / name / f"{number}.png" for name in CLASS_IDS for number in range(3)]
    expected = {preprocess(read_image(path), SPEC).tobytes(): int(path.parent.name) for path in paths}
    for pixels, label in zip(inputs.pixels, inputs.labels, strict=True):
        assert pixels.dtype == np.float32 and pixels.shape == (1, 3, 32, 32)
        assert expected.pop(pixels.tobytes()) == label


def test_unreadable_files_are_left_out_and_listed(image_folder: Path) -> None:
    broken = image_folder / "0" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    for class_ids, labels in (((), None), (CLASS_IDS, [0, 0, 1, 1, 1])):
        inputs = load_unlabelled(image_folder, SPEC, 100, class_ids=class_ids)
        assert (inputs.unreadable, len(inputs.pixels)) == ((broken,), 5)
        assert (inputs.labels and sorted(inputs.labels)) == labels


def test_a_folder_without_one_readable_image_is_refused(image_folder: Path) -> None:
    for path in image_folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=f"^{image_folder}: none of its 6 images can be used"):
        load_unlabelled(image_folder, SPEC, 9)


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        load_unlabelled(tmp_path, SPEC, 9)
    with pytest.raises(InputError, match="no"):
        load_unlabelled(tmp_path / "no", SPEC, 9)


def test_unlabelled_images_need_no_class_folders_and_are_seeded(image_folder: Path) -> None:
    (image_folder / "0").rename(image_folder / "holiday")
    everything = load_unlabelled(image_folder, SPEC, 100)
    assert len(everything.pixels) == 6
    taken = [load_unlabelled(image_folder, SPEC, 2, seed) for seed in range(8)]
    assert all(len(inputs.pixels) == 2 for inputs in taken)
    assert same(taken[0], load_unlabelled(image_folder, SPEC, 2, 0))
    assert not all(same(taken[0], other) for other in taken[1:])


def test_photographs_are_32_different_seeded_views() -> None:
    inputs = load_photographs(SPEC)
    assert len(inputs.pixels) == 32
    assert inputs.labels is None
    assert all(pixels.shape == (1, 3, 32, 32) and pixels.dtype == np.float32 for pixels in inputs.pixels)
    assert len({pixels.tobytes() for pixels in inputs.pixels}) == 32
    assert same(inputs, load_photographs(SPEC))
    assert not same(inputs, load_photographs(SPEC, seed=1))


def test_the_sample_photographs_are_small_and_say_whose_they_are() -> None:
    names = {path.name for path in SAMPLES[0].parent.iterdir() if path.suffix != ".md"}
    assert names == {path.name for path in SAMPLES}
    readme = (SAMPLES[0].parent / "README.md").read_text(encoding="utf-8")
    for path in SAMPLES:
        assert path.stat().st_size < 40_000 and f"`{path.name}`" in readme
    assert "CC0" in readme


def test_images_in_class_folders_are_labelled_where_all_are_known(image_folder: Path) -> None:
    labelled = load_unlabelled(image_folder, SPEC, 100, class_ids=CLASS_IDS)
    assert labelled.labels is not None
    assert len(labelled.labels) == len(labelled.pixels)
    assert sorted(labelled.labels) == [0, 0, 0, 1, 1, 1]
    assert load_unlabelled(image_folder, SPEC, 100, class_ids=CLASS_IDS[1:]).labels is None
    assert load_unlabelled(image_folder, SPEC, 100).labels is None


def test_a_stream_gives_every_sample_in_order_and_the_reason_where_it_is_corrupt(image_folder: Path) -> None:
    samples = find_samples(image_folder, CLASS_IDS)
    broken = samples[1].path
    broken.write_bytes(b"no image")
    loaded = list(read_inputs(samples[::-1], SPEC))
    assert [item.sample for item in loaded] == samples[::-1]
    for item in loaded:
        if item.sample.path == broken:
            assert item.pixels is None
            assert (
                item.reason
                == f"{broken}: is not an image this program reads; give JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"
            )
        else:
            assert item.reason == ""
            np.testing.assert_array_equal(item.pixels, load_image(item.sample.path, SPEC))


def test_an_image_that_cannot_be_prepared_is_named(image_folder: Path) -> None:
    spec = Preprocessing(96, 1.0, "bicubic", IMAGENET_MEAN, IMAGENET_STD, resize="none")
    (item,) = read_inputs(find_samples(image_folder, CLASS_IDS)[:1], spec)
    assert item.pixels is None
    assert item.reason.startswith(f"{image_folder / '0' / '0.png'}: the image of 96 x 72 pixels is smaller")


def test_a_stream_holds_one_input_at_a_time(image_folder: Path) -> None:
    samples = find_samples(image_folder, CLASS_IDS) * 20
    spec = Preprocessing(128, 1.0, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
    one_input = 4 * 3 * 128 * 128
    tracemalloc.start()
    try:
        for item in read_inputs(samples, spec):
            assert item.pixels is not None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # An image, its pixels at both sizes and the input; all 120 inputs would be far more.
    assert peak < 5 * one_input


def test_an_image_that_a_table_lists_and_is_not_there_is_unreadable(image_folder: Path) -> None:
    table = image_folder / "images.csv"
    table.write_text("path,label\n0/0.png,0\n0/no.png,1\n")
    first, missing = read_inputs(find_samples(table, CLASS_IDS), SPEC)
    assert first.pixels is not None and missing.pixels is None
    assert missing.sample == Sample(image_folder / "0" / "no.png", 1)
