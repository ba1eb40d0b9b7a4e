"""Clocks and temperatures of this machine while something runs on it, if Linux tells them."""

from __future__ import annotations

from pathlib import Path

from tofe_edge.runtimes.timing import Telemetry

_EVERY_S = 1.0
"""Reading a temperature can take a millisecond; once a second disturbs nothing."""

_SYS = Path("/sys")


class Watch:
    """Notes the state of the machine, at most once a second, whenever it is told to look."""

    def __init__(self, root: Path = _SYS) -> None:
        self._root = root
        self._looked_s: float | None = None
        self._seen: list[Telemetry] = []

    @property
    def seen(self) -> tuple[Telemetry, ...]:
        """What was noted; empty if the machine tells nothing."""
        return tuple(self._seen)

    def look(self, at_s: float) -> None:
        """Note the state now, ``at_s`` seconds after the first counted run began, unless that was done within a second."""
        if self._looked_s is not None and at_s - self._looked_s < _EVERY_S:
            return
        self._looked_s = at_s
        state = Telemetry(at_s, clocks(self._root), temperatures(self._root))
        if state.khz or state.celsius:
            self._seen.append(state)


def clocks(root: Path = _SYS) -> dict[str, int]:
    """The clock of each core in kHz, by its name (``cpu0``)."""
    khz = {}
    for path in sorted(root.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")):
        if (value := _number(path)) is not None:
            khz[path.parts[-3]] = value
    return khz


def temperatures(root: Path = _SYS) -> dict[str, float]:
    """Degrees Celsius by the name of their thermal zone; zones of one name are numbered."""
    celsius: dict[str, float] = {}
    for path in sorted(root.glob("class/thermal/thermal_zone[0-9]*/temp")):
        value, name = _number(path), _line(path.parent / "type") or path.parent.name
        if value is not None:
            celsius[name if name not in celsius else f"{name} {path.parent.name}"] = value / 1000
    return celsius


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name; empty if the system does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(named, "")


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        # Sensors come and go with the drivers' power management; one that cannot be read is not there.
        return ""


def _number(path: Path) -> int | None:
    text = _line(path)
    return int(text) if text.removeprefix("-").isascii() and text.removeprefix("-").isdigit() else None
