"""Names of files in bundles, and archives whose bytes follow from their content."""

import io
import struct
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.packaging.archive import alignment_of, read_tar_gz, read_zip, tar_gz_bytes, zip_bytes
from tofe_edge.packaging.bundle import (
    MAX_FILES,
    Bundle,
    BundleFile,
    check_files,
    check_member_name,
    check_model_name,
    identifier,
)

HOSTILE = (
    *("", ".", "..", "../x", "x/../y", "/x", "x//y", "x/", "./x", "c:/x", "C:x", r"x\y", r"\\host\x"),
    *("x y", "x\ny", "x\0", "é"),
    *("con", "NUL.txt", "x/com1", "x.", "x/..", "~/x?", "x*", "a" * 96, "/".join(["abcd"] * 50)),
)

PARTS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._+@$-]{0,10}[A-Za-z0-9]", fullmatch=True)
FILES = st.dictionaries(
    st.tuples(PARTS, PARTS).map("/d".join).map("d/".__add__),
    st.builds(BundleFile, st.binary(max_size=300), st.booleans()),
    min_size=1,
    max_size=6,
).filter(lambda files: _is_fine(files))


def _is_fine(files: dict[str, BundleFile]) -> bool:
    try:
        check_files(files)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("name", HOSTILE)
def test_unsafe_file_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match="not a safe file name") as caught:
        check_member_name(name)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", ["x", ".gitignore", "a/b.c/d_e-f+g@h", "org/Model$Companion.class", "a" * 95])
def test_plain_file_names_are_taken(name: str) -> None:
    check_member_name(name)


@pytest.mark.parametrize(
    "name", ["", "../x", "a b", "é", "a" * 65, "1x", "-x", "a..b", "a.", "a/b", "con", "a\n", "x'", "$x"]
)
def test_names_that_cannot_name_a_package_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"^model\.pte: .* cannot name a package: .*--name"):
        check_model_name(name, "model.pte")


def test_identifiers_are_lower_case_words() -> None:
    assert identifier("Tofe_deit-tiny.063-") == "tofe_deit_tiny_063"


def test_files_that_would_meet_are_refused() -> None:
    one = BundleFile(b"")
    too_many, count = [f"f{number}" for number in range(MAX_FILES + 1)], f"1 to {MAX_FILES} files"
    for names, why in (
        *((["a", "A"], "case alone"), (["a", "a/b"], "a folder too"), (["x/.."], "not a safe")),
        *(([], count), (too_many, count)),
    ):
        with pytest.raises(InputError, match=why):
            check_files(dict.fromkeys(names, one))
    with pytest.raises(InputError, match="slash"):
        Bundle("a/b", "folder", {"x": one})


@given(FILES)
def test_archives_come_back_and_do_not_depend_on_the_order_of_files(files: dict[str, BundleFile]) -> None:
    turned = dict(reversed(files.items()))
    assert zip_bytes(files) == zip_bytes(turned) and read_zip(zip_bytes(files), "x.zip") == files
    packed = tar_gz_bytes(files, "folder")
    assert packed == tar_gz_bytes(turned, "folder") and read_tar_gz(packed, "x.tar.gz") == files


@given(FILES)
def test_other_programs_read_the_archives(files: dict[str, BundleFile]) -> None:
    with zipfile.ZipFile(io.BytesIO(zip_bytes(files))) as archive:
        assert archive.testzip() is None
        assert {one.filename: archive.read(one) for one in archive.infolist()} == {
            name: file.data for name, file in files.items()
        }
    with tarfile.open(fileobj=io.BytesIO(tar_gz_bytes(files, "folder")), mode="r:gz") as tar:
        members = {one.name: one for one in tar.getmembers()}
    assert {name.removeprefix("folder/") for name in members} == set(files)
    for name, file in files.items():
        member = members[f"folder/{name}"]
        assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
        assert member.mode == (0o755 if file.executable else 0o644)


@given(FILES, st.sampled_from(["lib/x.so", "model.pte", "a.txt", "abc"]))
def test_entries_of_a_zip_are_stored_and_aligned(files: dict[str, BundleFile], name: str) -> None:
    content = zip_bytes({**files, name: BundleFile(b"content")})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED and entry.date_time == (1980, 1, 1, 0, 0, 0)
            length, extra = struct.unpack_from("<HH", content, entry.header_offset + 26)
            begin = entry.header_offset + 30 + length + extra
            assert begin % alignment_of(entry.filename) == 0
            assert content[begin : begin + entry.file_size] == archive.read(entry)
    assert (alignment_of("x.pte"), alignment_of("x.so"), alignment_of("x.png")) == (16384, 16384, 4)


def test_a_path_too_long_for_tar_is_refused() -> None:
    name = "/".join(["a" * 90, "b" * 90])
    with pytest.raises(InputError, match="name is too long for a tar archive; give a shorter name"):
        tar_gz_bytes({name: BundleFile(b"")}, "c" * 90)
