"""What a device reports about itself."""

from __future__ import annotations

from dataclasses import dataclass

from tofe_edge.errors import DeviceError
from tofe_edge.runtimes.devices import scripts
from tofe_edge.runtimes.devices.shell import SHORT_S, Shell, printable, script

_ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}
_LONGEST = 200


@dataclass(frozen=True)
class DeviceFacts:
    """A device as its own system describes it; empty strings and 0 if it does not say."""

    arch: str
    """``aarch64``, ``x86_64``, or what else ``uname -m`` says."""
    system: str
    """``Linux``, ``Darwin``."""
    kernel: str
    cores: int
    cpu_model: str
    board: str
    """The board's or product's name: ``Raspberry Pi 5 Model B Rev 1.0``, ``Google Pixel 9``."""
    android: str = ""
    """Android's version."""


def read_facts(shell: Shell) -> DeviceFacts:
    """Ask a device what it is: the first contact.

    Raises:
        DeviceError: it cannot be reached, or has no POSIX shell.
    """
    answer = shell.run(script(scripts.FACTS, "facts"), timeout_s=SHORT_S)
    facts = parse_facts(printable(answer.stdout))
    if not facts.arch:
        raise DeviceError(f"{shell.name}: does not say what machine it is ({answer.reason}); it must have `uname`")
    return facts


def parse_facts(text: str) -> DeviceFacts:
    """Return facts from the lines that the device printed; what is missing or not a number is empty or 0."""
    said: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            said.setdefault(key, " ".join(value.split())[:_LONGEST])
    arch, cores = said.get("arch", ""), said.get("cores", "")
    return DeviceFacts(
        arch=_ARCHES.get(arch, arch),
        system=said.get("system", ""),
        kernel=said.get("kernel", ""),
        cores=int(cores) if cores.isascii() and cores.isdigit() and len(cores) < 6 else 0,
        cpu_model=said.get("cpu") or said.get("lscpu", ""),
        board=said.get("phone") or said.get("tree") or said.get("product", ""),
        android=said.get("android", ""),
    )
