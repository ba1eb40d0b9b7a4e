"""Building the native runner: what is missing is named, what does not fit is refused, and what optional headers change."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from native_builds import HEADERS, Built, full_runner, require

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.artifact import Artifact
from tofe_edge.packaging.android import MIN_SDK
from tofe_edge.runtimes.native_build import SOURCES, build
from tofe_edge.runtimes.native_runner import WRONG_CALL
from tofe_edge.runtimes.native_toolchain import AARCH64_EXECUTORCH, aarch64_emulator, aarch64_toolchain, host_toolchain


def test_what_is_missing_is_named_with_the_command_that_gets_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.delenv(AARCH64_EXECUTORCH, raising=False)
    with pytest.raises(InputError, match=r"make is not installed; `apt-get install cmake make g\+\+`"):
        host_toolchain()
    for name in ("make", "cmake", "g++", "aarch64-linux-gnu-g++"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    assert host_toolchain().compiler == tools / "g++"
    with pytest.raises(InputError, match=f"{AARCH64_EXECUTORCH} is not set: .*`pip download .*manylinux_2_28_aarch64"):
        aarch64_toolchain()
    with pytest.raises(InputError, match="holds no unpacked ExecuTorch wheel; `pip download"):
        aarch64_toolchain(tmp_path)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(InputError, match="qemu-aarch64-static is not installed; `apt-get install qemu-user-static"):
        aarch64_emulator()


def test_a_wheel_of_another_machine_or_version_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "executorch"
    (package / "share" / "cmake").mkdir(parents=True)
    (package / "lib").mkdir()
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("make", "cmake", "aarch64-linux-gnu-g++"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv(AARCH64_EXECUTORCH, str(tmp_path))
    with pytest.raises(InputError, match=r"libexecutorch\.so: cannot be read \(No such file"):
        aarch64_toolchain()
    library = package / "lib" / "libexecutorch.so"
    (package / "version.py").write_text('__version__ = "0.1.0+cpu"\n')
    library.write_bytes(b"\x7fELF" + bytes(14) + b"\x3e\x00")
    with pytest.raises(InputError, match=r"libexecutorch\.so: is no library for aarch64"):
        aarch64_toolchain()
    library.write_bytes(b"\x7fELF" + bytes(14) + b"\xb7\x00")
    with pytest.raises(InputError, match=r"is ExecuTorch 0\.1\.0, but models are made with"):
        aarch64_toolchain()


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cmake = tmp_path / "cmake"
    cmake.write_text("#!/bin/sh\necho working\necho 'model.cpp:1: error: no' >&2\necho more\nexit 1\n")
    for name in ("make", "g++"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    out = tmp_path / "out"
    with pytest.raises(DeviceError, match=r"cannot be built \(cmake: model\.cpp:1: error: no\)$"):
        build("host", out)
    assert not out.exists()


def test_the_toolchain_file_for_android_hands_over_to_that_of_the_ndk(tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is missing; `apt-get install cmake`")

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
def test_builds_in_different_folders_are_the_same_to_the_byte(
    tmp_path: Path,
) -> None:
    first = full_runner("host").binary.parent
    second = build("host", tmp_path / "another" / "place").parent
    for name in ("tofe_runner", "lib/libtofe.so"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.toolchain
def test_without_the_headers_for_them_manifests_and_images_are_left_out(
    tmp_path: Path, elastic_artifact: Artifact
) -> None:
    try:
        require("host")
    except InputError as error:
        pytest.skip(str(error))
    toolchain = host_toolchain()
    package = f"-Dexecutorch_DIR={toolchain.executorch / 'share' / 'cmake'}"
    built, installed = str(tmp_path / "build"), tmp_path / "installed"
    for step in (
        ["-S", str(SOURCES), "-B", built, package, "-DTOFE_STB_INCLUDE_DIR=OFF"],
        ["--build", built, "--parallel", "2"],
        ["--install", built, "--prefix", str(installed)],
    ):
        done = subprocess.run([str(toolchain.cmake), *step], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert not (installed / "lib/libtofe.so").exists()
    small = Built(installed / "tofe_runner")
    # It runs models, but cannot compare them with the manifest that stands beside.
    done = small(str(elastic_artifact.path))
    assert done.returncode == 0 and '"verified": false' in done.stdout
    for words in (["--top", "1"], ["--image", "a.png"], ["--self-test", "a.golden"], ["--manifest", "a.json"]):
        message = small.refused(WRONG_CALL, str(elastic_artifact.path), *words)
        assert f"need a runner that was built with the headers of nlohmann/json and stb_image; `{HEADERS}`" in message
