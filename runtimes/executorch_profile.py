"""``tofe-edge profile`` of ExecuTorch programs: on a bench, alone or in turn with another model, and traced here."""

from __future__ import annotations

from dataclasses import replace

from tofe_edge.io.artifact import Artifact
from tofe_edge.runtimes.devices.opening import open_bench
from tofe_edge.runtimes.etdump import trace
from tofe_edge.runtimes.executorch import check_program
from tofe_edge.runtimes.measurement import measure_on
from tofe_edge.runtimes.reports import LatencyReport, ProfileRequest
from tofe_edge.runtimes.trial import try_first


def profile_program(artifact: Artifact, asked: ProfileRequest) -> LatencyReport:
    """Measure one method of a program.

    Raises:
        InputError: a model is not a program, or another one takes other inputs.
        DeviceError: the device or the runtime fails.
    """
    check_program(artifact)
    # The device first: that it cannot be reached should not be said after half a minute of converting.
    with open_bench(asked.on, asked.runner) as bench:
        here = bench.name == "host"

        def check(model: Artifact) -> None:
            check_program(model)
            if here:
                try_first(model)

        report = measure_on(bench, artifact, asked, check)
        breakdown = trace(artifact, report.request.threads, asked.method, asked.cpus) if here else None
        return replace(report, breakdown=breakdown)
