"""Programs that do not fit their bundle are found before they are shipped."""

from __future__ import annotations

import pytest
from elf_files import elf

from tofe_edge.errors import InputError
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.packaging.linux import read_programs


def problems(**files: bytes) -> list[str]:
    """Of a bundle for aarch64 with ``tofe_runner`` and ``lib/NAME.so``."""
    named = {name if name == "tofe_runner" else f"lib/{name}.so": BundleFile(data) for name, data in files.items()}
    return read_programs({**named, "README.md": BundleFile(b"no program")}).problems("aarch64")


@pytest.mark.parametrize(
    "search", ["$ORIGIN/lib", "${ORIGIN}/lib", "$ORIGIN", "$ORIGIN/lib/../lib", "$ORIGIN/./lib//:$ORIGIN"]
)
def test_a_runner_that_looks_inside_is_fine(search: str) -> None:
    assert problems(tofe_runner=elf("aarch64", ["libx.so", "libc.so.6"], search), libx=elf("aarch64")) == []


@pytest.mark.parametrize(
    ("search", "where"),
    [
        ("/usr/lib", "/usr/lib"),
        ("$ORIGIN/lib:/opt/executorch/lib", "/opt/executorch/lib"),
        ("$ORIGIN/..", "$ORIGIN/.."),
        ("$ORIGIN/lib/../../lib", "$ORIGIN/lib/../../lib"),
        ("lib", "lib"),
        ("$LIB/x", "$LIB/x"),
        ("", "the working folder"),
        ("$ORIGIN/lib:", "the working folder"),
        ("$ORIGINAL/lib", "$ORIGINAL/lib"),
    ],
)
@pytest.mark.parametrize("tag", [15, 29])
def test_a_runner_that_looks_elsewhere_is_not(search: str, where: str, tag: int) -> None:
    message = f"tofe_runner looks for libraries in {where}, outside the bundle"
    assert problems(tofe_runner=elf("aarch64", [], search, tag=tag)) == [message]


def test_a_library_may_look_one_folder_up_and_no_further() -> None:
    assert problems(libx=elf("aarch64", [], "$ORIGIN/../lib")) == []
    assert problems(libx=elf("aarch64", [], "$ORIGIN/../../lib")) == [
        "lib/libx.so looks for libraries in $ORIGIN/../../lib, outside the bundle"
    ]


def test_another_processor_and_a_missing_library_are_named() -> None:
    assert problems(tofe_runner=elf("x86_64", ["libcuda.so.1"])) == [
        "tofe_runner is built for x86_64, not for aarch64",
        "tofe_runner needs libcuda.so.1, which neither the bundle nor a Linux system has",
    ]


def test_a_library_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"^lib/libx\.so: is not a 64-bit program"):
        problems(libx=b"text")


def test_the_oldest_c_library_is_that_of_the_most_demanding() -> None:
    files = {"tofe_runner": elf("aarch64", versions=["GLIBC_2.34"]), "lib/a.so": elf("aarch64", versions=["GLIBC_2.4"])}
    assert read_programs({name: BundleFile(data) for name, data in files.items()}).glibc == (2, 34)
