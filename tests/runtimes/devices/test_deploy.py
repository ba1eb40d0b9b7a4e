"""Which runner a device gets, and which it never gets."""

import os
from pathlib import Path

import pytest
from elf_files import elf
from hypothesis import given
from hypothesis import strategies as st
from local_shell import LocalShell

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.runtimes import native_build
from tofe_edge.runtimes.devices.deploy import DeviceFacts, cache_folder, cached_runner, choose_runner, parse_facts
from tofe_edge.runtimes.native_runner import BINARY

GLIBC, BIONIC = "/lib/ld-linux-aarch64.so.1", "/system/bin/linker64"
HERE = os.uname().machine


def facts(arch: str = "aarch64", system: str = "Linux", android: str = "") -> DeviceFacts:
    return DeviceFacts(arch, system, "6.1", 4, "", "", android)


DEVICE = LocalShell({"PATH": os.environ["PATH"]})


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The targets that were built, with a stand-in for the compiler, in a cache of the test's."""
    done: list[str] = []

    def build(target: str, out_dir: Path) -> Path:
        done.append(target)
        (out_dir / "lib").mkdir(parents=True)
        (out_dir / BINARY).write_bytes(elf("aarch64" if target == "aarch64" else HERE, interpreter="/bin/sh"))
        (out_dir / "lib" / "one.so").write_bytes(b"library")
        return out_dir / BINARY

    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "runner.cpp").write_text("int main() {}")
    monkeypatch.setattr(native_build, "SOURCES", sources)
    monkeypatch.setattr(native_build, "build", build)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return done


def test_a_runner_is_built_once(builds: list[str]) -> None:
    first, again = (choose_runner(DEVICE, facts(HERE), None) for _ in range(2))
    assert builds == ["host"]
    assert first == again
    assert first.program.is_relative_to(cache_folder())
    assert [path.name for path in first.libraries] == ["one.so"]
    assert not list(cache_folder().glob(".*"))


def test_other_sources_are_built_anew(builds: list[str]) -> None:
    first = cached_runner("host", HERE)
    (native_build.SOURCES / "runner.cpp").write_text("int main() { return 1; }")
    second = cached_runner("host", HERE)
    assert builds == ["host", "host"]
    assert first.is_file() and second.is_file() and first != second


def test_a_build_that_fails_leaves_nothing(builds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(target: str, out_dir: Path) -> Path:
        out_dir.mkdir()
        (out_dir / BINARY).write_bytes(b"half")
        raise DeviceError("the compiler fails")

    monkeypatch.setattr(native_build, "build", fail)
    with pytest.raises(DeviceError, match="the compiler fails"):
        cached_runner("host", HERE)
    assert not cache_folder().exists()


def test_an_arm_board_gets_a_cross_build(builds: list[str]) -> None:
    if HERE == "aarch64":
        pytest.skip("this machine is an ARM one; nothing is cross-built")
    assert choose_runner(DEVICE, facts("aarch64"), None).program.parent.name.split("-")[2] == "aarch64"
    assert builds == ["aarch64"]


def test_a_relative_cache_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "tofe-edge" / "runners"


@pytest.mark.parametrize(
    ("arch", "interpreter", "device_facts", "message"),
    [
        ("x86_64", GLIBC, facts("aarch64"), "is built for x86_64, but local is aarch64"),
        ("aarch64", GLIBC, facts("aarch64", android="15"), "is built for Linux with glibc, but local runs Android"),
        ("aarch64", BIONIC, facts("aarch64"), "is built for Android, but local runs another Linux"),
        ("aarch64", "/no/such/loader", facts("aarch64"), "has no /no/such/loader"),
    ],
)
def test_a_runner_for_something_else_is_refused(
    tmp_path: Path, arch: str, interpreter: str, device_facts: DeviceFacts, message: str
) -> None:
    with pytest.raises(InputError, match=f"{BINARY}: is not there"):
        choose_runner(DEVICE, device_facts, tmp_path)
    (tmp_path / BINARY).write_bytes(elf(arch, interpreter=interpreter))
    for given_runner in (tmp_path, tmp_path / BINARY):
        with pytest.raises((InputError, DeviceError), match=message):
            choose_runner(DEVICE, device_facts, given_runner)


@pytest.mark.parametrize(
    ("device_facts", "kind", "message"),
    [
        (facts("aarch64", "Darwin"), DeviceError, "runs Darwin"),
        (facts("armv7l"), DeviceError, "is armv7l"),
        (facts("aarch64", android="15"), InputError, "Android needs a runner of your own"),
    ],
)
def test_devices_that_need_a_runner(
    builds: list[str], device_facts: DeviceFacts, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        choose_runner(DEVICE, device_facts, None)
    assert builds == []


def test_what_devices_say_is_read() -> None:
    said = "arch=arm64\nsystem=Linux\nkernel=6.1\ncores=8\ncpu=\nlscpu=Cortex-A76\ntree=Raspberry Pi 5  Model B\nproduct=x\n"
    assert parse_facts(said) == DeviceFacts("aarch64", "Linux", "6.1", 8, "Cortex-A76", "Raspberry Pi 5 Model B")
    phone = parse_facts("arch=aarch64\ncores=many\nandroid=15\nphone=Some Phone\n")
    assert (phone.cores, phone.board, phone.android) == (0, "Some Phone", "15")


@given(st.text())
def test_whatever_devices_say_is_read(text: str) -> None:
    found = parse_facts(text)
    assert len(found.board) <= 200
    assert found.cores >= 0
