"""A session on a device: a folder of our own there, files in it that are known to be whole, runs that outlive a lost link."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tofe_edge.errors import DeviceError
from tofe_edge.io.files import sha256_of, size_of
from tofe_edge.io.progress import progress_bar, warn
from tofe_edge.runtimes.devices import scripts
from tofe_edge.runtimes.devices.shell import SHORT_S, Answer, LinkDropped, Shell, TimedOut, push_timeout_s, script

Result = TypeVar("Result")

PAUSES_S = (1.0, 4.0, 15.0, 40.0)
"""Pauses before each further attempt after the link broke: together as long as a small board takes to start again."""

_REMOVE_S = 20.0
_CPU_SLACK_S = 30
"""Extra CPU time of a runner: whoever waits for it should give up first."""


@dataclass(frozen=True)
class Parcel:
    """A file to copy to the device, under a name of our choice."""

    local: Path
    name: str
    """Below the temporary folder; letters, digits and ``_ . - /`` alone."""


@contextmanager
def waiting(what: str, expected_s: float | None) -> Iterator[Callable[[], object]]:
    """Show a progress bar for something that reports nothing before its end; yield the function that moves it on."""
    begun = time.monotonic()
    if expected_s is None:
        with progress_bar(what, total=1, unit="model") as bar:
            yield bar.refresh
            bar.update(1)
        return
    with progress_bar(what, total=expected_s, unit="s") as bar:
        yield lambda: bar.update(min(time.monotonic() - begun, expected_s) - bar.n)


class Session:
    """See :func:`stay`."""

    def __init__(self, shell: Shell, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._shell = shell
        self._pauses_s = pauses_s
        self._secret = secrets.token_hex(16)
        self._been_there = False
        self._folder = f"{scripts.PREFIX}{self._secret}"  # its path, once it is known
        self._is_there = False  # the folder, as far as is known since the link broke last
        self._sums: dict[str, str] = {}  # of files that are whole there, by name, likewise

    @property
    def name(self) -> str:
        """The name of the device."""
        return self._shell.name

    def run(
        self,
        parcels: Sequence[Parcel],
        arguments: Sequence[str],
        *,
        cpu_s: float,
        timeout_s: float,
        expected_s: float | None = None,
        doing: str = "measuring",
        program: str = "the native runner",
    ) -> Answer:
        """Run the runner with all parcels there; again from its beginning if the link breaks.

        Args:
            cpu_s: seconds of CPU time after which the device's kernel ends it.
            expected_s: expected duration, if it is known; for the progress bar.
            doing, program: what runs, for people.

        Raises:
            InputError: a file of this machine cannot be read.
            DeviceError: it took longer than ``timeout_s``, or the link is gone for good.
        """

        def attempt() -> Answer:
            folder = self._bring(parcels)
            words = script(scripts.RUN, folder, str(round(cpu_s) + _CPU_SLACK_S), *arguments)
            with waiting(f"{doing} on {self.name}", expected_s) as look:
                try:
                    answer = self._shell.run(words, timeout_s=timeout_s, on_wait=look)
                except TimedOut:
                    raise DeviceError(
                        f"{self.name}: {program} took more than {timeout_s:g} s; ask for fewer runs"
                    ) from None
            if answer.code == scripts.GONE:
                raise LinkDropped(f"{self.name}: {folder} is gone there")
            return answer

        return self._persist(attempt)

    def bring(self, parcels: Sequence[Parcel]) -> str:
        """Have the files on the device, whole; what is there already stays.

        Returns:
            The path of the temporary folder.

        Raises:
            InputError: a file of this machine cannot be read.
            DeviceError: no folder can be made there, it has no space, or the link is gone for good.
        """
        return self._persist(lambda: self._bring(parcels))

    def read(self, name: str) -> bytes:
        """The content of a file that a run left in the folder.

        Raises:
            DeviceError: it is not there, or the link is gone for good.
        """
        return self._persist(lambda: self._shell.read(f"{self._folder}/{name}", timeout_s=10 * SHORT_S))

    def leave(self) -> None:
        """End what still runs there and remove the folder; if that fails, say so in one line."""
        if not self._been_there:
            return
        reason = "interrupted"
        try:
            reason = self._remove()
        finally:
            if reason:
                warn(f"{self.name}: {self._folder} could not be removed there ({reason}); remove it by hand")

    def _remove(self) -> str:
        """Return why the folder could not be removed; empty: it is gone."""
        reason = ""
        for pause_s in (0.0, *self._pauses_s[:2]):
            time.sleep(pause_s)
            try:
                words = script(scripts.REMOVE, self._secret, *self._shell.roots)
                answer = self._shell.run(words, timeout_s=_REMOVE_S)
                return answer.reason if answer.code else ""
            except LinkDropped as error:
                reason = str(error)
            except DeviceError as error:
                return str(error)
        return reason

    def _persist(self, action: Callable[[], Result]) -> Result:
        for pause_s in self._pauses_s:
            try:
                return action()
            except LinkDropped as error:
                warn(f"{error}; trying again in {pause_s:g} s")
                # The device may have started anew: nothing that was known of it holds any more.
                self._is_there = False
                self._sums.clear()
                time.sleep(pause_s)
        return action()

    def _bring(self, parcels: Sequence[Parcel]) -> str:
        if not self._is_there:
            self._folder, self._is_there = self._make_folder(), True
        wanted = {parcel.name: sha256_of(parcel.local) for parcel in parcels}
        if unsure := [name for name in wanted if self._sums.get(name) != wanted[name]]:
            self._sums.update(self._read_sums(self._folder, unsure))
        missing = [parcel for parcel in parcels if self._sums.get(parcel.name) != wanted[parcel.name]]
        if missing:
            self._push(self._folder, missing)
            self._sums.update(self._read_sums(self._folder, [parcel.name for parcel in missing]))
        for parcel in missing:
            if self._sums.pop(parcel.name, None) != wanted[parcel.name]:
                raise LinkDropped(f"{self.name}: {parcel.local} arrived damaged, or was changed meanwhile")
            self._sums[parcel.name] = wanted[parcel.name]
        return self._folder

    def _make_folder(self) -> str:
        self._been_there = True
        answer = self._shell.run(script(scripts.MAKE, self._secret, *self._shell.roots), timeout_s=SHORT_S)
        folder = answer.stdout.decode("utf-8", "replace").rstrip("\n")
        if answer.code or not re.fullmatch(rf"/[^\x00-\x1f\x7f\ufffd]*{scripts.PREFIX}{self._secret}", folder):
            roots = ", ".join(("$TMPDIR", *self._shell.roots, "$HOME"))
            raise DeviceError(
                f"{self.name}: no folder there takes files and lets programs run from it: {roots} ({answer.reason}); "
                "free some space, or set TMPDIR there"
            )
        return folder

    def _push(self, folder: str, parcels: Sequence[Parcel]) -> None:
        total = sum(size_of(parcel.local) for parcel in parcels)
        with progress_bar(f"copying to {self.name}", total=total, unit="B") as bar:
            for parcel in parcels:
                timeout_s = push_timeout_s(size_of(parcel.local))
                self._shell.push(parcel.local, f"{folder}/{parcel.name}", timeout_s=timeout_s, on_bytes=bar.update)

    def _read_sums(self, folder: str, names: Sequence[str]) -> dict[str, str]:
        answer = self._shell.run(script(scripts.SUMS, folder, *names), timeout_s=SHORT_S + push_timeout_s(0))
        if answer.code == 3:
            return self._sums_of_copies(folder, names)
        if answer.code:
            raise LinkDropped(f"{self.name}: {folder} is gone there")
        found = re.findall(r"^([0-9a-f]{64})[ *]+(.+)$", answer.stdout.decode("ascii", "replace"), re.MULTILINE)
        return {name: digest for digest, name in found if name in names}

    def _sums_of_copies(self, folder: str, names: Sequence[str]) -> dict[str, str]:
        """The device has no tool for checksums: what is there is read back."""
        sums = {}
        for name in names:
            if not self._shell.run(["test", "-f", f"{folder}/{name}"], timeout_s=SHORT_S).code:
                content = self._shell.read(f"{folder}/{name}", timeout_s=10 * SHORT_S)
                sums[name] = hashlib.sha256(content).hexdigest()
        return sums


@contextmanager
def stay(shell: Shell, pauses_s: Sequence[float] = PAUSES_S) -> Iterator[Session]:
    """Yield a session on a device; whatever happens, its folder there is removed at the end.

    Args:
        pauses_s: seconds to wait before each further attempt after the link broke.
    """
    session = Session(shell, pauses_s)
    try:
        yield session
    finally:
        session.leave()
