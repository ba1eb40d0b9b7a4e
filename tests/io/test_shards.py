"""Tar shards: images with the class of their folder or their .cls file, or refused by name; nothing is extracted."""

import gzip
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import refused
from tar_files import FORMATS, IDS, Part, find, link, png, tar

from tofe_edge.errors import InputError
from tofe_edge.io import shards
from tofe_edge.io.dataset import Sample, find_samples


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return tmp_path / "val.tar"


def named(samples: Sequence[Sample], shard: Path) -> list[tuple[str, int]]:
    return [(sample.location.relative_to(shard).as_posix(), sample.label) for sample in samples]


def reds(samples: Sequence[Sample]) -> list[int]:
    return [int(np.asarray(sample.read())[0, 0, 0]) for sample in samples]


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_images_in_class_folders(shard: Path, form: int) -> None:
    parts: list[Part] = [
        link(f"./{IDS[1]}", tarfile.DIRTYPE), (f"./{IDS[1]}/b.PNG", png(7)), ("README.md", b"no image"),
        (f"{IDS[0]}/a.jpg", png(9)), (f"val/{IDS[2]}/c.png", png(11)), (f"{IDS[0]}/._a.jpg", b"hidden"),
    ]  # fmt: skip
    samples = find(shard, tar(parts, form))
    assert named(samples, shard) == [(f"{IDS[1]}/b.PNG", 1), (f"{IDS[0]}/a.jpg", 0), (f"val/{IDS[2]}/c.png", 2)]
    assert reds(samples) == [7, 9, 11]


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_pairs_of_image_and_index(shard: Path, form: int) -> None:
    parts: list[Part] = [
        ("s/0001.cls", b"2"), ("s/0001.jpg", png(5)), ("s/0002.v1.png", png(6)), ("s/0002.v1.cls", b" 0\n"),
        ("s/0001.json", b"{}"),
    ]  # fmt: skip
    samples = find(shard, tar(parts, form))
    assert named(samples, shard) == [("s/0001.jpg", 2), ("s/0002.v1.png", 0)]
    assert reds(samples) == [5, 6]


@pytest.mark.parametrize("form", ["gnu", "pax"])
@pytest.mark.parametrize("stem", ["x" * 300, "图" * 80, b"caf\xe9".decode("utf-8", "surrogateescape"), "line\nbreak"])
def test_long_and_odd_names(shard: Path, form: str, stem: str) -> None:
    samples = find(shard, tar([(f"{IDS[0]}/{stem}.png", png(3))], FORMATS[form]))
    assert [sample.location.name for sample in samples] == [f"{stem}.png"]
    assert reds(samples) == [3]
    shard.write_bytes(b"")
    with pytest.raises(InputError) as caught:
        samples[0].read()
    assert len(str(caught.value).splitlines()) == 1


def test_shards_of_a_folder_follow_each_other(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        find(tmp_path / f"val-{number:03}.TAR", tar([(f"{IDS[number]}/a.png", png(number))]))
    (tmp_path / ".val.tar").write_bytes(b"hidden")
    samples = find_samples(tmp_path, IDS)
    assert [sample.label for sample in samples] == reds(samples) == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is not an image"), (b"text", "is not an image"), (png()[:45], "is damaged"), (png() + b"more", "")],
)
def test_a_corrupt_image_shows_when_it_is_read(shard: Path, content: bytes, words: str) -> None:
    (sample,) = find(shard, tar([(f"{IDS[0]}/a.png", content)]))
    if words:
        assert words in refused(shard / IDS[0] / "a.png", sample.read)
    else:
        assert sample.read().size == (5, 4)


def test_a_member_over_the_limit_is_unreadable(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_MAX_IMAGE", 100)
    small, large = find(shard, tar([(f"{IDS[0]}/a.png", png()), (f"{IDS[0]}/b.png", png() + bytes(100))]))
    assert small.read().size == (5, 4)
    assert "bytes, more than 100" in refused(shard, large.read)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([("a.png", png())], "'a.png': '' is not a class id of this model (such as n01440764); expected <class id>/<image>"),
        ([("cats/a.png", png())], "'cats/a.png': 'cats' is not a class id"),
        ([(f"{IDS[0]}/a.png", png())] * 2, f"holds '{IDS[0]}/a.png' twice"),
        ([("1.png", png()), ("1.cls", b"0"), ("./1.cls", b"1")], "holds '1.cls' twice"),
        ([("1.cls", b"0")], "holds no image"),
        ([("1.png", png()), ("1.cls", b"3")], "'1.cls' holds '3', which is not an index of a class"),
        ([("1.png", png()), ("1.cls", b"n01440764")], "'1.cls' holds 'n01440764', which is not an index"),
        ([("1.png", png()), ("1.cls", b"\xff")], "which is not an index"),
        ([("1.png", png()), ("1.cls", b"0" * 65)], "has 65 bytes, more than 64"),
        ([("1.png", png()), ("1.cls", b"0"), ("2.png", png())], "'2.png' has no .cls file beside it"),
        ([("1.png", png()), ("1.cls", b"0"), ("2.cls", b"0")], "'2.cls' has no image beside it"),
        ([(f"../{IDS[0]}/a.png", png())], "has an absolute name or one with '..'"),
        ([(f"{IDS[0]}/../{IDS[0]}/a.png", png())], "has an absolute name or one with '..'"),
        ([(f"/{IDS[0]}/a.png", png())], "has an absolute name or one with '..'"),
        ([link(f"{IDS[0]}/a.png", tarfile.SYMTYPE, "/etc/passwd")], f"member '{IDS[0]}/a.png' is a link; write the archive anew"),
        ([(f"{IDS[0]}/a.png", png()), link(f"{IDS[0]}/b.png", tarfile.LNKTYPE, f"{IDS[0]}/a.png")], "is a hard link"),
        ([link(f"{IDS[0]}/a.png", tarfile.CHRTYPE)], "is a device"),
        ([link(f"{IDS[0]}/a.png", tarfile.FIFOTYPE)], "is a pipe"),
        ([link(f"{IDS[0]}/a.png", b"Q")], "is of an unknown kind"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_a_wrong_shard_is_refused_with_its_first_culprit(shard: Path, parts: list[Part], words: str, form: int) -> None:
    message = refused(shard, lambda: find(shard, tar(parts, form)))
    assert words in message


def test_a_compressed_shard_among_others_is_not_overlooked(shard: Path) -> None:
    find(shard, tar([(f"{IDS[0]}/a.png", png())]))
    other = shard.with_name("val2.tar.gz")
    other.write_bytes(gzip.compress(tar([(f"{IDS[0]}/b.png", png())])))
    assert "is compressed (gzip)" in refused(other, lambda: find_samples(shard.parent, IDS))
