"""ONNX files: for TensorRT on NVIDIA's boards, and for ONNX Runtime with any of its execution providers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tofe_edge.errors import InputError
from tofe_edge.io.targets import FP16_GATES, FP32_GATES, INT8_GATES, Lowered, LoweredMethod, Precision, Target

if TYPE_CHECKING:
    from torch import nn

    from tofe_edge.converters.request import Build, ConvertRequest
    from tofe_edge.converters.static_graph import StaticToFe
    from tofe_edge.io.artifact import Artifact
    from tofe_edge.runtimes.onnx import OnnxModel
    from tofe_edge.runtimes.reports import LatencyReport, ProfileRequest


def _check(request: ConvertRequest) -> None:
    from tofe_edge.runtimes.onnx import need

    need("onnx", "onnxscript", "onnxruntime")
    if request.reproducible:
        raise InputError("--reproducible: ONNX leaves rounding to its reader; use XNNPACK (--target executorch)")
    if request.further_gmacs:
        raise InputError(
            "--elastic: an ONNX file holds one budget; convert once for each, with --max-gmacs or --checkpoint"
        )


def _rewrite(graph: StaticToFe, build: Build) -> StaticToFe:
    from tofe_edge.converters.onnx_graph import onnx_graph

    return onnx_graph(graph, build.request.batch)


def _lower(methods: Mapping[str, nn.Module], build: Build) -> Lowered:
    from tofe_edge.converters.onnx_graph import lower
    from tofe_edge.converters.static_graph import StaticToFe

    ((name, graph),) = methods.items()
    assert isinstance(graph, StaticToFe)
    request, classes = build.request, build.request.checkpoint.classes
    kept = build.budgets[name]
    notes = {
        **build.notes,
        "tofe_edge.kept_tokens": "" if kept is None else ",".join(map(str, kept.kept)),
        **({"tofe_edge.classes": json.dumps(classes.names)} if request.output == "logits" else {}),
    }
    content = lower(graph, build.input_shape, request.output, request.precision == "fp16", notes)
    return Lowered(content, {name: LoweredMethod(1, {}, None)})


def _open(artifact: Artifact, threads: int, method: str, provider: str | None) -> OnnxModel:
    from tofe_edge.runtimes.onnx import load

    return load(artifact, threads, method, provider)


def _time(artifact: Artifact, request: ProfileRequest) -> LatencyReport:
    from tofe_edge.runtimes.onnx_profile import profile_file

    return profile_file(artifact, request)


TARGET = Target(
    name="onnx",
    backend="onnx",
    title="ONNX",
    suffix=".onnx",
    is_folder=False,
    # Not ONNX Runtime, which has other names with other providers.
    libraries=("onnx", "onnxscript"),
    precisions={
        "fp32": Precision(FP32_GATES),
        "fp16": Precision(FP16_GATES),
        # Dynamic first: ONNX Runtime takes 0.75 of the time of static ranges on a CPU, and it is more exact by 4 dB.
        # TensorRT reads static ranges alone.
        "int8": Precision(
            INT8_GATES,
            int8_modes=("dynamic", "static"),
            quantizes_outputs=False,
            symmetric=True,
            by_token=False,
        ),
    },
    selections=("topk",),
    runtime_options=("on", "cpus", "threads", "sustained", "against", "provider", "engine"),
    check=_check,
    rewrite=_rewrite,
    lower=_lower,
    open=_open,
    time=_time,
)
