"""What int8 costs a net on calibration images, layer by layer: each layer's noise, and which to leave in fp32 for it.

A selection that moves changes the logits more than any rounding does, and jumps where rounding is smooth. So a
layer's sensitivity is measured with the fp32 graph's selections forced into the quantized one; what moved
selections add is reported beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tofe_edge.converters.quantize import Int8Plan, Statistics, int8_layer, layers_of, quantize
from tofe_edge.converters.static_graph import StaticToFe
from tofe_edge.evaluation.parity import kept_overlap, snr_db, snr_of_powers
from tofe_edge.evaluation.prediction import compose_selections, probabilities
from tofe_edge.io.progress import progress_bar

MAX_ACCURACY_DROP = 0.5
"""Default of ``--max-accuracy-drop``, in points: what int8 costs a vision transformer when done well."""

_RANKING_IMAGES = 8
"""Enough to rank layers: their sensitivities span two orders of magnitude."""

_STEP = 0.1
"""Share of the int8 layers that one round returns to fp32."""


@dataclass(frozen=True)
class Int8Cost:
    """A quantized graph against its fp32 graph on the same images."""

    images: int
    drop: float | None
    """Points that the mean probability of the right class fell; ``None`` if no classes are known. For a net whose
    probabilities are calibrated this is what accuracy falls by, with a fraction of the noise of counting hits: on a
    few hundred images a single hit is half a point."""
    agreement: float | None
    """``None`` if the net gives no classes."""
    snr_db: float
    snr_db_same_tokens: float
    """With the fp32 graph's selections: arithmetic alone."""
    kept_overlap: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """For the manifest; an infinite SNR becomes ``null``."""
        document = asdict(self)
        for key in ("snr_db", "snr_db_same_tokens"):
            document[key] = document[key] if math.isfinite(document[key]) else None
        document["kept_overlap"] = list(self.kept_overlap)
        return document


@dataclass(frozen=True)
class MixedPlan:
    """A plan that meets a limit on the accuracy drop, or the nearest there is."""

    plan: Int8Plan
    cost: Int8Cost
    all_int8: Int8Cost
    """The cost before any layer was returned to fp32."""
    reasons: dict[str, str]
    """Why a layer is in fp32, by module path."""


@dataclass(frozen=True)
class _Outputs:
    given: npt.NDArray[np.float32]
    """Logits, embeddings or features: ``(images, …)``."""
    selections: list[tuple[Tensor, ...]]


def choose_layers(
    graph: StaticToFe,
    plan: Int8Plan,
    statistics: Statistics,
    images: Sequence[Tensor],
    labels: Sequence[int] | None,
    max_drop: float,
) -> MixedPlan:
    """Return layers to fp32, the most sensitive per multiply-accumulate first, until the drop is within ``max_drop``.

    Args:
        images: calibration inputs ``(1, 3, H, W)``.
        labels: their classes, if known; without them the cost is measured and no layer is returned.
        max_drop: in points.
    """
    # 1. What fp32 computes, and what it costs to quantize everything.
    reference = _run(graph, images)

    def cost_of(candidate: Int8Plan) -> Int8Cost:
        return _cost(reference, quantize(graph, candidate, statistics), images, labels)

    all_int8 = cost = cost_of(plan)
    reasons: dict[str, str] = {}
    # 2. If that is too much: return layers, the noisiest for their work first.
    if _over(cost, max_drop):
        noise = layer_noise(graph, plan, statistics, images[:_RANKING_IMAGES], reference.selections)
        ranking = sorted(noise, key=lambda name: noise[name] / _work(graph, name), reverse=True)
        step = max(1, round(_STEP * len(ranking)))
        while _over(cost, max_drop) and ranking:
            returned, ranking = ranking[:step], ranking[step:]
            reasons.update({name: _reason(noise[name], noise) for name in returned})
            plan = plan.without(frozenset(returned))
            cost = cost_of(plan)
    return MixedPlan(plan, cost, all_int8, reasons)


def measure_cost(
    graph: StaticToFe, quantized: StaticToFe, images: Sequence[Tensor], labels: Sequence[int] | None
) -> Int8Cost:
    """What a quantized graph costs on calibration inputs ``(1, 3, H, W)``."""
    return _cost(_run(graph, images), quantized, images, labels)


