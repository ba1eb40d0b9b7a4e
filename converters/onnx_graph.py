"""Lowering the static graph to ONNX: standard operators that TensorRT and ONNX Runtime both fuse, in an old opset.

Int8 is written as readers recognise it. Static ranges: QuantizeLinear, DequantizeLinear in front of a product whose weights
come out of a DequantizeLinear of their own, all zero points 0, nothing behind it; TensorRT takes no other form. Dynamic
ranges: DynamicQuantizeLinear and MatMulInteger, which ONNX Runtime fuses into one operator and TensorRT does not know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.converters.coreml_graph import native_graph, native_topk
from tofe_edge.converters.quantize import DynamicInput, Int8Weights, StaticRange
from tofe_edge.converters.selection import select_by_topk
from tofe_edge.converters.static_graph import StaticToFe
from tofe_edge.errors import InputError
from tofe_edge.io.quiet import quiet
from tofe_edge.runtimes.onnx import INPUT, output_names

OPSET = 17
"""The newest that TensorRT 8.6 reads, and the oldest with LayerNormalization as one operator."""

IR_VERSION = 8
"""That of ONNX 1.12, which brought opset 17."""

_EXPORTED_OPSET = 18
"""The oldest that PyTorch exports."""

_EXACT_IN_FLOAT16 = 2048
_LARGEST = 2**31
"""Bytes of a protobuf message; more would need a second file."""


def onnx_graph(graph: StaticToFe, batch: int) -> StaticToFe:
    """The same net in operators that ONNX has whole, equal in output up to rounding."""
    return native_graph(graph, _small_numbers(native_topk if batch == 1 else select_by_topk))


def _small_numbers(select: Any) -> Any:
    """A selection that tells positions as int32, the only whole numbers that TensorRT 8 has."""

    def selected(scores: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
        order, best = select(scores, tokens, count)
        return order.to(torch.int32), best

    return selected


class _StaticInput(nn.Module):
    """A :class:`StaticRange` as a pair of operators."""

    def __init__(self, fixed: StaticRange) -> None:
        super().__init__()
        assert fixed.zero == 0, "TensorRT takes no other zero point"
        self.scale: Tensor
        self.zero: Tensor
        self.register_buffer("scale", torch.tensor(fixed.scale))
        self.register_buffer("zero", torch.tensor(0, dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        codes = _operator("QuantizeLinear", (x, self.scale, self.zero), torch.int8, x.shape)
        return _operator("DequantizeLinear", (codes, self.scale, self.zero), torch.float32, x.shape)


class _StaticProduct(nn.Module):
    """:class:`Int8Weights` with its weights behind a DequantizeLinear, those of a Linear transposed as MatMul takes them."""

    def __init__(self, layer: Int8Weights) -> None:
        super().__init__()
        self.convolution = layer.convolution
        self.weight: Tensor
        self.scale: Tensor
        self.zero: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", layer.weight if layer.convolution else layer.weight.T.contiguous())
        self.register_buffer("scale", layer.scale)
        self.register_buffer("zero", torch.zeros(len(layer.scale), dtype=torch.int8))
        # Of three axes: with one ONNX Runtime makes a Gemm of product and bias, which it cannot run in int8.
        bias = layer.bias
        self.register_buffer("bias", bias if bias is None or layer.convolution else bias.view(1, 1, -1))

    def forward(self, x: Tensor) -> Tensor:
        axis = 0 if self.convolution else 1
        values = (self.weight, self.scale, self.zero)
        weight = _operator("DequantizeLinear", values, torch.float32, self.weight.shape, axis=axis)
        if self.convolution is not None:
            stride, padding = self.convolution
            return F.conv2d(x, weight, self.bias, stride, padding)
        return _with_bias(torch.matmul(x, weight), self.bias)


class _DynamicProduct(nn.Module):
    """:class:`Int8Weights` of a Linear behind inputs that are quantized by the range of all tokens together."""

    def __init__(self, layer: Int8Weights) -> None:
        super().__init__()
        self.weight: Tensor
        self.scale: Tensor
        self.zero: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", layer.weight.T.contiguous())
        self.register_buffer("scale", layer.scale)
        self.register_buffer("zero", torch.tensor(0, dtype=torch.int8))
        self.register_buffer("bias", layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        codes, scale, zero = torch.onnx.ops.symbolic_multi_out(
            "DynamicQuantizeLinear", (x,), dtypes=(torch.uint8, torch.float32, torch.uint8), shapes=(x.shape, (), ())
        )
        shape = (*x.shape[:-1], self.weight.shape[1])
        product = _operator("MatMulInteger", (codes, self.weight, zero, self.zero), torch.int32, shape)
        return _with_bias(product.float() * (scale * self.scale), self.bias)


def _with_bias(product: Tensor, bias: Tensor | None) -> Tensor:
    return product if bias is None else product + bias


def _operator(
    name: str, inputs: Sequence[Tensor], dtype: torch.dtype, shape: Sequence[int], **attributes: int
) -> Tensor:
    return torch.onnx.ops.symbolic(name, inputs, {**attributes}, dtype=dtype, shape=shape)


def _as_operators(graph: nn.Module) -> None:
    """Replace, in place, the layers that were quantized by ONNX's operators."""
    for name, module in list(graph.named_modules()):
        if not isinstance(module, nn.Sequential) or not any(isinstance(part, Int8Weights) for part in module):
            continue
        first, *_, last = module
        assert isinstance(last, Int8Weights)
        if isinstance(first, DynamicInput):
            graph.set_submodule(name, _DynamicProduct(last))
        else:
            assert isinstance(first, StaticRange)
            graph.set_submodule(name, nn.Sequential(_StaticInput(first), _StaticProduct(last)))


