"""A place where models are timed: this machine here, another one through :mod:`tofe_edge.runtimes.devices`."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.runtimes import telemetry
from tofe_edge.runtimes.affinity import bound_to
from tofe_edge.runtimes.executorch import first_line, set_threads
from tofe_edge.runtimes.latency import measure
from tofe_edge.runtimes.native_output import swallow_native_stderr
from tofe_edge.runtimes.timing import Machine, Timing, TimingRequest


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
        with bound_to(request.cpus):
            set_threads(request.threads)
            method, load_ms = _load(model, request.method)
            shape = method.metadata.input_tensor_meta(0).sizes()
            values = torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0))
            watch = telemetry.Watch()
            try:
                latency = measure(
                    lambda: method.execute([values]),
                    request.runs,
                    request.warm_up,
                    duration_s=request.duration_s,
                    between=watch.look,
                )
            except RuntimeError as error:
                raise DeviceError(f"{model}: ExecuTorch failed to run it ({first_line(error)})") from error
        return Timing(
            latency=latency,
            load_ms=load_ms,
            threads=request.threads,
            warm_up=request.warm_up,
            planned_bytes=None,
            peak_rss_bytes=None,
            telemetry=watch.seen,
            machine=Machine(platform.machine(), os.cpu_count() or 1, telemetry.cpu_model()),
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
