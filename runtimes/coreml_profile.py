"""``tofe-edge profile`` of Core ML packages: what they compute, and on a Mac how fast and where."""

from __future__ import annotations

from collections.abc import Sequence

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.artifact import Artifact
from tofe_edge.io.progress import warn
from tofe_edge.runtimes import coreml
from tofe_edge.runtimes.breakdown import stage_names
from tofe_edge.runtimes.coreml_checks import function_name
from tofe_edge.runtimes.coreml_counts import by_operator, by_stage, costs, in_total
from tofe_edge.runtimes.coreml_device import OnDevice, Placement, time_on_device
from tofe_edge.runtimes.mil import load_program, open_package
from tofe_edge.runtimes.reports import PackageReport, ProfileRequest
from tofe_edge.runtimes.trial import try_first


def profile_package(artifact: Artifact, asked: ProfileRequest) -> PackageReport:
    """Count, and measure if there is Core ML: the compute units asked for, or each choice with ``all`` first.

    Raises:
        InputError: the package is not what its manifest says.
        DeviceError: Core ML cannot load or run it.
    """
    method = artifact.manifest.method(asked.method)
    program = load_program(open_package(artifact.path), function_name(method.name))
    try:
        counted = costs(program.operations, program.function.inputs)
    except InputError as error:
        raise InputError(f"{artifact.path}: {error}") from error
    timed: Sequence[OnDevice] = ()
    placement: tuple[Placement, ...] = ()
    if coreml.has_core_ml():
        try_first(artifact)
        choices = [units for units in coreml.COMPUTE_UNITS if asked.compute_units in (None, units)]
        timed = [time_on_device(artifact, method.name, units, asked.runs) for units in choices]
        try:
            placement = timed[0].placement()
        except DeviceError as error:
            # The latency has been measured; a plan that is not to be had must not throw it away.
            warn(f"no placement: {error}")
    return PackageReport(
        artifact=artifact,
        method=method,
        operators=tuple(by_operator(counted)),
        stages=tuple(by_stage(counted, stage_names(artifact.manifest))),
        total=in_total(counted),
        timed=tuple(timed),
        placement=placement,
        runs=asked.runs,
    )
