"""What ``tofe-edge profile`` asks of a target, and what it gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.evaluation.parity import Parity
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, Method
from tofe_edge.runtimes.breakdown import Breakdown
from tofe_edge.runtimes.comparison import Comparison, Sustained
from tofe_edge.runtimes.coreml_counts import Share
from tofe_edge.runtimes.coreml_device import OnDevice, Placement
from tofe_edge.runtimes.latency import Latency
from tofe_edge.runtimes.timing import DEFAULT_RUNS, Timing, TimingRequest

DENSE = "dense"
"""What to compare with: the same net without token reduction."""


@dataclass(frozen=True)
class ProfileRequest:
    """What is asked of a target's ``time``: of the options that not every runtime has, those of its own. ``None`` or empty: not
    asked for.

    Attributes:
        on: the bench: ``host``, ``ssh://[user@]host[:port]``, ``adb`` or ``adb://SERIAL``.
        runner: folder of a native runner built for the device.
        sustained: seconds to run for, in place of ``runs``.
        rival: what to compare with, as the user says it; ``open_rival`` makes or opens it, which may take a while.
        compute_units: where Core ML may run a package.
        provider: ONNX Runtime's execution provider.
        engine: what is to run an ONNX file in place of ONNX Runtime: ``tensorrt``.
    """

    method: str = DEFAULT_METHOD
    on: str = "host"
    runner: Path | None = None
    cpus: str = ""
    threads: int | None = None
    runs: int = DEFAULT_RUNS
    sustained: float | None = None
    rival: str | None = None
    open_rival: Callable[[], AbstractContextManager[Artifact]] | None = None
    compute_units: str | None = None
    provider: str | None = None
    engine: str | None = None


@dataclass(frozen=True)
class Engine:
    """What ran a model on a board: TensorRT, and how it was built.

    Attributes:
        version: of TensorRT, as ``10.3.0``.
        flags: that the engine was built with.
        power_mode, gpu_clocks: what ``nvpmodel -q`` and ``jetson_clocks --show`` say; empty if they say nothing.
        gpu: time on the GPU alone; the report's latency has the copies there and back too.
        parity: with the golden vectors.
    """

    version: str
    flags: tuple[str, ...]
    power_mode: str
    gpu_clocks: str
    gpu: Latency
    parity: Parity


@dataclass(frozen=True)
class LatencyReport:
    """The latency of one method of a program, and what explains it.

    Attributes:
        where: the bench: ``host``, ``ssh://pi@kitchen``.
        breakdown: time per stage and operator; ``None`` if it was not traced: on another device, or the trace is unknown.
        sustained: whether the device throttles, if that was asked for.
        comparison: with ``rival``, ``dense`` or the path of another model, if that was asked for.
        nodes: operators by the execution provider that ran them, if the runtime has several.
        engine: what ran it in place of ONNX Runtime.
    """

    artifact: Artifact
    request: TimingRequest
    where: str
    timing: Timing
    breakdown: Breakdown | None
    sustained: Sustained | None
    comparison: Comparison | None
    rival: str | None
    nodes: Mapping[str, int] | None = None
    engine: Engine | None = None


@dataclass(frozen=True)
class PackageReport:
    """What one method of a Core ML package computes, and on a Mac how fast.

    Attributes:
        operators: counts by type of operator, most multiply-accumulates first.
        stages: the same by stage.
        total: of all operators.
        timed: by choice of compute units; empty if this is not a Mac.
        placement: where Core ML means to run the operators, for the first choice.
        runs: timed runs per choice.
    """

    artifact: Artifact
    method: Method
    operators: tuple[Share, ...]
    stages: tuple[Share, ...]
    total: Share
    timed: tuple[OnDevice, ...]
    placement: tuple[Placement, ...]
    runs: int