class _Float32Selector(nn.Module):
    """A selector that computes in fp32 within a net in fp16: a rounded score moves whole tokens in or out."""

    def __init__(self, selector: nn.Module) -> None:
        super().__init__()
        self.selector = selector.float()

    def forward(self, patches: Tensor) -> Any:
        out = self.selector(patches.float())
        return (out[0], out[1].half()) if isinstance(out, tuple) else out


class _HalfNet(nn.Module):
    """A net in fp16 with fp32 in and out."""

    def __init__(self, graph: StaticToFe) -> None:
        super().__init__()
        self.net = graph.half()
        for number, selector in enumerate(graph.selectors):
            graph.selectors[number] = _Float32Selector(selector)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        output, *selections = self.net(image.half())
        return (output.float(), *selections)


def lower(graph: StaticToFe, input_shape: tuple[int, ...], output: str, half: bool, notes: Mapping[str, str]) -> bytes:
    """One ONNX file of a graph, which is changed by it.

    Args:
        graph: of :func:`onnx_graph`, quantized or not.
        input_shape: ``(B, 3, H, W)``.
        output: name of the first output; ``selection_1`` and so on follow.
        half: compute in fp16.
        notes: metadata of the model.

    Raises:
        InputError: fp16 cannot count the tokens, or the file would be too large.
    """
    if half and graph.places is not None and graph.places.shape[1] > _EXACT_IN_FLOAT16:
        raise InputError(
            f"{graph.places.shape[1]} tokens cannot be put in order: float16 counts to {_EXACT_IN_FLOAT16}; use --precision fp32"
        )
    _as_operators(graph)
    net = _HalfNet(graph) if half else graph
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            net.eval(),
            (torch.zeros(*input_shape),),
            dynamo=True,
            opset_version=_EXPORTED_OPSET,
            input_names=[INPUT],
            output_names=output_names(output, len(graph.kept)),
            custom_translation_table={torch.ops.aten.gelu.default: _gelu},
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
    _finish(model, notes)
    if model.ByteSize() >= _LARGEST:
        raise InputError("the ONNX file would have 2 GB or more; use --precision fp16 or int8")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _gelu(x: Any, approximate: str = "none") -> Any:
    """GELU in the order of operators that ONNX Runtime recognises, which is not the exporter's: 20 Erf of a net cost it."""
    from onnxscript.onnx_opset import opset18 as op

    def number(value: float) -> Any:
        return op.CastLike(op.Constant(value_float=value), x)

    if approximate == "tanh":
        inner = op.Mul(op.Add(x, op.Mul(number(0.044715), op.Mul(x, op.Mul(x, x)))), number(math.sqrt(2 / math.pi)))
        return op.Mul(op.Mul(x, op.Add(op.Tanh(inner), number(1.0))), number(0.5))
    return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, number(math.sqrt(2)))), number(1.0))), number(0.5))


def _finish(model: Any, notes: Mapping[str, str]) -> None:
    """Make the exporter's model one of :data:`OPSET`, with names that tell stage and layer, and without its own remarks."""
    import onnx

    stage = 1
    for number, node in enumerate(model.graph.node):
        _to_opset(node, model)
        scopes = next((entry.value for entry in node.metadata_props if entry.key.endswith("name_scopes")), "")
        layers = [scope for scope in re.findall(r"'([^']*)'", scopes)[:-1] if scope]
        layer = (layers or ["net"])[-1].removeprefix("net.")
        node.name = f"stage{stage}/{layer}/{node.op_type}_{number}"
        stage += node.op_type == "TopK"
        # They hold stack traces, and with them the paths of this machine.
        del node.metadata_props[:]
        node.doc_string = ""
    graph = model.graph
    # Shapes of before the exporter's own folding are among them.
    del graph.value_info[:]
    for entry in (model, graph, *graph.initializer, *graph.input, *graph.output):
        entry.doc_string = ""
        del entry.metadata_props[:]
    graph.name = "tofe_edge"
    for key in sorted(notes):
        model.metadata_props.add(key=key, value=notes[key])
    model.producer_name, model.producer_version = "tofe-edge", notes.get("tofe_edge.version", "")
    del model.opset_import[:]
    model.opset_import.add(domain="", version=OPSET)
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)


def _to_opset(node: Any, model: Any) -> None:
    """Write a node of :data:`_EXPORTED_OPSET` as :data:`OPSET` has it: two kinds differ of those that our graphs have."""
    import onnx

    if node.op_type == "Split":
        # The number of outputs says the same.
        kept = [attribute for attribute in node.attribute if attribute.name != "num_outputs"]
        del node.attribute[:]
        node.attribute.extend(kept)
    elif node.op_type in ("ReduceMax", "ReduceMean") and len(node.input) == 2:
        axes = next(one for one in model.graph.initializer if one.name == node.input[1])
        node.attribute.add().CopyFrom(onnx.helper.make_attribute("axes", onnx.numpy_helper.to_array(axes).tolist()))
        del node.input[1]
