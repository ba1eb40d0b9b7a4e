"""Android devices that the system's adb reaches, by USB or network."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.runtimes.devices.address import AdbAddress
from tofe_edge.runtimes.devices.process import Ended, OverdueError, run_program
from tofe_edge.runtimes.devices.shell import (
    SHORT_S,
    Answer,
    LinkDropped,
    TimedOut,
    framed,
    last_line,
    printable,
    unframed,
)

_NOISE = re.compile(r"^(\* daemon .*|adb server version .* killing\.\.\.|)$")
_STATES = {
    "unauthorized": "it does not trust this computer; unlock it and accept the key that it shows",
    "authorizing": "it does not trust this computer yet; unlock it and accept the key that it shows",
    "offline": "adb has it as offline; plug it in again, or `adb reconnect offline`",
    "no permissions": "this user may not use it; install the udev rules for Android (android-sdk-platform-tools-common)",
}
_REFUSED = re.compile(
    r"remote (?!object|end).*|Permission denied|Read-only|No space|not permitted|couldn't create", re.IGNORECASE
)


@dataclass(frozen=True)
class AdbShell:
    """A shell on an Android device."""

    serial: str
    roots: Sequence[str] = ("/data/local/tmp",)

    @property
    def name(self) -> str:
        """See :class:`tofe_edge.runtimes.devices.shell.Shell`."""
        return f"adb://{self.serial}"

    def run(self, words: Sequence[str], *, timeout_s: float, on_wait: Callable[[], object] | None = None) -> Answer:
        """See :class:`tofe_edge.runtimes.devices.shell.Shell`."""
        line, mark = framed(words)
        ended = self._adb(["shell", line], timeout_s, on_wait)
        # Devices without adb's second shell protocol answer through a terminal: it ends lines with two characters, and
        # stderr is among stdout.
        answer = unframed(ended.stdout, mark) or unframed(ended.stdout.replace(b"\r\n", b"\n"), mark)
        if answer is None:
            raise self._trouble(ended)
        code, stdout = answer
        return Answer(code, stdout, printable(ended.stderr or (stdout if code else b"")))

    def push(self, local: Path, remote: str, *, timeout_s: float, on_bytes: Callable[[int], object]) -> None:
        """See :class:`tofe_edge.runtimes.devices.shell.Shell`; adb tells of the bytes when all are there."""
        if not os.access(local, os.R_OK):
            raise InputError(f"{local}: cannot be read; check the path")
        size = local.stat().st_size
        # Absolute: adb takes no path with a leading slash for an option.
        self._transfer(["push", str(local.absolute()), remote], remote, timeout_s)
        on_bytes(size)

    def read(self, remote: str, *, timeout_s: float) -> bytes:
        """See :class:`tofe_edge.runtimes.devices.shell.Shell`."""
        with tempfile.TemporaryDirectory(prefix="tofe-edge-") as folder:
            taken = Path(folder) / "taken"
            self._transfer(["pull", remote, str(taken)], remote, timeout_s)
            return taken.read_bytes()

    def _transfer(self, words: Sequence[str], remote: str, timeout_s: float) -> None:
        ended = self._adb(words, timeout_s)
        if not ended.code:
            return
        reason = _reason(ended)
        if found := _REFUSED.search(reason):
            raise DeviceError(
                f"{self.name}: {remote}: {words[0]} failed ({found[0].removeprefix('remote ')}); check it and its space"
            )
        raise self._trouble(ended)

    def _adb(self, words: Sequence[str], timeout_s: float, on_wait: Callable[[], object] | None = None) -> Ended:
        try:
            return run_program(["adb", "-s", self.serial, *words], timeout_s=timeout_s, on_wait=on_wait)
        except OverdueError:
            raise TimedOut(f"{self.name}: no answer within {timeout_s:g} s; check the device and its cable") from None

    def _trouble(self, ended: Ended) -> DeviceError:
        reason = _reason(ended)
        for state, advice in _STATES.items():
            if state != "offline" and state in reason:
                return DeviceError(f"{self.name}: {advice}")
        return LinkDropped(f"{self.name}: the link broke ({reason or 'no message'}); check the cable and `adb devices`")


def connect(address: AdbAddress) -> AdbShell:
    """Find the device among those that adb has; its server is started if need be.

    Raises:
        InputError: adb is not installed, or there are several devices and none was named.
        DeviceError: there is none, or it is not ready.
    """
    for words in (["start-server"], ["devices"]):
        try:
            ended = run_program(["adb", *words], timeout_s=SHORT_S)
        except OverdueError:
            raise DeviceError("adb: its server does not answer; `adb kill-server`, then try again") from None
        if ended.code:
            raise DeviceError(
                f"adb: its server cannot be started ({_reason(ended)}); `adb kill-server`, then try again"
            )
    states = listed(ended.stdout.decode("utf-8", "replace"))
    wanted = address.serial or os.environ.get("ANDROID_SERIAL") or None
    if wanted is None:
        if not states:
            raise DeviceError("adb: no device; plug one in with USB debugging on, or `adb connect HOST:PORT`")
        if len(states) > 1:
            raise InputError(f"adb: {len(states)} devices; name one as adb://SERIAL: {', '.join(sorted(states))}")
        wanted = next(iter(states))
    if wanted not in states:
        hint = f"`adb connect {wanted}`" if ":" in wanted else "plug it in with USB debugging on"
        raise DeviceError(f"adb://{wanted}: adb has no such device; {hint}, and see `adb devices`")
    state = states[wanted]
    if state != "device":
        advice = next(
            (text for name, text in _STATES.items() if state.startswith(name)),
            f"its state is {state!r}; start Android on it",
        )
        raise DeviceError(f"adb://{wanted}: {advice}")
    return AdbShell(wanted)


def listed(text: str) -> dict[str, str]:
    """Return the state by serial number, from what ``adb devices`` prints.

    A tab stands between them: a serial number may hold blanks, as in ``adb-X (2)._adb-tls-connect._tcp``.
    """
    _, _, lines = text.partition("List of devices attached")
    pairs = (line.partition("\t" if "\t" in line else " ") for line in lines.splitlines())
    named = ((printable(serial.encode()).strip(), printable(state.encode()).strip()) for serial, _, state in pairs)
    return {serial: state for serial, state in named if serial and state}


def _reason(ended: Ended) -> str:
    """Return adb's own line about the error, which may be followed by advice, and for files is on stdout."""
    said = (printable(ended.stdout) + "\n" + printable(ended.stderr)).splitlines()
    errors = [line for line in said if re.match(r"(adb: )?(error|failed)", line.strip())]
    others = [line for line in printable(ended.stderr).splitlines() if not _NOISE.match(line.strip())]
    return last_line("\n".join(errors or others)).removeprefix("adb: ").removeprefix("error: ")
