"""Lowering a static graph to ExecuTorch with the XNNPACK delegate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from converters.quantize import plan_int8, quantize
from converters.static_graph import StaticToFe
from tofe_edge.errors import InputError
from tofe_edge.quiet import quiet

Precision = Literal["fp32", "int8-dynamic", "int8-static"]


@dataclass(frozen=True)
class Lowered:
    """An ExecuTorch program and what is known of it."""

    program: bytes
    delegates: int
    """XNNPACK subgraphs: one a stage."""
    fallback_ops: dict[str, int]
    """Operators outside them."""
    fp32_layers: list[str]
    """Layers with weights that stayed in fp32 although the precision is int8."""
    planned_memory_bytes: int


def lower(graph: StaticToFe, image_size: int, precision: Precision, calibration: Sequence[Tensor] = ()) -> Lowered:
    """Export, quantize and lower a static graph.

    Args:
        image_size: side of the square input.
        calibration: inputs ``(1, 3, H, W)``; needed for ``int8-static``.

    Raises:
        InputError: static int8 without calibration images.
    """
    if precision == "int8-static" and not calibration:
        raise InputError("static int8 needs calibration images; give a folder with --calibration")
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import to_edge_transform_and_lower

        example = torch.zeros(1, 3, image_size, image_size)
        fp32_layers: list[str] = []
        if precision == "fp32":
            program = torch.export.export(graph, (example,))
        else:
            plan = plan_int8(graph, "dynamic" if precision == "int8-dynamic" else "static")
            fp32_layers = sorted(_layers_with_weights(graph) - plan.layers)
            program = quantize(graph, example, plan, calibration)
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        lowered_graph = edge.exported_program().graph_module
        info = get_delegation_info(lowered_graph)
        executable = edge.to_executorch()
        plan_sizes = executable.executorch_program.execution_plan[0].non_const_buffer_sizes
        return Lowered(
            program=bytes(executable.buffer),
            delegates=info.num_delegated_subgraphs,
            fallback_ops=_fallback_ops(info),
            fp32_layers=fp32_layers,
            planned_memory_bytes=int(sum(plan_sizes)),
        )


def _layers_with_weights(graph: nn.Module) -> set[str]:
    return {name for name, module in graph.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}


def _fallback_ops(info: Any) -> dict[str, int]:
    table = info.get_operator_delegation_dataframe()
    return {
        str(row.op_type).removeprefix("aten_").removesuffix("_default"): int(row.occurrences_in_non_delegated_graphs)
        for row in table.itertuples()
        if row.occurrences_in_non_delegated_graphs and row.op_type not in ("getitem", "Total")
    }
