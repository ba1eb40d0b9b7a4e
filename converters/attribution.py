"""Where a quantized graph goes wrong: layer by layer, by its own rounding and by what it was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tofe_edge.converters.quantize import Int8Plan
from tofe_edge.converters.static_graph import StaticToFe
from tofe_edge.evaluation.parity import snr_of_powers


@dataclass
class _Powers:
    """Sums over images of squared outputs and of squared errors."""

    signal: float = 0.0
    own: float = 0.0
    reached: float = 0.0


@dataclass(frozen=True)
class LayerNoise:
    """Signal-to-noise ratio of a layer's output against fp32, in decibels."""

    own_snr_db: float
    """The layer quantized, on the inputs that it has in fp32."""
    reached_snr_db: float
    """In the quantized graph with fp32's selections: every rounding before it as well."""


def layer_noise_of(
    graph: StaticToFe, quantized: StaticToFe, plan: Int8Plan, images: Sequence[Tensor]
) -> dict[str, LayerNoise]:
    """Both figures for each quantized layer that the images reach, in the order of the graph.

    Args:
        graph: in fp32.
        quantized: the same, quantized by ``plan``.
        images: inputs ``(1, 3, H, W)``.
    """
    powers: dict[str, _Powers] = {}
    replaced = dict(quantized.named_modules())
    with torch.no_grad():
        for image in images:
            watched = _Watch(graph, plan.layers)
            _, *orders = graph(image)
            wanted = watched.close()
            watched = _Watch(quantized, plan.layers)
            quantized(image, orders)
            found = watched.close()
            for name, (given, output) in wanted.items():
                power = powers.setdefault(name, _Powers())
                power.signal += float(output.double().square().sum())
                power.own += float((replaced[name](given) - output).double().square().sum())
                power.reached += float((found[name][1] - output).double().square().sum())
    return {
        name: LayerNoise(snr_of_powers(power.signal, power.own), snr_of_powers(power.signal, power.reached))
        for name, power in powers.items()
    }


@dataclass
class _Watch:
    """Inputs and outputs of modules by path, from now until closed."""

    graph: nn.Module
    names: frozenset[str]
    _seen: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _hooks: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        modules = dict(self.graph.named_modules())
        for name in self.names:
            self._hooks.append(modules[name].register_forward_hook(self._note(name)))

    def _note(self, name: str) -> Any:
        def hook(_module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            self._seen[name] = (given[0], output)

        return hook

    def close(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What was seen, in the order in which it ran."""
        for hook in self._hooks:
            hook.remove()
        return self._seen
