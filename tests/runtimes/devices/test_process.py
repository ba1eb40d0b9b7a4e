"""Programs that reach devices: their input, their time, their end."""

import threading
import time
from pathlib import Path

import processes
import pytest

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.runtimes.devices import process
from tofe_edge.runtimes.devices.process import OverdueError, run_program


def test_a_file_goes_in_and_is_counted(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000
    (tmp_path / "given").write_bytes(content)
    counts: list[int] = []
    ended = run_program(["cat"], timeout_s=60, given=tmp_path / "given", on_bytes=counts.append)
    assert (ended.code, ended.stdout, ended.stderr) == (0, content, b"")
    assert sum(counts) == len(content)


def test_a_program_that_does_not_read_may_end(tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(bytes(1 << 20))
    assert run_program(["sh", "-c", "exit 3"], timeout_s=60, given=tmp_path / "given").code == 3


def test_stdin_stays_open_until_the_program_is_ended(tmp_path: Path) -> None:
    told = tmp_path / "told"
    waits: list[int] = []
    with pytest.raises(OverdueError):
        run_program(["sh", "-c", f'read -r line; echo "$?" >"{told}"'], timeout_s=0.6, on_wait=lambda: waits.append(1))
    assert told.read_text() == "1\n"  # it saw the end of stdin, and had the time to say so
    assert waits


@pytest.mark.parametrize("given", [False, True])
def test_a_program_that_does_not_end_is_ended(tmp_path: Path, given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GRACE_S", 0.3)
    (tmp_path / "given").write_bytes(bytes(1 << 20))
    with pytest.raises(OverdueError):
        run_program(
            ["sh", "-c", f"trap '' TERM; cd '{tmp_path}'; while :; do sleep 0.1; done"],
            timeout_s=0.3,
            given=tmp_path / "given" if given else None,
        )
    assert processes.until(lambda: not processes.working_in(tmp_path))


def test_an_exception_ends_it_too(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_program(["sh", "-c", f"cd '{tmp_path}'; sleep 60"], timeout_s=60, on_wait=interrupt)
    assert time.monotonic() - begun < 30
    assert threading.active_count() < 50


def test_what_cannot_be_started_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="missing"):
        run_program(["true"], timeout_s=1, given=tmp_path / "missing")
    with pytest.raises(InputError, match="cannot be started"):
        run_program(["true", "a\0b"], timeout_s=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="ssh: is not installed; `apt-get install openssh-client`"):
        run_program(["ssh"], timeout_s=1)


@pytest.mark.parametrize("to", ["1", "2"])
def test_a_program_that_floods_is_ended(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_MOST_OUTPUT", 1 << 20)
    with pytest.raises(DeviceError, match="sh: more than 1 MB came as an answer"):
        run_program(["sh", "-c", f"exec yes >&{to}"], timeout_s=60)
    with pytest.raises(DeviceError, match="more than 1 MB"):
        run_program(["sh", "-c", f"head -c 2000000 /dev/zero >&{to}"], timeout_s=60)


def test_the_end_of_a_long_message_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_MOST_ERRORS", 100)
    ended = run_program(["sh", "-c", "head -c 5000 /dev/zero >&2; echo the reason >&2"], timeout_s=60)
    assert len(ended.stderr) == 100 and ended.stderr.endswith(b"the reason\n")
