"""OpenVINO on the plain graph; int8 by NNCF's post-training quantization with its transformer preset.

Converted from PyTorch, so that attention stays whole (through ONNX it is as fast) and selectors keep their names.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders.contender import (
    Built,
    Pixels,
    Recipe,
    Run,
    Subject,
    exported,
    plain_graph,
    timed_side_by_side,
)
from tofe_edge.converters.request import Build
from tofe_edge.io.artifact import DEFAULT_METHOD
from tofe_edge.io.quiet import quiet, swallow_native_stderr
from tofe_edge.io.targets import FP32_GATES, INT8_GATES, Lowered, LoweredMethod, Precision, Target

_MODEL, _WEIGHTS = "model.xml", "model.bin"


def _make(subject: Subject, precision: str) -> Built:
    content = exported(subject, TARGET, precision).content
    assert not isinstance(content, bytes)
    return Built(_run(content, subject), sum(map(len, content.values())))


def _lower(methods: Mapping[str, Any], build: Build) -> Lowered:
    """One method; quantized by NNCF."""
    import openvino

    (net,) = methods.values()
    with quiet(), swallow_native_stderr():
        example = build.images[0]
        model = openvino.convert_model(net, example_input=(example,), input=[tuple(example.shape)])
        if build.request.precision != "fp32":
            model = _quantize(model, build)
    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as folder:
        openvino.save_model(model, Path(folder) / _MODEL, compress_to_fp16=False)
        files = {name: (Path(folder) / name).read_bytes() for name in (_MODEL, _WEIGHTS)}
    return Lowered(files, {DEFAULT_METHOD: LoweredMethod(1, {}, None)})


def _quantize(model: Any, build: Build) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    # Selectors stay in fp32, as ours do: 1 dB better, 2 % faster. NNCF refuses a pattern that matches nothing.
    dense = build.budgets[DEFAULT_METHOD] is None
    return nncf.quantize(
        model,
        nncf.Dataset([image.numpy() for image in build.images]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(build.images),
        ignored_scope=None if dense else nncf.IgnoredScope(patterns=[".*selectors.*"]),
    )


def _open(*_: Any) -> Any:
    raise NotImplementedError("a contender is run from memory")


def _run(content: Mapping[str, bytes], subject: Subject) -> Run:
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": subject.threads,
        "ENABLE_CPU_PINNING": not subject.pinned,
        # Where the CPU has bfloat16 units, OpenVINO would use them without being asked.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    model = core.read_model(content[_MODEL], content[_WEIGHTS])
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(pixels: Pixels) -> Any:
        request.set_input_tensor(openvino.Tensor(pixels, shared_memory=True))
        request.infer()
        return request.get_output_tensor(0).data

    return run


TARGET = Target(
    name="openvino",
    backend="cpu",
    title="OpenVINO",
    suffix="",
    is_folder=True,
    libraries=("openvino", "nncf"),
    precisions={"fp32": Precision(FP32_GATES), "int8 static": Precision(INT8_GATES)},
    check=lambda _request: None,
    rewrite=plain_graph,
    lower=_lower,
    open=_open,
    time=timed_side_by_side,
)
RECIPES = (
    Recipe(TARGET.title, "fp32", partial(_make, precision="fp32"), ("openvino",)),
    Recipe(TARGET.title, "int8 static", partial(_make, precision="int8 static"), TARGET.libraries),
)
