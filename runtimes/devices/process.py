"""Running the programs that reach devices, ``ssh`` and ``adb``: time-outs, bytes that go in, and an orderly end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tofe_edge.errors import DeviceError, InputError

_PACKAGES = {"ssh": "openssh-client", "adb": "adb"}
_PIECE = 1 << 16
_LOOK_EVERY_S = 0.2
_GRACE_S = 3.0
_MOST_OUTPUT, _MOST_ERRORS = 64 << 20, 1 << 20
"""Bytes of stdout, far above the times of a long measurement, and of stderr, of which the end is read."""
MOST_FILE = 1 << 30
"""Bytes of a file that comes back: an engine is about as large as its model."""


class OverdueError(Exception):
    """A program took longer than it was given; it was ended."""


@dataclass(frozen=True)
class Ended:
    """The exit code and output of a program."""

    code: int
    stdout: bytes
    stderr: bytes


def run_program(
    command: Sequence[str],
    *,
    timeout_s: float,
    given: Path | None = None,
    on_bytes: Callable[[int], object] | None = None,
    on_wait: Callable[[], object] | None = None,
    most_bytes: int | None = None,
) -> Ended:
    """Run a program to its end.

    Args:
        given: file whose content is its stdin. Without one stdin is kept open, empty, until the program ends or is
            given up: for the far side of ssh and adb the end of stdin is the sign that nobody waits any more.
        on_bytes: told how many bytes more went in.
        on_wait: called several times per second.
        most_bytes: that it may write; if not given, more than any answer has, and less than a large file.

    Raises:
        OverdueError: it took more than ``timeout_s`` seconds.
        InputError: it is not installed, or ``given`` cannot be read.
        DeviceError: it writes more than it may; it was ended.
    """
    most = most_bytes or _MOST_OUTPUT

    def look() -> None:
        if max(os.fstat(one.fileno()).st_size for one in (out, err)) > most:
            raise DeviceError(f"{command[0]}: more than {most >> 20} MB came as an answer; what runs on the device?")

    # Files, not pipes: adb leaves a server behind that would hold a pipe open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, contextlib.ExitStack() as stack:
        source = stack.enter_context(_opened(given)) if given is not None else None
        try:
            # A session of its own: Ctrl-C reaches this process alone, which then ends the far side in good order.
            process = subprocess.Popen(
                command, bufsize=0, stdin=subprocess.PIPE, stdout=out, stderr=err, start_new_session=True
            )
        except FileNotFoundError as error:
            raise InputError(f"{command[0]}: is not installed; `apt-get install {_PACKAGES[command[0]]}`") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{command[0]}: cannot be started ({error})") from error
        feeder = None
        try:
            if source is not None:
                feeder = threading.Thread(target=_feed, args=(process, source, on_bytes), daemon=True)
                feeder.start()
            _wait(process, timeout_s, look, on_wait)
        finally:
            _end(process, feeder)
        look()
        out.seek(0)
        err.seek(max(0, os.fstat(err.fileno()).st_size - _MOST_ERRORS))
        return Ended(process.returncode, out.read(), err.read())


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _feed(process: subprocess.Popen[bytes], source: IO[bytes], on_bytes: Callable[[int], object] | None) -> None:
    assert process.stdin is not None
    # A program that ends early says why with its exit code.
    with contextlib.suppress(BrokenPipeError), process.stdin as sink:
        while piece := source.read(_PIECE):
            rest = memoryview(piece)
            while rest:
                rest = rest[sink.write(rest) or 0 :]
            if on_bytes is not None:
                on_bytes(len(piece))


def _wait(
    process: subprocess.Popen[bytes], timeout_s: float, look: Callable[[], object], on_wait: Callable[[], object] | None
) -> None:
    end = time.monotonic() + timeout_s
    while True:
        try:
            process.wait(_LOOK_EVERY_S)
            return
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end:
                raise OverdueError from None
            look()
            if on_wait is not None:
                on_wait()


def _end(process: subprocess.Popen[bytes], feeder: threading.Thread | None) -> None:
    """End it if it runs still: first the end of stdin, which travels to the far side, then signals."""
    if feeder is None:
        assert process.stdin is not None
        process.stdin.close()
    for stop in (process.terminate, process.kill):
        if process.poll() is not None:
            break
        if feeder is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
                break
        stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    process.wait()
    if feeder is not None:
        feeder.join()
