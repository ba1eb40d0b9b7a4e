"""Programs of the tiny net for the native runner, and what the Python runtime makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from converters.executorch import lower
from converters.quantize import Int8Mode, gather_statistics, plan_int8, quantize
from converters.static_graph import build_static_graph
from runtimes.native_output import swallow_native_stderr
from runtimes.native_runner import NativeResult
from tofe_edge.backbones import TokenCounts
from tofe_edge.tofe import ToFe

Precision = Literal["fp32", "int8-dynamic", "int8-static"]
TINY_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8-static")
"""Lowering is what these tests spend their time on; dynamic int8 is left to the full-size test."""

COUNTS = TokenCounts((9, 5, 3))
SIZE = 64
INPUT_BYTES = 3 * SIZE * SIZE * 4


def images(count: int, seed: int) -> list[Tensor]:
    """Seeded noise, ``(1, 3, SIZE, SIZE)`` each."""
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, 1, 3, SIZE, SIZE, generator=generator))


def tiny_program(folder: Path, tiny_tofe: Callable[..., ToFe], precision: Precision) -> Path:
    """The tiny net in one precision, without a manifest."""
    graph = build_static_graph(tiny_tofe(), COUNTS)
    if precision != "fp32":
        mode: Int8Mode = "static" if precision == "int8-static" else "dynamic"
        graph = quantize(graph, plan_int8(graph, mode), gather_statistics(graph, images(4, seed=1)))
    path = folder / f"{precision}.pte"
    path.write_bytes(lower({"forward": graph}, (1, 3, SIZE, SIZE)).program)
    return path


def in_python(model: Path, image: Tensor) -> list[bytes]:
    """The outputs of the Python runtime, as bytes."""
    with swallow_native_stderr():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(model).load_method("forward")
        assert method is not None
        return [output.numpy().tobytes() for output in method.execute([image])]


def content(result: NativeResult) -> list[bytes]:
    """The outputs of the native runner, as bytes."""
    return [output.tobytes() for output in result.outputs]
