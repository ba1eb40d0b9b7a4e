"""OpenVINO on the plain graph; int8 by NNCF's post-training quantization with its transformer preset.

Converted from PyTorch, so that attention stays whole (through ONNX it is as fast) and selectors keep their names.
"""

from __future__ import annotations

import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders.contender import Built, Pixels, Recipe, Run, Subject
from tofe_edge.io.quiet import quiet
from tofe_edge.runtimes.native_output import swallow_native_stderr


def _make(subject: Subject, int8: bool) -> Built:
    import openvino

    with quiet(), swallow_native_stderr():
        example = subject.example()
        model = openvino.convert_model(subject.plain(), example_input=(example,), input=[tuple(example.shape)])
        if int8:
            model = _quantize(model, subject)
    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        size = path.stat().st_size + path.with_suffix(".bin").stat().st_size
    return Built(_run(model, subject), size)


def _quantize(model: Any, subject: Subject) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    # Selectors stay in fp32, as ours do: 1 dB better, 2 % faster. NNCF refuses a pattern that matches nothing.
    ignored = nncf.IgnoredScope(patterns=[".*selectors.*"]) if subject.counts is not None else None
    return nncf.quantize(
        model,
        nncf.Dataset(subject.calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(subject.calibration),
        ignored_scope=ignored,
    )


def _run(model: Any, subject: Subject) -> Run:
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": subject.threads,
        "ENABLE_CPU_PINNING": not subject.pinned,
        # Where the CPU has bfloat16 units, OpenVINO would use them without being asked.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(pixels: Pixels) -> Any:
        request.set_input_tensor(openvino.Tensor(pixels, shared_memory=True))
        request.infer()
        return request.get_output_tensor(0).data

    return run


RECIPES = (
    Recipe("OpenVINO", "fp32", partial(_make, int8=False), ("openvino",)),
    Recipe("OpenVINO", "int8 static", partial(_make, int8=True), ("openvino", "nncf")),
)
