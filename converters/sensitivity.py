"""What int8 costs a net on calibration images, layer by layer, and which layers to leave in fp32 for it.

A selection that moves changes the logits more than any rounding does, and jumps where rounding is smooth. So a
layer's sensitivity is measured with the fp32 graph's selections forced into the quantized one; what moved
selections add is reported beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tofe_edge.converters.quantize import Int8Plan, Statistics, int8_layer, layers_of, quantize
from tofe_edge.converters.static_graph import StaticToFe
from tofe_edge.evaluation.parity import kept_overlap, snr_db
from tofe_edge.evaluation.prediction import compose_selections
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
    """Points that the mean probability of the right class fell; ``None`` where no classes are known. For a net whose
    probabilities are calibrated this is what accuracy falls by, with a fraction of the noise of counting hits: on a
    few hundred images a single hit is half a point."""
    agreement: float
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
    """A plan that meets a limit on the accuracy drop, or the nearest that was found."""

    plan: Int8Plan
    cost: Int8Cost
    all_int8: Int8Cost
    """The cost before any layer was returned to fp32."""
    reasons: dict[str, str]
    """Why a layer is in fp32, by module path."""


@dataclass(frozen=True)
class _Outputs:
    logits: npt.NDArray[np.float32]
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
        labels: their classes, where known; without them the cost is measured and no layer is returned.
        max_drop: in points.
    """
    wanted = _run(graph, images)

    def cost_of(candidate: Int8Plan) -> Int8Cost:
        return _cost(wanted, quantize(graph, candidate, statistics), images, labels)

    all_int8 = cost = cost_of(plan)
    reasons: dict[str, str] = {}
    if _over(cost, max_drop):
        noise = layer_noise(graph, plan, statistics, images[:_RANKING_IMAGES], wanted.selections)
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


def _cost(wanted: _Outputs, quantized: StaticToFe, images: Sequence[Tensor], labels: Sequence[int] | None) -> Int8Cost:
    found = _run(quantized, images)
    return _compare(wanted, found, _run(quantized, images, wanted.selections), quantized.kept, labels)


def layer_noise(
    graph: StaticToFe,
    plan: Int8Plan,
    statistics: Statistics,
    images: Sequence[Tensor],
    selections: Sequence[Sequence[Tensor]],
) -> dict[str, float]:
    """Power of the logits' change, over that of the logits, with one layer at a time in int8 and the tokens forced."""
    wanted = _run(graph, images, selections).logits
    layers = layers_of(graph)
    noise: dict[str, float] = {}
    reached = sorted(plan.layers & statistics.inputs.keys())
    with progress_bar("sensitivity", total=len(reached), unit="layer") as bar:
        for name in reached:
            graph.set_submodule(name, int8_layer(name, layers[name], plan, statistics))
            try:
                found = _run(graph, images, selections).logits
            finally:
                graph.set_submodule(name, layers[name])
            noise[name] = float(np.square(found - wanted).sum() / max(np.square(wanted).sum(), 1e-30))
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
    logits, selections = [], []
    for index, image in enumerate(images):
        first, *orders = graph(image, *([forced[index]] if forced else []))
        logits.append(first.numpy()[0])
        selections.append(tuple(orders))
    return _Outputs(np.stack(logits), selections)


def _over(cost: Int8Cost, max_drop: float) -> bool:
    return cost.drop is not None and cost.drop > max_drop


def _probability_of(logits: npt.NDArray[np.float32], labels: Sequence[int]) -> float:
    """Mean softmax probability of each image's class."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return float(np.mean(shifted[np.arange(len(labels)), labels] / shifted.sum(1)))


def _compare(
    wanted: _Outputs, found: _Outputs, forced: _Outputs, kept: Sequence[int], labels: Sequence[int] | None
) -> Int8Cost:
    before, after = wanted.logits.argmax(1), found.logits.argmax(1)
    agreement = float((before == after).mean())
    drop = None
    if labels is not None:
        drop = 100 * (_probability_of(wanted.logits, labels) - _probability_of(found.logits, labels))
    pairs = [
        tuple(compose_selections([order.view(-1).numpy() for order in orders], kept) for orders in (a, b))
        for a, b in zip(wanted.selections, found.selections)
    ]
    return Int8Cost(
        images=len(before),
        drop=drop,
        agreement=agreement,
        snr_db=snr_db(wanted.logits, found.logits),
        snr_db_same_tokens=snr_db(wanted.logits, forced.logits),
        kept_overlap=tuple(
            float(np.mean([kept_overlap(a[stage], b[stage]) for a, b in pairs])) for stage in range(len(kept))
        ),
    )
