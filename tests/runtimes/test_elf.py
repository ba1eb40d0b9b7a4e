"""What ELF headers say, of files made for it and of real ones; damaged ones are refused."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import fine_or_refused, need
from elf_files import elf
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.runtimes.elf import Elf, read_elf

NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=":"), min_size=1, max_size=12)
PLAIN = elf("aarch64", ["liba.so", "libc.so.6"], "$ORIGIN/lib", ["GLIBC_2.17", "GLIBC_2.34"])


@given(
    st.sampled_from(["x86_64", "aarch64"]),
    st.lists(NAMES, max_size=4),
    st.lists(NAMES, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 99)), max_size=4, unique=True),
    st.sampled_from([15, 29]),
)
def test_headers_are_read(
    arch: str, needed: list[str], search: list[str], versions: list[tuple[int, int]], tag: int
) -> None:
    texts = [f"GLIBC_{major}.{minor}" for major, minor in versions]
    data = elf(arch, needed, ":".join(search), [*texts, "GLIBC_PRIVATE", "CXXABI_1.3"], tag, "/lib/ld.so")
    assert read_elf(data, "x") == Elf(arch, "/lib/ld.so", tuple(needed), tuple(search), max(versions, default=(0, 0)))


def test_versions_are_numbers_and_other_machines_named() -> None:
    assert read_elf(elf("x86_64", versions=["GLIBC_2.9", "GLIBC_2.2.5", "GLIBC_2.34"]), "x").glibc == (2, 34)
    assert read_elf(elf("riscv64"), "x") == Elf("machine EM_RISCV", "", (), (), (0, 0))


def test_a_real_program_is_read_as_readelf_reads_it() -> None:
    readelf = need("readelf", "apt-get install binutils")
    program = Path(sys.executable).resolve()
    try:
        found = read_elf(program.read_bytes(), "x")
    except InputError as error:
        pytest.skip(f"needs a Python that is a 64-bit program for Linux: {error}")
    said = subprocess.run([readelf, "-dW", program], capture_output=True, text=True, check=True).stdout
    assert found.needed == tuple(line.split("[")[1].split("]")[0] for line in said.splitlines() if "(NEEDED)" in line)
    said = subprocess.run([readelf, "-VW", program], capture_output=True, text=True, check=True).stdout
    versions = [word.removeprefix("GLIBC_") for word in said.split() if word.startswith("GLIBC_2")]
    assert found.glibc == max(tuple(map(int, one.split(".")[:2])) for one in versions)


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(90), b"\x7fELF\x02\x02" + bytes(90), b"MZ"]
)
def test_what_is_no_64_bit_elf_file_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^lib/x: is not a 64-bit program"):
        read_elf(data, "lib/x")


@pytest.mark.parametrize("length", range(6, len(PLAIN)))
def test_a_file_that_is_cut_short_is_refused_or_read_the_same(length: int) -> None:
    def read() -> None:
        assert read_elf(PLAIN[:length], "x") == read_elf(PLAIN, "x")

    fine_or_refused(read, Path("x"))


@given(st.integers(6, len(PLAIN) - 1), st.binary(min_size=1, max_size=8))
def test_damage_raises_nothing_else(position: int, patch: bytes) -> None:
    data = PLAIN[:position] + patch + PLAIN[position + len(patch) :]
    fine_or_refused(lambda: read_elf(data, "x"), Path("x"))


# Segments; sections; as many sections as the first one says.
@pytest.mark.parametrize(("at", "patch"), [(56, b"\xff\xff"), (60, b"\xff\xff"), (60, b"\0\0")])
def test_a_forged_file_does_not_take_long(at: int, patch: bytes) -> None:
    data = elf("x86_64", versions=["GLIBC_2.34"])
    with pytest.raises(InputError, match="too many segments or sections"):
        read_elf(data[:at] + patch + data[at + 2 :], "x")


def test_forged_tables_do_not_take_long() -> None:
    data = elf("x86_64", versions=["GLIBC_2.34"])
    # 65535 versions, each of which is the first one again.
    at = data.index(struct.pack("<HHI", 1, 1, 1)) + 2
    with pytest.raises(InputError, match="too many versions"):
        read_elf(data[:at] + b"\xff\xff" + data[at + 2 :], "x")
    with pytest.raises(InputError, match="dynamic section has no end"):
        read_elf(elf("x86_64", ["a"] * 5000), "x")
    with pytest.raises(InputError, match="headers are damaged"):
        read_elf(elf("x86_64", ["a" * 5000]), "x")
