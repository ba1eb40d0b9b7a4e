"""The Kotlin compiler as a program that is started: found, ended in time, and never left running."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tofe_edge.errors import InputError
from tofe_edge.packaging import kotlin
from tofe_edge.packaging.bundle import BundleFile

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs shell scripts: Linux or macOS")


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def is_running(process: int) -> bool:
    """Whether there is such a process, and it has not ended unnoticed by whoever should have waited for it."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def hanging(tmp_path: Path) -> tuple[Path, Path]:
    """A compiler that starts another program, as kotlinc starts Java, and the file with that one's id."""
    child = tmp_path / "child"
    return script(tmp_path / "kotlinc", f"sleep 60 &\necho $! > {child}.part; mv {child}.part {child}\nwait"), child


def assert_ended(child: Path) -> None:
    end = time.monotonic() + 5
    while is_running(int(child.read_text())):
        assert time.monotonic() < end, "what the compiler started is still running"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc: Linux")
def test_a_hanging_compiler_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, child = hanging(tmp_path)
    monkeypatch.setattr(kotlin, "_SECONDS", 1)
    with pytest.raises(InputError, match="did not end within 1 s"):
        kotlin.compile_kotlin(compiler, {}, tmp_path, "net")
    assert_ended(child)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc: Linux")
def test_a_packager_that_is_stopped_takes_its_compiler_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, child = hanging(tmp_path)

    def interrupted(self: object, timeout: float | None = None) -> tuple[str, str]:
        while timeout is not None and not child.exists():
            time.sleep(0.01)
        if timeout is not None:
            raise KeyboardInterrupt
        return "", ""

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kotlin.compile_kotlin(compiler, {}, tmp_path, "net")
    assert_ended(child)


def test_a_compiler_in_the_working_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "kotlinc", 'echo "info: kotlinc-jvm 2.1.0 (JRE)" >&2')
    monkeypatch.chdir(tmp_path)
    found = kotlin.compile_kotlin(Path("kotlinc"), {"a.kt": BundleFile(b"")}, tmp_path, "net")
    assert (found.compiler, found.classes) == ("2.1.0", {})
