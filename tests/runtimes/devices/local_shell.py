"""This machine as a device behind no link at all, with the faults that a link can have."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.runtimes.devices.process import OverdueError, run_program
from tofe_edge.runtimes.devices.shell import SHORT_S, Answer, LinkDropped, Shell, TimedOut, printable


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


NASTY = (
    *("a b", "it's", "$(touch hit)", "`touch hit`", "!x", "a;touch hit", "& touch hit", "a'b\""),
    *("*", "~", "-n", "-s", 'q"q', "\\", "é&|*", ""),
)
"""Words that a shell would read as something else."""


def check_link(shell: Shell, folder: Path, device: Path) -> None:
    """Words and files arrive as they were given, a failure as one line; ``device`` is a folder there."""
    answer = shell.run(["printf", "%s|", *NASTY], timeout_s=SHORT_S)
    assert (answer.code, answer.stdout.decode()) == (0, "".join(f"{word}|" for word in NASTY))
    answer = shell.run(["sh", "-c", "echo complaint >&2; exit 9"], timeout_s=SHORT_S)
    assert (answer.code, answer.reason) == (9, "complaint")
    local, remote, counts = folder / "-p it's $(touch hit)", str(device / "it's $(touch hit)"), list[int]()
    local.write_bytes(bytes(range(256)) * 3000)
    shell.push(local, remote, timeout_s=SHORT_S, on_bytes=counts.append)
    assert sum(counts) == local.stat().st_size
    assert shell.read(remote, timeout_s=SHORT_S) == local.read_bytes()
    with pytest.raises(DeviceError):
        shell.read(f"{remote}/missing", timeout_s=SHORT_S)
    with pytest.raises(DeviceError, match=r"push failed \(No such file|cannot be written"):
        shell.push(local, str(device / "no" / "where"), timeout_s=SHORT_S, on_bytes=counts.append)
    with pytest.raises(InputError, match="missing"):
        shell.push(folder / "missing", remote, timeout_s=SHORT_S, on_bytes=counts.append)
    assert not list(folder.rglob("hit"))


def has(program: str) -> bool:
    """Whether a shell is installed here."""
    return not subprocess.run(["sh", "-c", f"command -v {program}"], capture_output=True, check=False).returncode