def _cost(
    reference: _Outputs, quantized: StaticToFe, images: Sequence[Tensor], labels: Sequence[int] | None
) -> Int8Cost:
    result = _run(quantized, images)
    return _compare(reference, result, _run(quantized, images, reference.selections), quantized, labels)


def layer_noise(
    graph: StaticToFe,
    plan: Int8Plan,
    statistics: Statistics,
    images: Sequence[Tensor],
    selections: Sequence[Sequence[Tensor]],
) -> dict[str, float]:
    """Power of the output's change, over that of the output, with one layer at a time in int8 and the tokens forced."""
    reference = _run(graph, images, selections).given
    layers = layers_of(graph)
    noise: dict[str, float] = {}
    reached = sorted(plan.layers & statistics.inputs.keys())
    with progress_bar("sensitivity", total=len(reached), unit="layer") as bar:
        for name in reached:
            graph.set_submodule(name, int8_layer(name, layers[name], plan, statistics))
            try:
                result = _run(graph, images, selections).given
            finally:
                graph.set_submodule(name, layers[name])
            noise[name] = float(np.square(result - reference).sum() / max(np.square(reference).sum(), 1e-30))
            bar.update(1)
    return noise


def _reason(noise: float, all_noise: Mapping[str, float]) -> str:
    share = noise / max(sum(all_noise.values()), 1e-30)
    return f"{share:.1%} of the int8 noise in the logits ({-10 * math.log10(max(noise, 1e-30)):.0f} dB alone)"


def _work(graph: StaticToFe, name: str) -> float:
    """Multiply-accumulates of a layer for one token: what leaving it in fp32 costs, within a stage."""
    layer = layers_of(graph)[name]
    return float(layer.weight.numel())


@torch.no_grad()
def _run(graph: StaticToFe, images: Sequence[Tensor], forced: Sequence[Sequence[Tensor]] = ()) -> _Outputs:
    given, selections = [], []
    for index, image in enumerate(images):
        first, *orders = graph(image, *([forced[index]] if forced else []))
        given.append(first.numpy()[0])
        selections.append(tuple(orders))
    return _Outputs(np.stack(given), selections)


def _over(cost: Int8Cost, max_drop: float) -> bool:
    return cost.drop is not None and cost.drop > max_drop


def _probability_of(logits: npt.NDArray[np.float32], labels: Sequence[int]) -> float:
    """Mean softmax probability of each image's class."""
    return float(np.mean(probabilities(logits)[np.arange(len(labels)), labels]))


def _compare(
    reference: _Outputs, result: _Outputs, forced: _Outputs, graph: StaticToFe, labels: Sequence[int] | None
) -> Int8Cost:
    kept, agreement, drop = graph.kept, None, None
    if graph.output == "logits":
        agreement = float((reference.given.argmax(1) == result.given.argmax(1)).mean())
    if labels is not None:
        drop = 100 * (_probability_of(reference.given, labels) - _probability_of(result.given, labels))
    pairs = [
        tuple(compose_selections([order.view(-1).numpy() for order in orders], kept) for orders in (a, b))
        for a, b in zip(reference.selections, result.selections)
    ]
    return Int8Cost(
        images=len(reference.given),
        drop=drop,
        agreement=agreement,
        snr_db=snr_db(reference.given, result.given),
        snr_db_same_tokens=snr_db(reference.given, forced.given),
        kept_overlap=tuple(
            float(np.mean([kept_overlap(a[stage], b[stage]) for a, b in pairs])) for stage in range(len(kept))
        ),
    )


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
            reference = watched.close()
            watched = _Watch(quantized, plan.layers)
            quantized(image, orders)
            result = watched.close()
            for name, (inputs, output) in reference.items():
                power = powers.setdefault(name, _Powers())
                power.signal += float(output.double().square().sum())
                power.own += float((replaced[name](inputs) - output).double().square().sum())
                power.reached += float((result[name][1] - output).double().square().sum())
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
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._seen[name] = (inputs[0], output)

        return hook

    def close(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What was seen, in the order in which it ran."""
        for hook in self._hooks:
            hook.remove()
        return self._seen
