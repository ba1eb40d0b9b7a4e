"""Programs of tiny nets by the real exporter, made once for all tests that look at them."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_tofe
from made_once import made_once
from torch import Tensor, nn

from tofe_edge.converters.executorch import lower
from tofe_edge.converters.partition import LINEAR_PASS_ONLY, LevelPartitioner
from tofe_edge.converters.quantize import Int8Mode, gather_statistics, plan_int8, quantize
from tofe_edge.converters.selection import Select, select_by_rank, select_by_topk
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.io.files import write_content
from tofe_edge.io.quiet import swallow_native_stderr
from tofe_edge.io.targets import Lowered, LoweredMethod
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe

SIZE = 64
COUNTS = TokenCounts((9, 5, 3))
OTHER_COUNTS = (12, 7, 4)
"""Of the second method of the program with two."""

OTHER = "forward_12_7_4"


@dataclass(frozen=True)
class Stage:
    """One delegate as the partitioner made it."""

    operators: frozenset[str]
    """Names such as ``aten.convolution.default``."""
    linear_pass_only: bool


@dataclass(frozen=True)
class Export:
    """A graph and what was made of it."""

    graph: StaticToFe
    lowered: Lowered
    stages: tuple[Stage, ...]
    """Of all methods, in the order in which they were partitioned."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, seed: int, size: int = SIZE) -> list[Tensor]:
    """Seeded noise, ``(1, 3, size, size)`` each."""
    return list(torch.randn(count, 1, 3, size, size, generator=seeded(seed)))


def tiny_net(name: str = "deit") -> ToFe:
    """The tiny net of a family, the same each time."""
    return tiny_tofe({"deit": "deit_tiny_patch16_224", "lvvit": "lvvit_s"}[name])


def tiny_graph(select: Select = select_by_topk) -> StaticToFe:
    """The tiny DeiT with the usual counts."""
    return build_static_graph(tiny_net(), COUNTS, select)


@cache
def int8_graph(mode: Int8Mode) -> StaticToFe:
    """The tiny DeiT in int8; static ranges are those of four images of noise."""
    graph = tiny_graph()
    statistics = gather_statistics(graph, images(4, seed=1)) if mode == "static" else None
    return quantize(graph, plan_int8(graph, mode), statistics)


def graph_of(kind: str) -> StaticToFe:
    """The graph that an export of this kind starts from."""
    if kind in ("int8 dynamic", "int8 static"):
        return int8_graph("dynamic" if kind == "int8 dynamic" else "static")
    if kind == "rank":
        return tiny_graph(select_by_rank)
    if kind == "dense":
        return build_static_graph(tiny_net(), None)
    return build_static_graph(tiny_net("lvvit" if kind == "lvvit" else "deit"), COUNTS)


def keep(lowered: Lowered, path: Path) -> None:
    """Write a model, and beside it what is known of its methods."""
    write_content(path, lowered.content)
    known = [(name, asdict(method)) for name, method in lowered.methods.items()]
    path.with_suffix(".methods.json").write_text(json.dumps(known))


def kept(path: Path) -> Lowered:
    """What :func:`keep` wrote."""
    known = json.loads(path.with_suffix(".methods.json").read_text())
    methods = {name: LoweredMethod(**method) for name, method in known}
    if path.is_file():
        return Lowered(path.read_bytes(), methods)
    files = [file for file in path.rglob("*") if file.is_file()]
    return Lowered({file.relative_to(path).as_posix(): file.read_bytes() for file in files}, methods)


def lowered_once(name: str, make: Callable[[], Lowered]) -> Lowered:
    """The program that ``make`` lowers, in this process of the test run or in another."""
    return kept(made_once(name, lambda folder: keep(make(), folder / "tiny.pte")) / "tiny.pte")


