"""Partitioning for XNNPACK in linear time: one delegate between two operators that XNNPACK does not take.

ExecuTorch's own partitioner decides which operators XNNPACK takes, and that decision is kept. What it does with
them is replaced: it merges groups of nodes pair by pair and looks for cycles at each merge, and it makes the
exporter trace the whole program again to protect operators that we never decompose. Here a node's delegate is
the number of undelegated operators on the longest way to it. Two nodes of one number cannot depend on each other
through an undelegated operator, so each number is a valid delegate.
"""

from __future__ import annotations

from typing import Any

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir.backend.compile_spec_schema import CompileSpec
from executorch.exir.backend.partitioner import DelegationSpec, PartitionResult
from executorch.exir.backend.utils import tag_constant_data
from torch.export import ExportedProgram
from torch.fx import Node

LINEAR_PASS_ONLY = CompileSpec("dqlinear_partitioner", b"")
"""Makes XNNPACK's backend run one of its seventeen graph passes, each of which traces the subgraph again."""

_NEEDS_PASSES = ("convolution", "conv2d", "max_pool2d", "relu", "hardtanh", "clone", "pad", "to_copy", "mean")
"""Operators that the other sixteen rewrite (layout, activation fusion, copies); all but LV-ViT's stem and head do
without them."""

_LARGEST_CONCATENATION = 5
"""Inputs of XNNPACK's concatenation; a pass splits longer ones."""


class LevelPartitioner(XnnpackPartitioner):  # type: ignore[misc]
    """XNNPACK's operator support, grouped by level."""

    def ops_to_not_decompose(self, ep: ExportedProgram) -> tuple[list[Any], None]:
        """Operators to hand over whole. No filter: with one, the exporter traces the program twice more."""
        operators, _ = super().ops_to_not_decompose(ep)
        return operators, None

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        """Tag every node that XNNPACK takes with its level."""
        groups = _without_free_views(self.get_matched_nodes_from_configs(exported_program))
        levels = _levels(exported_program, groups)
        tags: dict[str, DelegationSpec] = {}
        members: dict[str, list[Node]] = {}
        for group in groups:
            for node in group:
                if node.op == "call_function":
                    tag = f"level{levels[node]}"
                    node.meta["delegation_tag"] = tag
                    members.setdefault(tag, []).append(node)
        tag_constant_data(exported_program)
        for tag, nodes in members.items():
            specs = [] if any(map(_needs_passes, nodes)) else [LINEAR_PASS_ONLY]
            tags[tag] = DelegationSpec(XnnpackBackend.__name__, specs)
        return PartitionResult(tagged_exported_program=exported_program, partition_tags=tags)


def _without_free_views(groups: list[list[Node]]) -> list[list[Node]]:
    """Leave views of what comes from outside of all delegates to the runtime, where they cost nothing.

    In a delegate they are copies: XNNPACK cannot alias a tensor that it does not own (27 µs for an image of 224 px).
    """
    inside = {node for group in groups for node in group}
    free = {
        node
        for node in inside
        if node.op == "call_function" and "view_copy" in str(node.target) and node.args[0] not in inside
    }
    return [group for group in groups if not free.intersection(group)]


def _levels(program: ExportedProgram, groups: list[list[Node]]) -> dict[Node, int]:
    """Level of every operator: those of one group (an operator and its quantization nodes) have the same."""
    group_of = {node: index for index, group in enumerate(groups) for node in group if node.op == "call_function"}
    group_level = [0] * len(groups)
    outside: dict[Node, int] = {}

    def level(node: Node) -> int:
        """What a user of this node must have at least."""
        if node in group_of:
            return group_level[group_of[node]]
        return outside.get(node, 0)

    changed = True
    while changed:
        changed = False
        for node in program.graph.nodes:
            if node.op != "call_function":
                continue
            needed = max((level(source) for source in node.all_input_nodes), default=0)
            if node in group_of:
                if needed > group_level[group_of[node]]:
                    group_level[group_of[node]] = needed
                    changed = True
            elif needed + 1 > outside.get(node, 0):
                outside[node] = needed + 1
                changed = True
    return {node: group_level[index] for node, index in group_of.items()}


def _needs_passes(node: Node) -> bool:
    name = getattr(node.target, "__name__", str(node.target))
    if any(word in name for word in _NEEDS_PASSES):
        return True
    return "cat." in name and len(node.all_input_nodes) > _LARGEST_CONCATENATION
