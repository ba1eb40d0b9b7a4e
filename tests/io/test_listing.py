"""Whatever a data source leaves out is counted and named by its cause; files are told by content, links are followed."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import refused, write_images
from PIL import Image
from tar_files import tar

from tofe_edge.io.dataset import find_samples
from tofe_edge.io.inputs import load_unlabelled
from tofe_edge.io.listing import Coverage, Tally, list_images, sets_of
from tofe_edge.io.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

IDS = ["0", "1", "2"]
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
OTHERS = {
    "a.HEIC": (HEIC, "HEIC, which is not read"),
    "a.avif": (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF, which is not read"),
    "a.jxl": (b"\xff\x0a\0\0", "JPEG XL, which is not read"),
    "a.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000, which is not read"),
    "a.psd": (b"8BPS\0\1", "Photoshop, which is not read"),
    "a.svg": (b'<?xml version="1.0"?>\n<svg>', "SVG, which is not read"),
    "a.NEF": (b"II*\0\x08\0\0\0", "camera raw, which is not read"),
    "a.cr3": (b"\0\0\0\x18ftypcrx ", "camera raw, which is not read"),
    "notes.txt": (b"P1 is a remark, BM too", "not an image"),
    "a.part": (b"", "empty"),
    ".a.jpg": (b"x", "hidden"),
}


def causes(coverage: Coverage) -> dict[str, int]:
    return {one.cause: one.count for one in coverage.left_out}


def encoded(kind: str) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (70, 70), "red").save(target, kind)
    return target.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("name", ["photo", "photo.1", "photo.orig", "photo.jfif", "photo.JPG_large"])
def test_images_are_told_by_content(image_folder: Path, kind: str, name: str) -> None:
    (image_folder / "0" / name).write_bytes(encoded(kind))
    found = find_samples(image_folder, IDS)
    assert len(found) == 7 and found.coverage == Coverage()
    assert all(sample.read().size for sample in found)


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_file_is_named(image_folder: Path, name: str) -> None:
    content, cause = OTHERS[name]
    for folder in "01":
        (image_folder / folder / name).write_bytes(content)
    for found in (find_samples(image_folder, IDS), list_images(image_folder)):
        assert len(found) == 6
        (one,) = found.coverage.left_out
        assert (one.cause, one.count, one.first) == (cause, 2, image_folder / "0" / name)
        assert found.coverage.remarks == (f"2 left out: {cause} (first: 0/{name})",)


def test_files_of_file_managers_are_not_missed(image_folder: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (image_folder / "0" / name).write_bytes(b"x")
    assert find_samples(image_folder, IDS).coverage == Coverage()


def test_links(tmp_path: Path) -> None:
    real = write_images(tmp_path / "real", 2, ("0", "1", "2"))
    folder = tmp_path / "links"
    folder.mkdir()
    for name in "01":
        (folder / name).symlink_to(real / name)
    (folder / "2").mkdir()
    (folder / "2" / "good.png").symlink_to(real / "2" / "0.png")
    (folder / "2" / "bad.png").symlink_to(real / "2" / "moved.png")
    (folder / "2" / "loop").symlink_to(folder)
    os.mkfifo(folder / "2" / "pipe.png")
    found = find_samples(folder, IDS)
    assert len(found) == 5
    assert causes(found.coverage) == {
        "link to a folder that it stands in": 1, "link that leads nowhere": 1, "not a regular file": 1
    }  # fmt: skip


def test_hidden_folders_are_named(image_folder: Path) -> None:
    write_images(image_folder / ".ipynb_checkpoints", 1)
    assert causes(find_samples(image_folder, IDS).coverage) == {"hidden folder": 1}


def without_files(folder: Path) -> None:
    (folder / "2").mkdir()


def of_heic(folder: Path) -> None:
    without_files(folder)
    (folder / "2" / "a.HEIC").write_bytes(HEIC)


def of_hidden(folder: Path) -> None:
    without_files(folder)
    (folder / "2" / ".a.jpg").write_bytes(HEIC)


def one_deeper(folder: Path) -> None:
    (folder / "2" / "more").mkdir(parents=True)


@pytest.mark.parametrize("empty", [without_files, of_heic, of_hidden, one_deeper])
def test_an_empty_class_is_an_error_unless_allowed(image_folder: Path, empty: Callable[[Path], None]) -> None:
    empty(image_folder)
    message = refused(image_folder, lambda: find_samples(image_folder, IDS))
    assert "class '2' has no image" in message and message.endswith("or go on without with --allow-empty")
    assert ("HEIC" in message) == (empty is of_heic)
    found = find_samples(image_folder, IDS, allow_empty=True)
    assert len(found) == 6 and causes(found.coverage)["class without an image"] == 1


def test_a_class_that_is_filled_in_another_set_is_not_empty(image_folder: Path) -> None:
    (image_folder / "more" / "0").mkdir(parents=True)
    assert len(find_samples(image_folder, IDS)) == 6


def test_a_class_of_a_shard_that_is_left_out_is_empty(tmp_path: Path) -> None:
    shard = tmp_path / "val.tar"
    shard.write_bytes(
        tar([("0/a.png", encoded("PNG")), ("1/a", encoded("JPEG")), ("2/a.heic", HEIC), ("README", b"x")])
    )
    message = refused(shard, lambda: find_samples(shard, IDS))
    assert "class '2' has no image (1 left out: HEIC" in message
    found = find_samples(shard, IDS, allow_empty=True)
    assert [sample.label for sample in found] == [0, 1] and found[1].read().size == (70, 70)
    assert causes(found.coverage) == {"HEIC, which is not read": 1, "not an image": 1, "class without an image": 1}


def test_what_lies_beside_a_labelled_image_of_a_shard_is_no_image(tmp_path: Path) -> None:
    shard = tmp_path / "val.tar"
    picture = encoded("PNG")
    shard.write_bytes(tar([("k.jpg", picture), ("k.cls", b"0"), ("k.seg", picture), ("l", picture), ("l.cls", b"1")]))
    found = find_samples(shard, IDS)
    assert [(sample.location.name, sample.label) for sample in found] == [("k.jpg", 0), ("l", 1)]
    assert causes(found.coverage) == {"beside a labelled image": 1}


@pytest.mark.parametrize(
    ("names", "sets"),
    [
        ("train val", ("train", "val")),
        ("Validation training", ("training", "Validation")),
        ("test train2017 val2017 n01440764", ("train2017", "val2017", "test")),
        ("val", ()),
        ("train trains training_data", ()),
        ("test_tube train_station eval", ()),
    ],
)
def test_sets(names: str, sets: tuple[str, ...]) -> None:
    assert sets_of(names.split()) == sets


def test_sets_under_one_root_are_said(tmp_path: Path) -> None:
    for name in ("train", "val"):
        write_images(tmp_path / name, 1)
    said = "train and val are read together, as one set"
    for found in (find_samples(tmp_path, IDS), list_images(tmp_path)):
        assert found.coverage.remarks == (said,)
    message = refused(tmp_path, lambda: list_images(tmp_path).coverage.refuse_sets(tmp_path))
    assert "holds 'train' and 'val'; train on one of them" in message
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in ("train", "val"):
        (shards / f"{name}-000.tar").write_bytes(tar([(f"{name}/0/a.png", encoded("PNG"))]))
    assert find_samples(shards, IDS).coverage.remarks == (said,)
    assert find_samples(tmp_path / "train", IDS).coverage == Coverage()


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_images(tmp_path, 1, ("train", "test", "cat"))
    assert find_samples(tmp_path, ["cat", "test", "train"]).coverage == Coverage()


def test_no_image_at_all_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.HEIC").write_bytes(HEIC)
    message = refused(tmp_path, lambda: list_images(tmp_path))
    assert "holds no image (1 left out: HEIC, which is not read (first: " in message


def test_calibration_counts_what_cannot_be_read(image_folder: Path) -> None:
    (image_folder / "0" / "a.HEIC").write_bytes(HEIC)
    (image_folder / "0" / "b.jpg").write_bytes(HEIC)
    (image_folder / "1" / "0.png").write_bytes(b"")
    spec = Preprocessing(image_size=32, crop_pct=0.9, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    inputs = load_unlabelled(image_folder, spec, 100, class_ids=IDS)
    assert len(inputs.pixels) == 5 and len(inputs.unreadable) == 2
    assert causes(inputs.coverage) == {"HEIC, which is not read": 2, "empty": 1}


def test_causes_are_bounded() -> None:
    tally = Tally()
    for number in range(100):
        tally.add_unreadable(Path("a.png"), f"a.png: the image of {number} pixels is smaller")
    assert len(tally.left_out) == 21 and sum(one.count for one in tally.left_out) == 100
