"""One module per runtime. Each lists its recipes; its library is imported only where one is built."""

from __future__ import annotations

from benchmarks.contenders import onnx_runtime, openvino, ours, stock, torch_peers
from benchmarks.contenders.contender import Built, Contender, Recipe, Subject, Unavailable

__all__ = ["Built", "Contender", "Recipe", "Subject", "Unavailable", "all_recipes"]


def all_recipes() -> tuple[Recipe, ...]:
    """Every recipe; the first is what latencies are compared with."""
    return (*stock.RECIPES, *ours.RECIPES, *torch_peers.RECIPES, *onnx_runtime.RECIPES, *openvino.RECIPES)
