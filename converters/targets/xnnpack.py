"""ExecuTorch programs whose delegate is XNNPACK: every CPU of phones, boards and PCs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tofe_edge.errors import InputError
from tofe_edge.io.targets import FP32_GATES, INT8_GATES, Lowered, Precision, Target

if TYPE_CHECKING:
    from torch import nn

    from tofe_edge.converters.request import Build, ConvertRequest
    from tofe_edge.converters.static_graph import StaticToFe
    from tofe_edge.io.artifact import Artifact
    from tofe_edge.runtimes.executorch import ExecuTorchModel
    from tofe_edge.runtimes.reports import LatencyReport, ProfileRequest

_SMOOTHING_IMAGES = 16
"""Enough to tell the loud channels of the residual stream: they are the same in every image."""


def _check(request: ConvertRequest) -> None:
    if request.reproducible and request.precision == "int8" and request.int8_mode != "static":
        raise InputError(
            "--reproducible: XNNPACK rounds dynamic int8 differently if a CPU has dot products; use --int8-mode static"
        )
    if request.reproducible and request.counts is not None and request.checkpoint.reduction == "merging":
        raise InputError(
            f"--reproducible: {request.checkpoint.name} merges tokens, which has no reproducible form; leave it out"
        )


def _rewrite(graph: StaticToFe, build: Build) -> StaticToFe:
    """The graph with channels evened out if images tell the loud ones, and with reproducible kernels if asked for."""
    from tofe_edge.converters.reproducible import reproducible
    from tofe_edge.converters.smoothing import loudest_normalised, smooth_residual

    request = build.request
    if request.quantizes and build.images:
        graph = smooth_residual(graph, loudest_normalised(graph, build.images[:_SMOOTHING_IMAGES]))
    return reproducible(graph) if request.reproducible else graph


def _lower(methods: Mapping[str, nn.Module], build: Build) -> Lowered:
    from tofe_edge.converters.executorch import lower

    return lower(methods, build.input_shape)


def _open(artifact: Artifact, threads: int, method: str, _provider: str | None) -> ExecuTorchModel:
    from tofe_edge.runtimes.executorch import load

    return load(artifact, threads, method)


def _time(artifact: Artifact, request: ProfileRequest) -> LatencyReport:
    from tofe_edge.runtimes.executorch_profile import profile_program

    return profile_program(artifact, request)


TARGET = Target(
    name="executorch",
    backend="xnnpack",
    title="ExecuTorch",
    suffix=".pte",
    is_folder=False,
    libraries=("executorch", "torchao"),
    precisions={"fp32": Precision(FP32_GATES), "int8": Precision(INT8_GATES, int8_modes=("dynamic", "static"))},
    precision_hint="XNNPACK computes GELU in fp32 alone; ",
    platforms=("android", "apple", "linux"),
    native_runner=True,
    runtime_options=("on", "runner", "cpus", "threads", "sustained", "against"),
    check=_check,
    rewrite=_rewrite,
    lower=_lower,
    open=_open,
    time=_time,
)
