"""Scaling the residual stream changes no output and evens out its channels."""

import pytest
import torch
from conftest import tiny_tofe
from tiny_exports import COUNTS, images
from torch import Tensor

from tofe_edge.converters.smoothing import loudest_normalised, smooth_residual
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.model.tofe import ToFe

FAMILIES = ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "lvvit_s"]


def graph_with_a_loud_channel(model: ToFe) -> StaticToFe:
    """The residual stream's channel 5 much louder than the others, from the stem on."""
    graph = build_static_graph(model, COUNTS)
    position = graph.stem.position
    assert isinstance(position, Tensor)
    position[..., 5] += 5.0
    return graph


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_outputs_and_selections_stay_the_same(name: str, strength: float) -> None:
    model = tiny_tofe(name)
    graph, inputs = build_static_graph(model, COUNTS), images(4, seed=3)
    loudness = torch.rand(model.backbone.spec.dim, generator=torch.Generator().manual_seed(0)) + 0.1
    smoothed = smooth_residual(graph, loudness, strength)
    with torch.no_grad():
        for image in inputs:
            logits, *orders = graph(image)
            found, *found_orders = smoothed(image)
            torch.testing.assert_close(found, logits, atol=2e-5, rtol=2e-5)
            assert all(torch.equal(a, b) for a, b in zip(found_orders, orders, strict=True))


def test_the_loud_channel_is_made_quieter() -> None:
    model = tiny_tofe()
    graph, inputs = graph_with_a_loud_channel(model), images(4, seed=3)
    before = loudest_normalised(graph, inputs)
    after = loudest_normalised(smooth_residual(graph, before), inputs)
    assert int(before.argmax()) == 5
    assert float(after[5] / after.median()) < 0.7 * float(before[5] / before.median())


def test_the_original_graph_stays_as_it_was() -> None:
    model = tiny_tofe()
    graph = build_static_graph(model, COUNTS)
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    smooth_residual(graph, torch.linspace(0.1, 5.0, model.backbone.spec.dim))
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())
    assert not any(norm._forward_hooks for norm in graph.modules())
