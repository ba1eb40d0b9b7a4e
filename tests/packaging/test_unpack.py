"""Hostile and damaged archives and folders: each is refused in one line, and nothing is extracted."""

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from conftest import refused
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.packaging import archive as module
from tofe_edge.packaging.archive import GZIP_HEAD, read_tar_gz, read_zip, tar_bytes, tar_gz_bytes, unpack, zip_bytes
from tofe_edge.packaging.bundle import BundleFile

FILES = {"a/model.pte": BundleFile(b"model"), "b": BundleFile(b"text", True)}
ZIP, TAR = zip_bytes(FILES), tar_gz_bytes(FILES, "folder")
HOSTILE = ("../x", "/etc/x", "a/../../x", r"..\x", "x y", "é", "a\n")


def foreign_zip(*names: str, method: int = zipfile.ZIP_STORED, mode: int = 0o100644) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.compress_type, entry.external_attr = method, mode << 16
            archive.writestr(entry, b"0" * 100)
    return stream.getvalue()


def foreign_tar(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        archive.addfile(entry)
    return as_gzip(stream.getvalue())


def as_gzip(content: bytes) -> bytes:
    packed = gzip.compress(content, mtime=0)
    return GZIP_HEAD + packed[len(GZIP_HEAD) :]


def why(action: object, content: bytes) -> str:
    with pytest.raises(InputError, match=r"^x: ") as caught:
        action(content, "x")  # type: ignore[operator]
    return str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_members_that_would_leave_the_folder_are_refused(name: str) -> None:
    assert "not a safe file name" in why(read_zip, foreign_zip(name))
    message = why(read_tar_gz, foreign_tar(name))
    assert "not a safe file name" in message or "can't decode byte" in message


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_what_is_no_plain_file_is_refused(kind: bytes) -> None:
    assert "is not a plain file" in why(read_tar_gz, foreign_tar("folder/x", kind, "/etc/passwd"))
    assert "not as this program writes" in why(read_zip, foreign_zip("x", mode=stat.S_IFLNK | 0o777))


def test_compressed_and_repeated_entries_are_refused() -> None:
    assert "x is compressed" in why(read_zip, foreign_zip("x", method=zipfile.ZIP_DEFLATED))
    with pytest.warns(UserWarning, match="Duplicate"):
        content = foreign_zip("x", "x")
    assert "not as this program writes" in why(read_zip, content)


def test_a_tar_of_another_program_is_refused() -> None:
    assert "not as this program writes a tar" in why(read_tar_gz, foreign_tar("folder/x"))
    twice = tar_bytes({"x": BundleFile(b"one")}, "a")[:1024] + tar_bytes({"x": BundleFile(b"two")}, "a")
    assert "not as this program writes a tar" in why(read_tar_gz, as_gzip(twice))


def test_overlapping_entries_cannot_grow() -> None:
    """Two names in the directory for the bytes of one entry, as zip bombs have it."""
    large = zip_bytes({"a": BundleFile(bytes(5000))})
    with zipfile.ZipFile(io.BytesIO(large)) as archive:
        directory = large[archive.start_dir : -22]
    count = 3
    end = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, count, count, count * len(directory), len(large) - 22 - len(directory), 0
    )
    bomb = large[: -22 - len(directory)] + directory * count + end
    assert "entries overlap" in why(read_zip, bomb)


def test_a_tar_that_unpacks_without_end_is_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1 << 20)
    assert "unpacks to more than 1 MiB" in why(read_tar_gz, as_gzip(bytes(1 << 24)))


def test_files_of_two_folders_and_a_second_stream_are_refused() -> None:
    both = tar_bytes({"x": BundleFile(b"")}, "one")[:512] + tar_bytes({"x": BundleFile(b"")}, "two")
    assert "is not below one/" in why(read_tar_gz, as_gzip(both))
    assert "something follows its end" in why(read_tar_gz, TAR + TAR)
    assert "not as this program writes" in why(read_zip, b"PK\3\4" + bytes(40) + ZIP)
    assert "not as this program writes" in why(read_zip, ZIP[:-2] + b"\4\0note")


@pytest.mark.parametrize("length", [12, 100, -30, -10, -1])
def test_a_truncated_archive_is_refused(length: int) -> None:
    why(read_zip, ZIP[:length])
    why(read_tar_gz, TAR[:length])


@given(st.integers(0, len(ZIP) - 1), st.integers(1, 255))
def test_no_byte_of_a_zip_can_change_unseen(position: int, change: int) -> None:
    damaged = ZIP[:position] + bytes([ZIP[position] ^ change]) + ZIP[position + 1 :]
    why(read_zip, damaged)


@given(st.integers(0, len(TAR) - 1), st.integers(1, 255))
def test_no_byte_of_a_tar_can_change_unseen(position: int, change: int) -> None:
    damaged = TAR[:position] + bytes([TAR[position] ^ change]) + TAR[position + 1 :]
    # Deflate can say the same in several ways, some of its bits being unused.
    if inflated(damaged) != inflated(TAR):
        why(read_tar_gz, damaged)


def inflated(content: bytes) -> bytes | None:
    try:
        return content[: len(GZIP_HEAD)] + zlib.decompress(content, 31)
    except zlib.error:
        return None


@given(st.binary(max_size=600))
def test_bytes_of_any_kind_are_refused(content: bytes) -> None:
    for action in (read_zip, read_tar_gz):
        why(action, content)
    why(read_tar_gz, as_gzip(content))


def test_folders_come_back_without_what_macos_leaves(tmp_path: Path) -> None:
    for name, file in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(file.data)
    (tmp_path / "b").chmod(0o755)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    found = unpack(tmp_path)
    assert (found.form, found.files) == ("folder", FILES)


def test_code_is_not_hidden_by_a_name_that_macos_uses(tmp_path: Path) -> None:
    double = b"\0\5\x16\7"
    contents = {"b.kt": b"text", "._b.kt": b"object Evil", "._c.kt": double, ".DS_Storex": b"x", "._d/e.kt": b"x"}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert {name: file.data for name, file in unpack(tmp_path).files.items()} == contents
    (tmp_path / "._b.kt").write_bytes(double + b"attributes")
    assert set(unpack(tmp_path).files) == set(contents) - {"._b.kt"}


def test_folders_in_folders_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "/".join("d" * 150)).mkdir(parents=True)
    assert "not a safe file name" in refused(tmp_path, lambda: unpack(tmp_path))


def test_a_zip_that_names_millions_is_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZipFile", None)
    entry = b"PK\1\2" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"
    count = 5000
    head = b"PK\3\4" + bytes(27)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, count * len(entry), len(head), 0)
    assert "has more than 4096 entries" in why(read_zip, head + entry * count + end)


def test_folders_with_links_or_pipes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    odd = tmp_path / "x" / "odd"
    odd.symlink_to("/etc")
    assert "is not a plain file" in refused(odd, lambda: unpack(tmp_path))
    odd.unlink()
    os.mkfifo(odd)
    assert "is not a plain file" in refused(odd, lambda: unpack(tmp_path))


def test_what_is_no_bundle_at_all_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (b"hello", b"", b"\x89PNG"):
        file.write_bytes(content)
        assert "is not a folder, zip or tar.gz" in refused(file, lambda: unpack(file))
    assert "cannot be read" in refused(tmp_path / "none", lambda: unpack(tmp_path / "none"))
    os.mkfifo(tmp_path / "pipe")
    assert "neither a folder nor a plain file" in refused(tmp_path / "pipe", lambda: unpack(tmp_path / "pipe"))
