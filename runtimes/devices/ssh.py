"""Devices that the system's ssh reaches; the user's configuration, agent and known hosts decide how.

All commands share one connection, ssh's own ``ControlMaster``: agreeing on keys takes a small board longer than most
of what it is asked. If the connection breaks, the next command makes a new one.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.errors import DeviceError
from tofe_edge.runtimes.devices.address import SshAddress
from tofe_edge.runtimes.devices.process import MOST_FILE, Ended, OverdueError, run_program
from tofe_edge.runtimes.devices.shell import (
    SHORT_S,
    Answer,
    LinkDropped,
    TimedOut,
    framed,
    last_line,
    printable,
    script,
    unframed,
)

_OPTIONS = (
    "BatchMode=yes",  # nobody is there to type a password or to accept a key
    "ConnectTimeout=10",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    # What the user's configuration may have for logins by hand, and what would be in the way here.
    "RequestTTY=no",
    "RemoteCommand=none",
    "PermitLocalCommand=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "LogLevel=ERROR",
)

_FINAL = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed|No .* host key is known",
        "its host key is not the one in your known hosts, or not in them; compare the key, then log in once by hand: {by_hand}",
    ),
    (
        r"Permission denied|Too many authentication failures|No supported authentication|no mutual signature",
        "it refuses your key; set one up (ssh-copy-id) until this works without a password: {by_hand}",
    ),
    (r"Could not resolve hostname|Name or service not known", "there is no such host ({reason}); check the name"),
    (
        r"Bad configuration option|bad configuration|Can't open user config",
        "your ssh configuration is wrong ({reason})",
    ),
)
"""Messages of ssh after which another attempt would end the same way, and what to do."""


_IDLE_S = 60
"""The shared connection ends by itself after so long, should nobody be there any more to end it."""

_LONGEST_SOCKET = 80
"""Limit of a socket's path: 104 bytes on some systems, of which ssh needs a part for itself."""


@dataclass(frozen=True)
class SshShell:
    """A shell on a device through the system's ssh."""

    address: SshAddress
    socket: Path | None = None
    """Socket of the connection that commands share; ``None``: each makes its own."""
    roots: Sequence[str] = ("/tmp", "/var/tmp")

    @property
    def name(self) -> str:
        """See :class:`tofe_edge.runtimes.devices.shell.Shell`."""
        return str(self.address)

    def run(self, words: Sequence[str], *, timeout_s: float, on_wait: Callable[[], object] | None = None) -> Answer:
        """See :class:`tofe_edge.runtimes.devices.shell.Shell`."""
        return self._answer(words, timeout_s, on_wait=on_wait)

    def push(self, local: Path, remote: str, *, timeout_s: float, on_bytes: Callable[[int], object]) -> None:
        """See :class:`tofe_edge.runtimes.devices.shell.Shell`."""
        # Not scp or sftp: they read names by rules of their own, and small systems have neither.
        answer = self._answer(script('cat >"$0"', remote), timeout_s, given=local, on_bytes=on_bytes)
        if answer.code:
            raise DeviceError(f"{self.name}: {remote} cannot be written ({answer.reason}); free some space there")

    def read(self, remote: str, *, timeout_s: float) -> bytes:
        """See :class:`tofe_edge.runtimes.devices.shell.Shell`."""
        answer = self._answer(script('exec cat <"$0"', remote), timeout_s, most_bytes=MOST_FILE)
        if answer.code:
            raise DeviceError(f"{self.name}: {remote} cannot be read ({answer.reason})")
        return answer.stdout

    def command(self, line: str) -> list[str]:
        """Return the command to run here so that the device's login shell reads ``line``."""
        return [*self._ssh(), "--", self.address.host, line]

    def disconnect(self) -> None:
        """End the shared connection, if there is one."""
        if self.socket is not None:
            # Where there is none, ssh says so, and all is well.
            with contextlib.suppress(OverdueError):
                run_program([*self._ssh(), "-O", "exit", "--", self.address.host], timeout_s=SHORT_S)

    def _ssh(self) -> list[str]:
        command = ["ssh", *(word for option in _OPTIONS for word in ("-o", option))]
        shared = ("auto", self.socket, _IDLE_S) if self.socket is not None else ("no", "none", "no")
        for name, value in zip(("ControlMaster", "ControlPath", "ControlPersist"), shared):
            command += ["-o", f"{name}={value}"]
        if self.address.port is not None:
            command += ["-p", str(self.address.port)]
        if self.address.user is not None:
            command += ["-l", self.address.user]
        return command

    def _answer(
        self,
        words: Sequence[str],
        timeout_s: float = SHORT_S,
        *,
        given: Path | None = None,
        on_bytes: Callable[[int], object] | None = None,
        on_wait: Callable[[], object] | None = None,
        most_bytes: int | None = None,
    ) -> Answer:
        line, mark = framed(words)
        try:
            ended = run_program(
                self.command(line),
                timeout_s=timeout_s,
                given=given,
                on_bytes=on_bytes,
                on_wait=on_wait,
                most_bytes=most_bytes,
            )
        except OverdueError:
            raise TimedOut(f"{self.name}: no answer within {timeout_s:g} s; check the device and its network") from None
        answer = unframed(ended.stdout, mark)
        if answer is None:
            raise self._trouble(ended)
        return Answer(*answer, printable(ended.stderr))

    def _trouble(self, ended: Ended) -> DeviceError:
        said = printable(ended.stderr)
        reason = last_line(said) or f"ssh ended with {ended.code}"
        port = f" -p {self.address.port}" if self.address.port else ""
        user = f"{self.address.user}@" if self.address.user else ""
        by_hand = f"ssh{port} {user}{self.address.host}"
        for pattern, advice in _FINAL:
            if re.search(pattern, said):
                return DeviceError(f"{self.name}: {advice.format(by_hand=by_hand, reason=reason)}")
        if ended.code != 255 and not re.search(r"onnection|broken pipe", said, re.IGNORECASE):
            # The login shell ran and did not do as it was told.
            return DeviceError(f"{self.name}: its login shell runs no sh ({reason}); try by hand: {by_hand} sh -c true")
        return LinkDropped(f"{self.name}: cannot be reached ({reason}); is it on, and does this work: {by_hand}")


@contextmanager
def connected(address: SshAddress) -> Iterator[SshShell]:
    """Yield a shell whose commands share a connection, which the first one makes and the end of the block ends."""
    with tempfile.TemporaryDirectory(prefix="tofe-edge-", ignore_cleanup_errors=True) as folder:
        socket = Path(folder) / "ssh"
        # ssh reads % and quotes in the path of its socket, and takes short ones alone.
        plain = re.fullmatch(r"[A-Za-z0-9/_.-]+", str(socket)) and len(str(socket)) <= _LONGEST_SOCKET
        shell = SshShell(address, socket if plain else None)
        try:
            yield shell
        finally:
            shell.disconnect()
