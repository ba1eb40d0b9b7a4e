"""A place where models are timed: this machine here (its cores, clocks and temperatures), others by :mod:`.devices`."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from tofe_edge.errors import DeviceError, InputError, first_line
from tofe_edge.io.quiet import swallow_native_stderr
from tofe_edge.runtimes.executorch import set_threads
from tofe_edge.runtimes.latency import measure
from tofe_edge.runtimes.timing import Machine, Telemetry, Timing, TimingRequest

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


_MOST = 4096


def parse_cpus(text: str) -> frozenset[int]:
    """Return the core numbers of a list such as ``0,2-3``. Raises :class:`InputError` if it is not one."""
    cores: set[int] = set()
    for part in text.split(","):
        bounds = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        first, last = (int(bounds[1]), int(bounds[2] or bounds[1])) if bounds else (1, 0)
        if not first <= last < _MOST:
            raise InputError(f"cores {text!r} are not a list of numbers such as 0,2-3")
        cores.update(range(first, last + 1))
    return frozenset(cores)


@contextmanager
def bound_to(cpus: str) -> Iterator[None]:
    """Run on the cores of a list alone, threads started within too; nothing changes if it is empty.

    Raises:
        InputError: it is not a list, one of these cores is not available here, or the system cannot bind.
    """
    if not cpus:
        yield
        return
    cores = parse_cpus(cpus)
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("cores cannot be chosen on this system; leave the choice out")
    before = os.sched_getaffinity(0)
    # The kernel silently drops a core that does not exist.
    if missing := cores - before:
        raise InputError(
            f"cores {cpus!r} cannot be used (no {_listed(missing)}); this process may use {_listed(before)}"
        )
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise InputError(
            f"cores {cpus!r} cannot be used ({error.strerror}); this process may use {_listed(before)}"
        ) from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _listed(cores: Set[int]) -> str:
    return ",".join(map(str, sorted(cores)))


class Bench(Protocol):
    """A place where models are timed."""

    @property
    def name(self) -> str:
        """For people and manifests: ``host``, ``ssh://pi@kitchen``."""
        ...

    def time(self, model: Path, request: TimingRequest) -> Timing:
        """Time one method of an ExecuTorch program that takes one float32 tensor of any shape.

        Raises:
            InputError: the request or the program is wrong.
            DeviceError: the device or the runtime fails; there is never half a result.
        """
        ...


class HostBench:
    """This machine, in this process."""

    name = "host"

    def time(self, model: Path, request: TimingRequest) -> Timing:
        """Time a program in this process; see :meth:`Bench.time`. The input is random, always the same."""

        def load() -> tuple[Callable[[], object], float]:
            set_threads(request.threads)
            method, load_ms = _load(model, request.method)
            values = constant_noise(method.metadata.input_tensor_meta(0).sizes())
            return lambda: method.execute([values]), load_ms

        try:
            return time_here(load, request)
        except RuntimeError as error:
            raise DeviceError(f"{model}: ExecuTorch failed to run it ({first_line(error)})") from error


def constant_noise(shape: Sequence[int]) -> torch.Tensor:
    """Random numbers of this shape, always the same."""
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0))


def time_here(load: Callable[[], tuple[Callable[[], object], float]], request: TimingRequest) -> Timing:
    """Time in this process what ``load`` gives: a run, and the milliseconds that loading took."""
    with bound_to(request.cpus):
        run, load_ms = load()
        watch = Watch()
        latency = measure(run, request.runs, request.warm_up, duration_s=request.duration_s, between=watch.look)
    return Timing(
        latency=latency,
        load_ms=load_ms,
        threads=request.threads,
        warm_up=request.warm_up,
        planned_bytes=None,
        peak_rss_bytes=None,
        telemetry=watch.seen,
        machine=Machine(platform.machine(), os.cpu_count() or 1, cpu_model()),
    )


def _load(model: Path, name: str) -> tuple[Any, float]:
    """A method of a program, and the milliseconds that loading took."""
    try:
        with swallow_native_stderr():
            from executorch.runtime import Runtime, Verification

            begun = time.perf_counter()
            program = Runtime.get().load_program(model, verification=Verification.InternalConsistency)
            if name not in program.method_names:
                raise InputError(f"{model}: has no method {name!r}")
            return program.load_method(name), (time.perf_counter() - begun) * 1e3
    except RuntimeError as error:
        raise DeviceError(f"{model}: ExecuTorch cannot load it ({first_line(error)})") from error
