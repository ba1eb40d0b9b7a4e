"""ONNX Runtime on the plain graph, in the form that was the fastest of those tried.

Opset 23 keeps GELU and attention whole. Attention is exported on ``(1, T, D)``, heads and all, so that the
runtime and not the graph transposes heads: 3 % less time in fp32, 6 % in dynamic int8 than timm's own form.
The transformer optimizer (``model_type="vit"``) finds no attention in timm's graph. Int8 is of weights per
channel, in MatMul, Gemm and Conv with constant weights: with every operator quantized, logits of the dense
net fell from 15.6 to 9.2 dB.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders.contender import (
    Built,
    Pixels,
    PlainToFe,
    Recipe,
    Run,
    Subject,
    exported,
    plain_graph,
    timed_side_by_side,
)
from tofe_edge.converters.request import Build
from tofe_edge.io.artifact import DEFAULT_METHOD
from tofe_edge.io.quiet import quiet
from tofe_edge.io.targets import FP32_GATES, INT8_GATES, Lowered, LoweredMethod, Precision, Target

_INPUT = "image"
_OPSET = 23
_QUANTIZED = ["MatMul", "Gemm", "Conv"]
_OPTIONS = {"MatMulConstBOnly": True}


class OnnxAttention(nn.Module):
    """The layers of an attention module around one ONNX ``Attention`` operator."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = attention.qkv, attention.proj, attention.num_heads

    def forward(self, tokens: Tensor, *_: Any, **__: Any) -> Tensor:
        """Tokens ``(1, T, D)`` to the same shape; the masks that blocks may hand over are ``None`` here."""
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        mixed, *_rest = torch.onnx.ops.attention(query, key, value, q_num_heads=self.heads, kv_num_heads=self.heads)
        out: Tensor = self.proj(mixed)
        return out


def with_onnx_attention(net: PlainToFe) -> PlainToFe:
    """A copy with each attention replaced, save those that normalise queries and keys."""
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        attention = getattr(module, "attn", None)
        if attention is None or not isinstance(getattr(attention, "q_norm", nn.Identity()), nn.Identity):
            continue
        module.attn = OnnxAttention(attention)
    return net


def _make(subject: Subject, precision: str) -> Built:
    content = exported(subject, TARGET, precision).program
    return Built(_run(content, subject.threads), len(content))


def _rewrite(graph: Any, build: Build) -> nn.Module:
    return with_onnx_attention(plain_graph(graph, build))


def _lower(methods: Mapping[str, nn.Module], build: Build) -> Lowered:
    """One method; quantized by ONNX Runtime itself."""
    (net,) = methods.values()
    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as name:
        path = Path(name) / "plain.onnx"
        # The calibration prints.
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            selectors = _export(net, build, path)
            if build.request.precision != "fp32":
                path = _quantize(path, selectors, build)
        return Lowered(path.read_bytes(), {DEFAULT_METHOD: LoweredMethod(1, {}, None)})


def _open(*_: Any) -> Any:
    raise NotImplementedError("a contender is run from memory")


def _export(net: nn.Module, build: Build, path: Path) -> list[str]:
    """Write the ONNX file; returns the names of the selectors' nodes."""
    program = torch.onnx.export(
        net,
        (build.images[0],),
        dynamo=True,
        opset_version=_OPSET,
        input_names=[_INPUT],
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    # The exporter's value_info can name shapes of before its own constant folding, which the quantizer refuses.
    del model.graph.value_info[:]
    path.write_bytes(model.SerializeToString())
    return [node.name for node in model.graph.node if any("selectors" in entry.value for entry in node.metadata_props)]


def _quantize(path: Path, selectors: list[str], build: Build) -> Path:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.inputs: Iterator[dict[str, Pixels]] = iter([{_INPUT: image.numpy()} for image in build.images])

        def get_next(self) -> dict[str, Pixels] | None:
            return next(self.inputs, None)

    prepared, result = path.with_name("prepared.onnx"), path.with_name("int8.onnx")
    # Without the optimizer, which would rename the selectors' nodes; the session optimizes anyway.
    quant_pre_process(path, prepared, skip_optimization=True, skip_symbolic_shape=True)
    # Selectors stay in fp32, as ours do.
    common = {
        "per_channel": True,
        "weight_type": QuantType.QInt8,
        "extra_options": _OPTIONS,
        "nodes_to_exclude": selectors,
    }
    if build.request.precision == "int8 dynamic":
        # The patch convolution stays in fp32: dynamic quantization is of products with constant weights.
        quantize_dynamic(prepared, result, op_types_to_quantize=["MatMul", "Gemm"], **common)
    else:
        quantize_static(
            prepared,
            result,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED,
            activation_type=QuantType.QUInt8,
            # 2.5 dB better than the default, the extremes.
            calibrate_method=CalibrationMethod.Percentile,
            **common,
        )
    return result


def _run(content: bytes, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    # A pool that spins on after a run would take cores from the next contender.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(pixels: Pixels) -> Any:
        return session.run(None, {_INPUT: pixels})[0]

    return run


TARGET = Target(
    name="onnx_runtime",
    backend="onnxruntime",
    title="ONNX Runtime",
    suffix=".onnx",
    is_folder=False,
    libraries=("onnx", "onnxruntime", "onnxscript"),
    # Quantized by the runtime's own tool, not by the pipeline.
    precisions={
        "fp32": Precision(FP32_GATES),
        "int8 dynamic": Precision(INT8_GATES),
        "int8 static": Precision(INT8_GATES),
    },
    check=lambda _request: None,
    rewrite=_rewrite,
    lower=_lower,
    open=_open,
    time=timed_side_by_side,
)
RECIPES = tuple(
    Recipe(TARGET.title, precision, partial(_make, precision=precision), TARGET.libraries)
    for precision in TARGET.precisions
)
