"""The Kotlin compiler as a program that is started: found, ended in time, and never left running."""

import os
import subprocess
import time
from pathlib import Path

import processes
import pytest
from conftest import shell_script

from tofe_edge.errors import InputError
from tofe_edge.packaging import kotlin
from tofe_edge.packaging.bundle import BundleFile

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs shell scripts: Linux or macOS")


def hanging(tmp_path: Path) -> tuple[Path, Path]:
    """A compiler that starts another program, as kotlinc starts Java, and the file with that one's id."""
    child = tmp_path / "child"
    text = f"sleep 60 &\necho $! > {child}.part; mv {child}.part {child}\nwait"
    return shell_script(tmp_path / "kotlinc", text), child


def has_ended(child: Path) -> bool:
    return processes.until(lambda: not processes.is_running(int(child.read_text())), 5)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc: Linux")
def test_a_hanging_compiler_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, child = hanging(tmp_path)
    monkeypatch.setattr(kotlin, "_SECONDS", 1)
    with pytest.raises(InputError, match="did not end within 1 s"):
        kotlin.compile_kotlin(compiler, {}, tmp_path, "net")
    assert has_ended(child), "what the compiler started is still running"


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
    assert has_ended(child), "what the compiler started is still running"


def test_a_compiler_in_the_working_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell_script(tmp_path / "kotlinc", 'echo "info: kotlinc-jvm 2.1.0 (JRE)" >&2')
    monkeypatch.chdir(tmp_path)
    found = kotlin.compile_kotlin(Path("kotlinc"), {"a.kt": BundleFile(b"")}, tmp_path, "net")
    assert (found.compiler, found.classes) == ("2.1.0", {})
