"""Building the native runner: what is missing is named, what does not fit is refused."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import need, shell_script
from native_builds import HEADERS, runner

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.packaging.android import MIN_SDK
from tofe_edge.runtimes.native_build import (
    AARCH64_EXECUTORCH,
    SOURCES,
    aarch64_emulator,
    aarch64_toolchain,
    build,
    host_toolchain,
)


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder on the search path, with a script for each tool that does nothing."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("make", "cmake", "g++", "aarch64-linux-gnu-g++"):
        shell_script(folder / name, "")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(AARCH64_EXECUTORCH, raising=False)
    return folder


def test_what_is_missing_is_named_with_a_command(monkeypatch: pytest.MonkeyPatch, tools: Path, tmp_path: Path) -> None:
    assert host_toolchain().compiler == tools / "g++"
    with pytest.raises(InputError, match=f"{AARCH64_EXECUTORCH} is not set: .*`pip download .*manylinux_2_28_aarch64"):
        aarch64_toolchain()
    with pytest.raises(InputError, match="is not an unpacked ExecuTorch wheel; `pip download"):
        aarch64_toolchain(tmp_path)
    (tools / "make").unlink()
    with pytest.raises(InputError, match=r"make is not installed; `apt-get install cmake make g\+\+`"):
        host_toolchain()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(InputError, match="qemu-aarch64-static is not installed; `apt-get install qemu-user-static"):
        aarch64_emulator()


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (None, r"libexecutorch\.so: cannot be read \(No such file"),
        (b"\x7fELF" + bytes(14) + b"\x3e\x00", r"libexecutorch\.so: is not a library for aarch64"),
        (b"\x7fELF" + bytes(14) + b"\xb7\x00", r"is ExecuTorch 0\.1\.0, but models are made with"),
    ],
)
def test_wrong_wheels_are_refused(tools: Path, tmp_path: Path, library: bytes | None, message: str) -> None:
    package = tmp_path / "executorch"
    (package / "share" / "cmake").mkdir(parents=True)
    (package / "lib").mkdir()
    (package / "version.py").write_text('__version__ = "0.1.0+cpu"\n')
    if library is not None:
        (package / "lib" / "libexecutorch.so").write_bytes(library)
    with pytest.raises(InputError, match=message):
        aarch64_toolchain(tmp_path)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("working\nmodel.cpp:1: error: no\nmore", "model.cpp:1: error: no"),
        (
            "-- on\nCMake Error at CMakeLists.txt:3 (message):\n  headers are\n  missing\n\n-- more",
            "headers are missing",
        ),
    ],
)
def test_a_failed_build(monkeypatch: pytest.MonkeyPatch, tools: Path, tmp_path: Path, said: str, reason: str) -> None:
    monkeypatch.setenv("PATH", f"{tools}:/bin:/usr/bin")
    shell_script(tools / "cmake", f"cat >&2 <<'END'\n{said}\nEND\nexit 1")
    with pytest.raises(DeviceError, match=rf"cannot be built \(cmake: {re.escape(reason)}\)$"):
        build("host", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_toolchain_file_for_android_hands_over_to_that_of_the_ndk(tmp_path: Path) -> None:
    cmake = need("cmake", "apt-get install cmake")

    def included(*words: str) -> str:
        command = [cmake, *words, "-P", str(SOURCES / "android-ndk.cmake")]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "ANDROID_NDK": ""})
        return done.stderr

    assert f"no Android NDK in '{tmp_path}'" in " ".join(included(f"-DANDROID_NDK={tmp_path}").split())
    (tmp_path / "build/cmake").mkdir(parents=True)
    script = 'message("${ANDROID_NDK} ${ANDROID_ABI} ${ANDROID_PLATFORM} ${ANDROID_STL}")\n'
    (tmp_path / "build/cmake/android.toolchain.cmake").write_text(script)
    assert included(f"-DANDROID_NDK={tmp_path}") == f"{tmp_path} arm64-v8a android-{MIN_SDK} c++_static\n"


@pytest.mark.toolchain
def test_builds_in_different_folders_are_the_same_to_the_byte(tmp_path: Path) -> None:
    first = runner("host").binary.parent
    second = build("host", tmp_path / "another" / "place").parent
    for name in ("tofe_runner", "lib/libtofe.so"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.toolchain
def test_missing_headers_are_named(tmp_path: Path) -> None:
    runner("host")  # skips
    toolchain = host_toolchain()
    package = f"-Dexecutorch_DIR={toolchain.executorch / 'share' / 'cmake'}"
    command = [str(toolchain.cmake), "-S", str(SOURCES), "-B", str(tmp_path), package, "-DTOFE_STB_INCLUDE_DIR=OFF"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and f"headers are missing; `{HEADERS}`" in " ".join(done.stderr.split())
