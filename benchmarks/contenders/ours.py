"""tofe-edge's own artifacts: the rewritten static graph, lowered to ExecuTorch."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch

from benchmarks.contenders.contender import Built, Recipe, Subject
from benchmarks.contenders.stock import run_program
from tofe_edge.converters import executorch
from tofe_edge.converters.quantize import Int8Mode, gather_statistics, plan_int8, quantize
from tofe_edge.converters.static_graph import build_static_graph

Precision = Literal["fp32", "int8 dynamic", "int8 static"]


def lower(subject: Subject, precision: Precision) -> tuple[bytes, int]:
    """The program and its number of delegates. The only place that knows the converter's interface."""
    graph = build_static_graph(subject.model, subject.counts)
    if precision != "fp32":
        mode: Int8Mode = "dynamic" if precision == "int8 dynamic" else "static"
        images = [torch.from_numpy(pixels.copy()) for pixels in subject.calibration]
        graph = quantize(graph, plan_int8(graph, mode), gather_statistics(graph, images))
    size = subject.model.backbone.spec.image_size
    lowered = executorch.lower({"forward": graph}, (1, 3, size, size))
    return lowered.program, lowered.methods["forward"].delegates


def _make(subject: Subject, precision: Precision) -> Built:
    program, delegates = lower(subject, precision)
    return Built(run_program(program, subject.threads), len(program), delegates)


RUNTIME = "tofe-edge"
RECIPES = (
    Recipe(RUNTIME, "fp32", partial(_make, precision="fp32")),
    Recipe(RUNTIME, "int8 dynamic", partial(_make, precision="int8 dynamic")),
    Recipe(RUNTIME, "int8 static", partial(_make, precision="int8 static")),
)
