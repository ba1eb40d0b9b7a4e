"""Noise layer by layer: a layer's own rounding is its own, and what it was given is told apart from it."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_exports import images, tiny_graph

from tofe_edge.converters.attribution import layer_noise_of
from tofe_edge.converters.int8 import Int8Weights
from tofe_edge.converters.quantize import Int8Plan, gather_statistics, plan_int8, quantize


def test_every_quantized_layer_has_both_figures_in_the_order_of_the_graph() -> None:
    graph, seen = tiny_graph(), images(3, seed=1)
    plan = plan_int8(graph, "dynamic")
    noise = layer_noise_of(graph, quantize(graph, plan, gather_statistics(graph, seen)), plan, seen)
    assert noise.keys() == plan.layers
    order = list(noise)
    assert order[0] == "stem.embed" and order[-1].startswith("head.")
    assert all(25 < layer.own_snr_db < 70 for layer in noise.values())
    # The first layer was given nothing that was rounded; those behind it were.
    assert noise["stem.embed"].reached_snr_db == pytest.approx(noise["stem.embed"].own_snr_db)
    behind = [layer for name, layer in noise.items() if name != "stem.embed"]
    assert all(layer.reached_snr_db < layer.own_snr_db + 1 for layer in behind)
    assert min(layer.reached_snr_db for layer in behind) < min(layer.own_snr_db for layer in behind)


def test_a_damaged_layer_is_found() -> None:
    graph, seen = tiny_graph(), images(2, seed=1)
    plan = plan_int8(graph, "dynamic")
    damaged = quantize(graph, plan)
    weights = damaged.get_submodule("blocks.2.fc1.1")
    assert isinstance(weights, Int8Weights)
    weights.scale[3] *= 32
    noise = layer_noise_of(graph, damaged, plan, seen)
    worst = min(noise, key=lambda name: noise[name].own_snr_db)
    assert worst == "blocks.2.fc1" and noise[worst].own_snr_db < 10
    # Layers before it are as they were, and the one behind it is right but for what it is given.
    assert noise["blocks.1.fc2"].reached_snr_db > 20
    assert noise["blocks.2.fc2"].own_snr_db > 25 > noise["blocks.2.fc2"].reached_snr_db


def test_a_graph_that_was_not_changed_has_no_noise_and_keeps_no_hooks() -> None:
    graph = tiny_graph()
    twin = copy.deepcopy(graph)
    plan = Int8Plan("dynamic", frozenset({"blocks.0.fc1", "blocks.3.fc2"}))
    noise = layer_noise_of(graph, twin, plan, images(1, seed=1))
    assert all(layer.own_snr_db == layer.reached_snr_db == float("inf") for layer in noise.values())
    assert not any(module._forward_hooks for net in (graph, twin) for module in net.modules())
    assert torch.is_grad_enabled()
