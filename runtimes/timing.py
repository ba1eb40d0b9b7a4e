"""What is asked of a place where models are timed, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from tofe_edge.errors import InputError
from tofe_edge.io.artifact import DEFAULT_METHOD
from tofe_edge.runtimes.latency import BUSY, WARM_UP_RUNS, Latency

DEFAULT_RUNS = 50

MOST_THREADS = 1024
"""As many as the native runner takes."""


@dataclass(frozen=True)
class TimingRequest:
    """How to time one method of a model: so many runs, or so many seconds."""

    method: str = DEFAULT_METHOD
    runs: int = DEFAULT_RUNS
    duration_s: float | None = None
    """If set, runs are repeated for so long, however many that is."""
    warm_up: int = WARM_UP_RUNS
    """Runs before those that count."""
    threads: int = 1
    cpus: str = ""
    """Cores to run on as ``0,2-3``; empty: wherever the system puts it."""

    def __post_init__(self) -> None:
        if self.runs < 1 or self.warm_up < 0 or not 1 <= self.threads <= MOST_THREADS:
            raise InputError(
                f"runs ({self.runs}) must be at least 1, threads ({self.threads}) 1 to {MOST_THREADS}, warm-up ({self.warm_up}) "
                "at least 0"
            )
        if self.duration_s is not None and not 0 < self.duration_s < float("inf"):
            raise InputError(f"a duration must be a positive number of seconds, not {self.duration_s}")


@dataclass(frozen=True)
class Telemetry:
    """State of the machine at one moment; what its system does not tell is missing."""

    at_s: float
    """Seconds since the first counted run began."""
    khz: Mapping[str, int] = field(default_factory=dict)
    """Clock of each core, by its name (``cpu0``)."""
    celsius: Mapping[str, float] = field(default_factory=dict)
    """Temperatures by the name of their zone."""


@dataclass(frozen=True)
class Machine:
    """The machine that it ran on."""

    arch: str
    """As ``uname -m`` says: ``aarch64``, ``x86_64``."""
    cores: int
    cpu_model: str
    """Empty if the system does not say."""
    model: str = ""
    """The board's or product's name, likewise."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The time of every counted run, and what it took around them."""

    latency: Latency
    """As whoever calls the runtime sees it."""
    load_ms: float | None
    """``None`` if the runtime does not tell."""
    threads: int
    warm_up: int = WARM_UP_RUNS
    """Runs before those that count."""
    planned_bytes: int | None
    """Memory for activations outside the delegates."""
    peak_rss_bytes: int | None
    """Resident memory of the process at its peak; not known if it is not a process of its own."""
    telemetry: tuple[Telemetry, ...] = ()
    machine: Machine | None = None
    gpu: Latency | None = None
    """Time on the GPU alone; ``None`` if the runtime does not use or tell it."""

    @property
    def busy(self) -> bool:
        """Whether something else took the machine's time, or its clock changed: such times are worth few digits."""
        # A core that waits for a GPU is not kept from its work.
        idle = self.gpu is None and self.threads == 1 and self.latency.percentile(50) > BUSY * self.latency.cpu_ms > 0
        return idle or self.latency.disturbed > BUSY


def joined(timings: Sequence[Timing]) -> Timing:
    """Several timings of one method as one; what each tells of time since its own first run is left out.

    Raises:
        ValueError: there are none.
    """
    if not timings:
        raise ValueError("there are no timings to join")
    gpu = [timing.gpu for timing in timings if timing.gpu is not None]
    loads = [timing.load_ms for timing in timings if timing.load_ms is not None]
    peaks = [timing.peak_rss_bytes for timing in timings if timing.peak_rss_bytes is not None]
    first = timings[0]
    return Timing(
        latency=_pooled([timing.latency for timing in timings]),
        load_ms=median(loads) if loads else None,
        threads=first.threads,
        warm_up=first.warm_up,
        planned_bytes=first.planned_bytes,
        peak_rss_bytes=max(peaks, default=None),
        machine=first.machine,
        gpu=_pooled(gpu) if gpu else None,
    )


def _pooled(latencies: Sequence[Latency]) -> Latency:
    samples = tuple(sample for one in latencies for sample in one.samples_ms)
    return Latency(samples, sum(one.cpu_ms * len(one.samples_ms) for one in latencies) / len(samples))
