"""A shell on a device, however it is reached: what every way of reaching one must do, and what they share."""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tofe_edge.errors import DeviceError

SHORT_S = 60.0
"""Time limit in seconds of a command that has little to do."""

_SLOWEST_BYTES_PER_S = 50_000
_FRAME = 'printf "%s\\n" "$0"; "$@"; printf "\\n%s %d\\n" "$0" "$?"'


class LinkDropped(DeviceError):  # noqa: N818 -- what happened, as in ConnectionReset
    """The link broke or never came up; another attempt may go through."""


class TimedOut(LinkDropped):
    """No answer in time."""


@dataclass(frozen=True)
class Answer:
    """The complete result of a command on the device."""

    code: int
    """Its exit code; 128 plus the number of the signal if one ended it."""
    stdout: bytes
    stderr: str
    """Only printable characters and line breaks: it comes from another machine and goes to a terminal."""

    @property
    def reason(self) -> str:
        """The last line of stderr, or the exit code."""
        return last_line(self.stderr) or f"exit code {self.code}"


class Shell(Protocol):
    """A POSIX shell on a device."""

    @property
    def name(self) -> str:
        """Name of the device, for people: ``ssh://pi@kitchen``."""
        ...

    @property
    def roots(self) -> Sequence[str]:
        """Folders on the device in which temporary ones may be made, best first; ``$TMPDIR`` comes before them."""
        ...

    def run(self, words: Sequence[str], *, timeout_s: float, on_wait: Callable[[], object] | None = None) -> Answer:
        """Run a program with its arguments, each of which arrives as it is. Its stdin ends when the caller is gone.

        Raises:
            TimedOut: it took longer. It may run on, unless the end of its stdin ends it.
            LinkDropped: the link broke; whether the program ran is not known.
            DeviceError: the device cannot be reached and another attempt would not help.
        """
        ...

    def push(self, local: Path, remote: str, *, timeout_s: float, on_bytes: Callable[[int], object]) -> None:
        """Write a file on the device, over one that is there.

        Args:
            on_bytes: told how many bytes more were sent.

        Raises:
            InputError: the local file cannot be read.
            DeviceError: the remote one cannot be written; and as :meth:`run`.
        """
        ...

    def read(self, remote: str, *, timeout_s: float) -> bytes:
        """Return the content of a file on the device.

        Raises:
            DeviceError: it cannot be read; and as :meth:`run`.
        """
        ...


def script(text: str, zero: str, *arguments: str) -> list[str]:
    """Return the words that run lines of sh, with ``$0`` and arguments from ``$1``. One line: csh quotes no line breaks."""
    return ["sh", "-c", text, zero, *arguments]


def framed(words: Sequence[str]) -> tuple[str, str]:
    """Return a command line for any login shell, and the mark that frames its output.

    Whatever the device's start-up files print stands before the frame, and an answer without its end is no answer:
    exit codes alone cannot tell a command that failed from a link that did.
    """
    mark = secrets.token_hex(16)
    line = shlex.join(script(_FRAME, mark, *words))
    # Within quotes a csh looks for old commands, and a fish for escapes. Only words in quotes have these characters.
    return re.sub(r"[!\\]", lambda found: f"'\\{found[0]}'", line), mark


def unframed(stdout: bytes, mark: str) -> tuple[int, bytes] | None:
    """Return the exit code and output within a frame; ``None`` if the frame is not complete."""
    code = re.search(rb"\n%s ([0-9]{1,3})\n\Z" % mark.encode(), stdout)
    begin = stdout.find(mark.encode() + b"\n")
    if code is None or begin < 0:
        return None
    return int(code[1]), stdout[begin + len(mark) + 1 : code.start()]


def printable(content: bytes) -> str:
    """Return text for a terminal: no escape sequences, line breaks kept."""
    text = content.decode("utf-8", "replace").replace("\r", "\n")
    return "".join(one if one == "\n" or one.isprintable() else " " for one in text)


def last_line(text: str) -> str:
    """Return the last line that is not empty, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def push_timeout_s(size_bytes: int) -> float:
    """Return the seconds to allow for a file: a slow radio link is not a failure."""
    return SHORT_S + size_bytes / _SLOWEST_BYTES_PER_S
