"""This machine as a device behind no link at all, with the faults that a link can have."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tofe_edge.errors import DeviceError
from tofe_edge.runtimes.devices.process import OverdueError, run_program
from tofe_edge.runtimes.devices.shell import Answer, LinkDropped, TimedOut, printable


@dataclass
class LocalShell:
    """Runs everything here, in the environment of a device."""

    environment: Mapping[str, str]
    sh: Sequence[str] = ("sh",)
    """What stands for the device's ``sh``."""
    roots: Sequence[str] = ("/nowhere",)
    name: str = "local"
    broken: Callable[[int], str] = lambda number: ""
    """By the number of the call: ``before`` or ``after`` where the link breaks then, else nothing."""
    damage: Callable[[bytes], bytes] = lambda content: content
    """What becomes of a file on its way."""
    calls: list[str] = field(default_factory=list)

    def run(self, words: Sequence[str], *, timeout_s: float, on_wait: Callable[[], object] | None = None) -> Answer:
        fault = self._call(" ".join(words))
        if words[0] == "sh":
            words = [*self.sh, *words[1:]]
        command = ["env", "-i", *(f"{name}={value}" for name, value in self.environment.items()), *words]
        try:
            ended = run_program(command, timeout_s=timeout_s, on_wait=on_wait)
        except OverdueError:
            raise TimedOut("local: no answer") from None
        self._after(fault)
        return Answer(ended.code, ended.stdout, printable(ended.stderr))

    def push(self, local: Path, remote: str, *, timeout_s: float, on_bytes: Callable[[int], object]) -> None:
        fault = self._call(f"push {remote}")
        content = self.damage(local.read_bytes())
        try:
            Path(remote).write_bytes(content)
        except OSError as error:
            raise DeviceError(f"local: {remote} cannot be written ({error.strerror})") from error
        self._after(fault)
        on_bytes(len(content))

    def read(self, remote: str, *, timeout_s: float) -> bytes:
        self._after(self._call(f"read {remote}"))
        return Path(remote).read_bytes()

    def _call(self, what: str) -> str:
        fault = self.broken(len(self.calls))
        self.calls.append(what)
        if fault == "before":
            raise LinkDropped("local: the link broke")
        return fault

    def _after(self, fault: str) -> None:
        if fault == "after":
            raise LinkDropped("local: the link broke")


def has(program: str) -> bool:
    """Whether a shell is installed here."""
    return not subprocess.run(["sh", "-c", f"command -v {program}"], capture_output=True, check=False).returncode
