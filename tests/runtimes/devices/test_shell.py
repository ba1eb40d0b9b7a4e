"""Commands arrive as they were given, whatever the device's login shell is, and half an answer is none."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_shell import NASTY, has

from tofe_edge.runtimes.devices.shell import framed, last_line, printable, script, unframed

LOGIN_SHELLS = ("sh", "bash", "dash", "zsh", "mksh", "fish", "tcsh", "busybox sh")


@pytest.mark.parametrize("login", LOGIN_SHELLS)
def test_arguments_arrive_as_they_are(login: str, tmp_path: Path) -> None:
    if not has(login.split()[0]):
        pytest.skip(f"{login} is not installed; `apt-get install {login.split()[0]}`")
    line, mark = framed(script('printf "%s|" "$0" "$@"; echo problem >&2; exit 7', *NASTY))
    done = subprocess.run([*login.split(), "-c", line], capture_output=True, cwd=tmp_path, check=False)
    assert unframed(done.stdout, mark) == (7, "".join(f"{word}|" for word in NASTY).encode())
    assert done.stderr == b"problem\n"
    assert list(tmp_path.iterdir()) == []


@given(st.binary(), st.binary(), st.integers(0, 255))
def test_a_frame_gives_back_what_is_in_it(noise: bytes, content: bytes, code: int) -> None:
    _, mark = framed(["true"])
    frame = mark.encode() + b"\n" + content + b"\n" + f"{mark} {code}\n".encode()
    assert unframed(noise + frame, mark) == (code, content)


@given(st.binary(), st.integers(0, 40))
def test_a_frame_cut_short_is_no_answer(content: bytes, cut: int) -> None:
    _, mark = framed(["true"])
    frame = mark.encode() + b"\n" + content + b"\n" + f"{mark} 0\n".encode()
    assert unframed(frame[: len(frame) - 1 - cut], mark) is None


@given(st.binary())
def test_nothing_from_a_device_reaches_the_terminal_as_a_command(content: bytes) -> None:
    text = printable(content)
    assert all(one == "\n" or one.isprintable() for one in text)
    assert "\n" not in last_line(text)
    assert len(last_line(text)) <= 300
