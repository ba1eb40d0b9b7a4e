"""Archives: members as tarfile sees them, and nothing in a header taken on trust."""

import gzip
import os
import tarfile
from pathlib import Path

import pytest
from conftest import fine_or_refused, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from tar_files import FORMATS, IDS, find, png, tar, with_size

from tofe_edge.io.tar import list_members, read_member


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return tmp_path / "val.tar"


WHOLE = tar([(f"{IDS[0]}/a.png", png(1)), (f"{IDS[1]}/b.png", b"x" * 2000)])

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty (0 bytes)"),
    "no tar": (b"path,label\n" * 100, "is not a tar archive"),
    "short": (b"x", "is cut off"),
    "gzip": (gzip.compress(WHOLE), "is compressed (gzip); unpack it to a plain .tar with gunzip"),
    "no end": (WHOLE[: 512 * 2], f"is cut off after member '{IDS[0]}/a.png'"),
    "cut in a member": (WHOLE[: 512 * 4], f"is cut off, member '{IDS[1]}/b.png' ends beyond it"),
    "cut in a header": (WHOLE[: 512 * 2 + 100], f"is cut off after member '{IDS[0]}/a.png'"),
    "no member": (bytes(10240), "holds no image"),
    "two joined": (WHOLE + WHOLE, "goes on after its end mark"),
    "too large a size": (with_size(WHOLE, b"77777777777\0"), f"member '{IDS[0]}/a.png' ends beyond it"),
    "a false size": (with_size(WHOLE, b"00000002000\0"), f"has a damaged header after member '{IDS[0]}/a.png'"),
    "a negative size": (with_size(WHOLE, b"\xff" * 11 + b"\0"), "write"),
    "no size": (with_size(WHOLE, b"not a number"), "is not a tar archive"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_broken_archive_is_refused(shard: Path, kind: str) -> None:
    content, words = BAD[kind]
    assert words in refused(shard, lambda: find(shard, content))


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ({"size": "99999999999"}, "ends beyond it"),
        ({"size": "-1"}, "has no valid size"),
        ({"size": "x"}, "has no valid size"),
        ({"path": "/etc/passwd.png"}, "absolute name"),
        ({"GNU.sparse.major": "1"}, "is a sparse file"),
        ({"comment": "x" * (1 << 20)}, "has a header of more than"),
    ],
)
def test_pax_records_are_not_taken_on_trust(shard: Path, records: dict[str, str], words: str) -> None:
    info = tarfile.TarInfo(f"{IDS[0]}/a.png")
    info.pax_headers = records
    assert words in refused(shard, lambda: find(shard, tar([info])))


@pytest.mark.parametrize("record", [b"5 x=\n", b"x", b"0 a=b\n", b"99 a=b\n", b"-6 a=b\n", b"6 ab=\n\n"])
def test_damaged_pax_records_are_refused_or_harmless(shard: Path, record: bytes) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    content = info.tobuf() + record.ljust(512, b"\0") + WHOLE
    fine_or_refused(lambda: find(shard, content), shard)


def test_a_shard_that_shrinks_after_it_was_listed_is_unreadable(shard: Path) -> None:
    _, sample = find(shard, WHOLE)
    os.truncate(shard, 512 * 4)
    assert "has changed" in refused(shard, sample.read)


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40).map(
    lambda name: f"{IDS[0]}/{name}.png"
)


@settings(max_examples=100)
@given(
    files=st.dictionaries(names, st.binary(max_size=1500), min_size=1, max_size=5), form=st.sampled_from(["gnu", "pax"])
)
def test_members_equal_tarfile(files: dict[str, bytes], form: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "both.tar"
    path.write_bytes(tar(list(files.items()), FORMATS[form]))
    with tarfile.open(path, "r:") as archive:
        wanted = [(member.name, member.offset_data, member.size) for member in archive if member.isreg()]
    if any(".." in name.split("/") for name, _, _ in wanted):
        fine_or_refused(lambda: list(list_members(path)), path)
        return
    found = list(list_members(path))
    assert [(member.offset, member.size) for member in found] == [item[1:] for item in wanted]
    assert [member.name.split("/") for member in found] == [
        [part for part in name.split("/") if part not in ("", ".")] for name, _, _ in wanted
    ]
    assert [read_member(path, member, 1500) for member in found] == list(files.values())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    form = draw(st.sampled_from(sorted(FORMATS)))
    content = bytearray(
        tar([(f"{IDS[0]}/a.png", png()), ("x" * 120 + "/n.png", png()), ("1.png", b""), ("1.cls", b"1")], FORMATS[form])
    )
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content) - 1))
        content[start : start + draw(st.integers(0, 600))] = draw(st.binary(max_size=20))
        content = content or bytearray(1)
    if draw(st.booleans()) and len(content) >= 512:
        return with_size(bytes(content), draw(st.binary(min_size=12, max_size=12)))
    return bytes(content)


@settings(max_examples=300)
@given(content=st.one_of(st.binary(max_size=1200), damaged()))
def test_any_archive_is_fine_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    shard = tmp_path_factory.getbasetemp() / "any.tar"

    def read_all() -> None:
        for sample in find(shard, content):
            fine_or_refused(lambda sample=sample: sample.read(), shard, sample.location)  # type: ignore[misc]

    fine_or_refused(read_all, shard)
