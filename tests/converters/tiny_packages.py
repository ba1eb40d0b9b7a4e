"""Core ML packages of tiny nets by the real converter, made once for all tests that look at them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from conftest import tiny_tofe
from made_once import made_once
from tiny_exports import COUNTS, OTHER, OTHER_COUNTS, SIZE, images, keep, kept, tiny_net

from tofe_edge.converters.coreml import About, CoreMlOptions, lower
from tofe_edge.converters.coreml_graph import NativeRankSelection, native_graph, native_topk
from tofe_edge.converters.quantize import Int8Mode, gather_statistics, plan_int8, quantize
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.io.targets import Lowered
from tofe_edge.model.tofe import ToFe
from tofe_edge.runtimes.mil import MlPackage, Program, load_program, open_package

PATCHES = 16
LABELS = tuple(f"class {number}" for number in range(10))
ABOUT = About("A tiny classifier", "An author", "Some licence", "1.2", 3, PATCHES, {"tofe_edge.note": "for tests"})
SHAPE = (1, 3, SIZE, SIZE)


@dataclass(frozen=True)
class Made:
    """A graph, what it became, and where that lies."""

    graph: StaticToFe
    lowered: Lowered
    path: Path

    @property
    def package(self) -> MlPackage:
        return open_package(self.path)

    def program(self, function: str = "main", compute: str = "declared") -> Program:
        return load_program(self.package, function, compute="fp32" if compute == "fp32" else "declared")


def options(kind: str) -> CoreMlOptions:
    """``fp32``, ``fp16``, ``weights``, ``static``, ``pal6``, ``pal4``; behind a comma ``image``, ``topk``, ``fp32_selectors``."""
    plain = CoreMlOptions("iOS17", "fp32" if kind.startswith("fp32") else "fp16", ABOUT, None)
    plain = replace(plain, palettes=kind.startswith("pal"), float32_selectors="fp32_selectors" in kind)
    return replace(plain, labels=LABELS, takes_image=True) if "image" in kind else plain


@cache
def graph_of(kind: str, name: str = "deit") -> StaticToFe:
    """The graph that a package of this kind is made from."""
    precision = kind.split(",", maxsplit=1)[0]
    net: ToFe = tiny_tofe(name) if "_" in name and name != "lvvit_s" else tiny_net(name)
    select = native_topk if "topk" in kind else NativeRankSelection(PATCHES)
    pixels = net.backbone.preprocessing if "image" in kind else None
    graph = native_graph(build_static_graph(net, COUNTS), select, pixels)
    if precision in ("fp32", "fp16"):
        return graph
    bits = {"pal6": 6, "pal4": 4}.get(precision)
    mode: Int8Mode = "static" if precision == "static" else "weights"
    plan = replace(plan_int8(graph, mode, quantizes_outputs=False), palette_bits=bits)
    return quantize(graph, plan, gather_statistics(graph, images(4, seed=1)))


@cache
def made(kind: str, name: str = "deit", deployment_target: str = "iOS17") -> Made:
    """A package of one function."""
    graph = graph_of(kind, name)
    wanted = replace(options(kind), deployment_target=deployment_target)
    return _made(f"package {kind} {name} {deployment_target}", {"forward": graph}, wanted)


@cache
def two_functions(kind: str = "weights") -> Made:
    """A package for iOS 18 with the usual counts by default and others beside them."""
    graph = graph_of(kind)
    methods = {"forward": graph, OTHER: graph.with_counts(OTHER_COUNTS)}
    return _made(f"package of two functions {kind}", methods, replace(options(kind), deployment_target="iOS18"))


def _made(name: str, graphs: Mapping[str, StaticToFe], wanted: CoreMlOptions) -> Made:
    folder = made_once(name, lambda folder: keep(lower(graphs, SHAPE, wanted), folder / "tiny.mlpackage"))
    path = folder / "tiny.mlpackage"
    return Made(graphs["forward"], kept(path), path)


def pixels(seed: int) -> torch.Tensor:
    """An input of whole numbers from 0 to 255."""
    return torch.randint(0, 256, SHAPE, generator=torch.Generator().manual_seed(seed)).float()
