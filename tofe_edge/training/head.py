"""A new head for a dense net: multinomial logistic regression on what its old head reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tofe_edge.errors import require
from tofe_edge.io.dataset import Sample
from tofe_edge.io.inputs import Loaded, none_usable, read_inputs
from tofe_edge.io.listing import LeftOut, Tally
from tofe_edge.io.progress import progress_bar
from tofe_edge.model.backbones import BackboneAdapter, create_backbone
from tofe_edge.model.tofe import ToFe
from tofe_edge.training.counts import show_something

_BATCH = 16
_DECAYS = tuple(10.0**exponent for exponent in (1, 0.5, 0, -0.5, -1, -1.5, -2, -2.5, -3, -4, -5))
"""Tried in this order, each fit beginning at the one before."""

_STEPS = 200
_HEADS = ("head", "head_dist", "aux_head")


@dataclass(frozen=True)
class Embedded:
    """Pictures that can be learned from, and what a head reads of them: ``(n, D)``."""

    samples: tuple[Sample, ...]
    vectors: Tensor
    labels: Tensor
    left_out: tuple[LeftOut, ...]
    """Pictures that cannot be read or have one colour."""


@torch.no_grad()
def embed(backbone: BackboneAdapter, samples: Sequence[Sample], device: torch.device) -> Embedded:
    """Run the dense net on pictures, prepared as its input is.

    Raises:
        InputError: none of the pictures can be used, or the net computes NaN.
    """
    net, loaded = ToFe(backbone), read_inputs(samples, backbone.preprocessing)
    kept: list[Sample] = []
    vectors: list[Tensor] = []
    tally, reason = Tally(), ""
    with progress_bar("looking at pictures", total=len(samples), unit="image") as bar:
        for some in _batches(loaded):
            usable = []
            for item in some:
                if item.pixels is None:
                    tally.add_unreadable(item.sample.location, item.reason)
                    reason = reason or item.reason
                elif not show_something(torch.from_numpy(item.pixels)):
                    tally.add("picture of one colour", item.sample.location)
                    reason = reason or f"{item.sample.location}: has one colour"
                else:
                    usable.append(item)
            if usable:
                images = torch.from_numpy(np.concatenate([item.pixels for item in usable if item.pixels is not None]))
                vectors.append(net.forward_dense(images.to(device), "embedding").float().cpu())
                kept += [item.sample for item in usable]
            bar.update(len(some))
    if not kept:
        raise none_usable(samples[0].path.parent, len(samples), reason)
    every = torch.cat(vectors)
    require(
        bool(torch.isfinite(every).all()), f"{backbone.spec.name}: the dense net computes NaN; are the weights damaged?"
    )
    labels = torch.tensor([sample.label for sample in kept])
    return Embedded(tuple(kept), every, labels, tally.left_out)


def _batches(loaded: Iterator[Loaded]) -> Iterator[list[Loaded]]:
    while some := list(islice(loaded, _BATCH)):
        yield some


@dataclass(frozen=True)
class Head:
    """A linear classifier: weight ``(C, D)`` and bias ``(C,)``, and how it was fitted."""

    weight: Tensor
    bias: Tensor
    decay: float
    """Weight decay, on standardised inputs."""

    def loss(self, vectors: Tensor, labels: Tensor) -> float:
        """The mean cross entropy, in nats."""
        return float(F.cross_entropy(vectors @ self.weight.T + self.bias, labels))


def fit_head(train: Embedded, aside: Embedded, classes: int) -> Head:
    """Fit a head to the first part, with the weight decay that is best on the second."""
    heads = _path(train.vectors, train.labels, classes, _DECAYS)
    return min(heads, key=lambda head: head.loss(aside.vectors, aside.labels))


def _path(vectors: Tensor, labels: Tensor, classes: int, decays: Sequence[float]) -> Iterator[Head]:
    """Heads for each of these decays."""
    inputs = vectors.double()
    mean, scale = inputs.mean(dim=0), inputs.std(dim=0).clamp(min=1e-6)
    inputs = (inputs - mean) / scale
    weight = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    for decay in decays:
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=_STEPS, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
        )

        def closure(decay: float = decay, optimizer: torch.optim.LBFGS = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(inputs @ weight.T + bias, labels) + decay / 2 * weight.square().mean(dim=1).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        plain = weight.detach() / scale
        yield Head(plain.float(), (bias.detach() - plain @ mean).float(), decay)


def with_head(backbone: BackboneAdapter, head: Head) -> BackboneAdapter:
    """The same net with another head. Its weights are copies."""
    spec = backbone.spec
    overrides = {**spec.overrides, "classes": len(head.bias)}
    net = create_backbone(
        spec.name, overrides, stages=spec.stages, reduction=spec.reduction, thaws_last=spec.thaws_last
    )
    net.preprocessing = backbone.preprocessing
    weights, own = net.state_dict(), backbone.state_dict()
    for key, value in weights.items():
        module, _, kind = key.rpartition(".")
        name = module.rpartition(".")[2]
        if name not in _HEADS:
            value.copy_(own[key])
        elif name == "aux_head":  # LV-ViT adds half of the best patch's scores: none, until it is trained
            value.zero_()
        else:
            value.copy_(head.weight if kind == "weight" else head.bias)
    return net.eval()