@cache
def export(kind: str) -> Export:
    """``fp32``, ``rank``, ``dense``, ``lvvit``, ``int8 dynamic`` or ``int8 static``: a program of one method."""
    graph = graph_of(kind)

    def make(folder: Path) -> None:
        lowered, stages = lower_and_watch({"forward": graph})
        keep(lowered, folder / "tiny.pte")
        watched = [(sorted(stage.operators), stage.linear_pass_only) for stage in stages]
        (folder / "stages.json").write_text(json.dumps(watched))

    folder = made_once(f"export {kind}", make)
    watched = json.loads((folder / "stages.json").read_text())
    stages = tuple(Stage(frozenset(operators), linear_pass_only) for operators, linear_pass_only in watched)
    return Export(graph, kept(folder / "tiny.pte"), stages)


@cache
def two_methods() -> Lowered:
    """Dynamic int8 with the usual counts as ``forward`` and others as ``OTHER``."""
    return lowered_once("two methods", lambda: lower(two_budgets(), (1, 3, SIZE, SIZE)))


def two_budgets() -> dict[str, nn.Module]:
    """What :func:`two_methods` lowers."""
    graph = int8_graph("dynamic")
    return {"forward": graph, OTHER: graph.with_counts(OTHER_COUNTS)}


@cache
def other_method_alone() -> Lowered:
    """The second method of :func:`two_methods` as a program of its own."""
    return lower({"forward": int8_graph("dynamic").with_counts(OTHER_COUNTS)}, (1, 3, SIZE, SIZE))


def short_graph(kind: str) -> StaticToFe:
    """One block between two selections: every kind of operator that the graph of this kind has, but far fewer."""
    short = copy.deepcopy(graph_of(kind)).with_counts(COUNTS.kept[:2])
    short.blocks, short.selectors, short.approximators = short.blocks[:1], short.selectors[:2], short.approximators[:1]
    short.stage_blocks = (range(0), range(1), range(0))
    return short


@cache
def lowered_short(kind: str) -> Lowered:
    """:func:`short_graph`, grouped as we group it."""
    return lower({"forward": short_graph(kind)}, (1, 3, SIZE, SIZE))


@cache
def lowered_short_by_the_stock_partitioner(kind: str) -> Lowered:
    """The same, grouped as ExecuTorch groups it: in a time that grows with the square of the graph."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tofe_edge.converters.partition.LevelPartitioner", XnnpackPartitioner)
        return lower({"forward": short_graph(kind)}, (1, 3, SIZE, SIZE))


def lower_and_watch(
    methods: Mapping[str, nn.Module], input_shape: tuple[int, ...] = (1, 3, SIZE, SIZE)
) -> tuple[Lowered, tuple[Stage, ...]]:
    """Lower, and note what the partitioner puts into each delegate."""
    stages: list[Stage] = []

    class Watched(LevelPartitioner):
        def partition(self, exported_program: Any) -> Any:
            result = super().partition(exported_program)
            operators: dict[str, set[str]] = {}
            for node in result.tagged_exported_program.graph.nodes:
                if node.op == "call_function" and "delegation_tag" in node.meta:
                    operators.setdefault(node.meta["delegation_tag"], set()).add(node.target.__name__)
            for tag, specification in result.partition_tags.items():
                only = any(option.key == LINEAR_PASS_ONLY.key for option in specification.compile_specs)
                stages.append(Stage(frozenset(operators[tag]), only))
            return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tofe_edge.converters.partition.LevelPartitioner", Watched)
        return lower(methods, input_shape), tuple(stages)


def outside(lowered: Lowered) -> dict[str, int]:
    """Operators outside the delegates that do something: the runtime executes no view."""
    operators = lowered.methods["forward"].fallback_ops
    return {name: number for name, number in operators.items() if name != "view_copy"}


def run(lowered: Lowered, inputs: Tensor, method: str = "forward") -> list[Tensor]:
    """The outputs of one method of a program, copied out of its memory."""
    with swallow_native_stderr():
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(lowered.program)
        loaded = program.load_method(method)
        assert loaded is not None
        return [output.clone() for output in loaded.execute([inputs.contiguous()])]
