"""Post-training quantization to int8 with PT2E: which layers, dynamic or static activations."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from converters.static_graph import StaticToFe

_SELECTOR = "selectors."


@dataclass(frozen=True)
class Int8Plan:
    """How to quantize: weights are int8 per output channel in both modes.

    ``dynamic`` measures each activation's range as it runs, on Linears only; ``static`` fixes ranges from
    calibration images, on Linears and convolutions.
    """

    mode: Literal["dynamic", "static"]
    layers: frozenset[str]
    """Module paths of the layers to quantize."""


def plan_int8(graph: StaticToFe, mode: Literal["dynamic", "static"]) -> Int8Plan:
    """Every Linear (and, static, every convolution) but those of the selectors.

    Selectors stay in fp32: their scores decide which tokens are kept, and a rounding there moves whole
    tokens in or out, for 2 % of the work.
    """
    kinds = (nn.Linear,) if mode == "dynamic" else (nn.Linear, nn.Conv2d)
    layers = {
        name for name, module in graph.named_modules() if isinstance(module, kinds) and not name.startswith(_SELECTOR)
    }
    return Int8Plan(mode, frozenset(layers))


def quantize(
    graph: StaticToFe, example: Tensor, plan: Int8Plan, calibration: Sequence[Tensor]
) -> torch.export.ExportedProgram:
    """Quantize ``graph`` for XNNPACK and export it again.

    Args:
        example: one input, ``(1, 3, H, W)``.
        calibration: inputs of the same shape; static mode takes activation ranges from them.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=plan.mode == "dynamic")
    quantizer = XNNPACKQuantizer()
    operators: tuple[Any, ...] = (torch.ops.aten.linear.default, torch.ops.aten.conv2d.default)
    quantizer.set_filter_function(lambda node: node.target in operators and _module_of(node) in plan.layers)
    # Operator by operator, not set_global: that would also quantize every concatenation, and with it the residual
    # stream, whatever the filter says (0.9 dB and 2 % of the kept tokens on the shipped net).
    for operator in operators:
        quantizer.set_operator_type(operator, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_pt2e(torch.export.export(graph, (example,)).module(), quantizer)
        with torch.no_grad():
            for image in calibration or (example,):
                prepared(image)
        return torch.export.export(convert_pt2e(prepared), (example,))


def _module_of(node: Any) -> str:
    """Path of the module whose forward made this node."""
    stack: Iterable[tuple[str, Any]] = node.meta.get("nn_module_stack", {}).values()
    path = [entry[0] for entry in stack][-1]
    return path.removeprefix("L['self'].").removeprefix("L__self___")
