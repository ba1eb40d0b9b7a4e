"""Lowering static graphs to one ExecuTorch program with the XNNPACK delegate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tofe_edge.io.quiet import quiet
from tofe_edge.io.targets import Lowered, LoweredMethod


def lower(methods: Mapping[str, nn.Module], input_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]]) -> Lowered:
    """Export and lower graphs into one program, in which equal constants are stored once.

    Args:
        methods: graphs by the name under which the program offers them; ``forward`` is the default.
        input_shape: ``(B, 3, H, W)``, of all of them; or of each, by name.
    """
    with quiet():
        from executorch.backends.transforms.remove_clone_ops import RemoveCloneOpsTransform
        from executorch.exir import to_edge_transform_and_lower

        from tofe_edge.converters.partition import LevelPartitioner

        shapes = input_shape if isinstance(input_shape, Mapping) else dict.fromkeys(methods, input_shape)
        with torch.no_grad():
            programs = {
                name: torch.export.export(graph, (torch.zeros(*shapes[name]),)) for name, graph in methods.items()
            }
        edge = to_edge_transform_and_lower(
            programs,
            # Copies after a transposition, before partitioning: XNNPACK's transposition copies anyway, and with a
            # copy in a stage its backend would run all of its passes on it.
            transform_passes=[RemoveCloneOpsTransform()],
            partitioner={name: [LevelPartitioner()] for name in programs},
        )
        return finished(edge, list(programs))


def finished(edge: Any, names: Sequence[str]) -> Lowered:
    """The program of a lowered edge module with these methods."""
    from executorch.devtools.backend_debug import get_delegation_info

    infos = {name: get_delegation_info(edge.exported_program(name).graph_module) for name in names}
    executable = edge.to_executorch()
    plans = {plan.name: plan for plan in executable.executorch_program.execution_plan}
    methods = {
        name: LoweredMethod(
            delegates=info.num_delegated_subgraphs,
            fallback_ops=_fallback_ops(info),
            planned_memory_bytes=int(sum(plans[name].non_const_buffer_sizes)),
        )
        for name, info in infos.items()
    }
    return Lowered(bytes(executable.buffer), methods)


def _fallback_ops(info: Any) -> dict[str, int]:
    table = info.get_operator_delegation_dataframe()
    return {
        str(row.op_type).removeprefix("aten_").removesuffix("_default"): int(row.occurrences_in_non_delegated_graphs)
        for row in table.itertuples()
        if row.occurrences_in_non_delegated_graphs and row.op_type not in ("getitem", "Total")
    }
