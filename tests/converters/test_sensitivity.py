"""What int8 costs a tiny net, whose fault it is, and which layers go back to fp32 for it."""

import copy
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from tiny_exports import images, tiny_graph, tiny_net
from torch import Tensor

from tofe_edge.converters.quantize import (
    Int8Mode,
    Int8Plan,
    Int8Weights,
    Statistics,
    gather_statistics,
    layers_of,
    plan_int8,
    quantize,
)
from tofe_edge.converters.selection import select_by_rank
from tofe_edge.converters.sensitivity import MixedPlan, choose_layers, layer_noise, layer_noise_of
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.evaluation.parity import snr_db

IMAGES = 24

MODES: list[Int8Mode] = ["dynamic", "static"]

CANNOT_BE_MET = -1000.0


@cache
def graph_and_statistics() -> tuple[StaticToFe, Statistics]:
    graph = tiny_graph()
    return graph, gather_statistics(graph, images(IMAGES, seed=1))


def selections_of(graph: StaticToFe, inputs: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    with torch.no_grad():
        return [graph(image)[1:] for image in inputs]


@cache
def choose(
    mode: Int8Mode, max_drop: float, labels: tuple[int, ...] | None = None, count: int | None = None
) -> MixedPlan:
    """Of the first ``count`` images, else of as many as there are labels, else of all."""
    graph, statistics = graph_and_statistics()
    inputs = images(IMAGES, seed=1)[: count or len(labels or range(IMAGES))]
    return choose_layers(graph, plan_int8(graph, mode), statistics, inputs, labels, max_drop)


@cache
def probabilities(mode: Int8Mode | None) -> Tensor:
    """Of each class, in fp32 or all in int8: ``(images, classes)`` in float64."""
    graph, statistics = graph_and_statistics()
    net = graph if mode is None else quantize(graph, plan_int8(graph, mode), statistics)
    with torch.no_grad():
        return torch.cat([net(image)[0] for image in images(IMAGES, seed=1)]).double().softmax(1)


@cache
def worst_labels(mode: Int8Mode) -> tuple[int, ...]:
    """As if the class that int8 takes most probability from were the right one: the drop is positive."""
    return tuple((probabilities(None) - probabilities(mode)).argmax(1).tolist())


def logits_of(graph: StaticToFe) -> Tensor:
    with torch.no_grad():
        return torch.cat([graph(image)[0] for image in images(4, seed=9)])


@pytest.mark.parametrize("mode", MODES)
def test_every_layer_of_the_plan_makes_some_noise(mode: Int8Mode) -> None:
    graph, statistics = graph_and_statistics()
    plan, inputs = plan_int8(graph, mode), images(3, seed=2)
    layers, logits = layers_of(graph), logits_of(graph)
    noise = layer_noise(graph, plan, statistics, inputs, selections_of(graph, inputs))
    assert set(noise) == plan.layers
    assert min(noise.values()) > 0 and max(noise.values()) < 0.1
    # Each layer was put back, the very same.
    assert layers_of(graph).keys() == layers.keys()
    assert all(layers_of(graph)[name] is layer for name, layer in layers.items())
    assert torch.equal(logits_of(graph), logits)


def test_the_graph_is_whole_after_an_image_that_does_not_fit() -> None:
    graph, statistics = graph_and_statistics()
    names = set(layers_of(graph))
    with pytest.raises((RuntimeError, IndexError)):
        layer_noise(graph, plan_int8(graph, "dynamic"), statistics, images(1, seed=0, size=48), [()])
    assert set(layers_of(graph)) == names


@pytest.mark.parametrize("name", ["blocks.1.fc1", "blocks.0.attn.qkv", "blocks.2.fc2"])
@pytest.mark.parametrize("with_grams", [True, False])
def test_a_layer_with_an_outlier_in_each_row_is_the_most_sensitive(name: str, with_grams: bool) -> None:
    """One scale a row: beside a weight of 20 the others, of 0.1, are all rounded to few steps."""
    graph = tiny_graph()
    layer = layers_of(graph)[name]
    with torch.no_grad():
        layer.weight[:, 7] = 20.0 * torch.randn(len(layer.weight), generator=torch.Generator().manual_seed(0)).sign()
    inputs = images(4, seed=1)
    statistics = gather_statistics(graph, inputs)
    if not with_grams:
        statistics = Statistics({}, statistics.inputs, statistics.outputs)
    noise = layer_noise(graph, plan_int8(graph, "dynamic"), statistics, inputs, selections_of(graph, inputs))
    assert max(noise, key=lambda layer: noise[layer]) == name


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_within_the_limit_is_left_as_it_is(mode: Int8Mode) -> None:
    mixed = choose(mode, 100.0, worst_labels(mode))
    assert mixed.plan == plan_int8(graph_and_statistics()[0], mode)
    assert mixed.cost == mixed.all_int8
    assert mixed.reasons == {}
    assert mixed.cost.images == IMAGES


def test_layers_go_back_to_fp32_until_the_limit_is_met() -> None:
    mode: Int8Mode = "static"
    drop = choose(mode, 100.0, worst_labels(mode)).cost.drop
    assert drop is not None and drop > 0
    mixed = choose(mode, 0.5 * drop, worst_labels(mode))
    assert mixed.all_int8.drop == drop
    assert mixed.cost.drop is not None and mixed.cost.drop <= 0.5 * drop
    whole = plan_int8(graph_and_statistics()[0], mode).layers
    assert 0 < len(mixed.reasons) < len(whole)
    assert mixed.plan.layers == whole - set(mixed.reasons)
    assert mixed.cost.snr_db_same_tokens > mixed.all_int8.snr_db_same_tokens
    assert all("of the int8 noise in the logits" in reason for reason in mixed.reasons.values())


def test_a_limit_that_cannot_be_met_leaves_no_layer_in_int8() -> None:
    logits = logits_of(graph_and_statistics()[0])
    mixed = choose("static", CANNOT_BE_MET, worst_labels("static")[:4])
    assert mixed.plan.layers == frozenset()
    assert set(mixed.reasons) == plan_int8(graph_and_statistics()[0], "static").layers
    assert mixed.cost.drop == 0 and mixed.cost.agreement == 1 and mixed.cost.kept_overlap == (1, 1, 1)
    document = mixed.cost.to_json()
    assert document["snr_db"] is None and document["snr_db_same_tokens"] is None
    assert torch.equal(logits_of(graph_and_statistics()[0]), logits), "the graph was changed"


def test_the_cost_is_that_of_the_quantized_graph() -> None:
    """The mean fall of the right class's probability, in points; the SNR of the logits."""
    graph, statistics = graph_and_statistics()
    inputs, labels = images(IMAGES, seed=1), worst_labels("static")
    quantized = quantize(graph, plan_int8(graph, "static"), statistics)
    with torch.no_grad():
        wanted, found = (torch.cat([net(image)[0] for image in inputs]).numpy() for net in (graph, quantized))
    cost = choose("static", 100.0, labels).cost
    assert cost.snr_db == pytest.approx(snr_db(wanted, found))
    assert cost.agreement == pytest.approx(np.mean(wanted.argmax(1) == found.argmax(1)))
    fall = (probabilities(None) - probabilities("static"))[range(IMAGES), list(labels)].mean()
    assert cost.drop == pytest.approx(100 * float(fall))


def test_int8_that_serves_the_right_class_is_no_drop() -> None:
    labels = tuple((probabilities("static") - probabilities(None)).argmax(1).tolist())
    mixed = choose("static", 0.0, labels)
    assert mixed.cost.drop is not None and mixed.cost.drop < 0
    assert mixed.reasons == {}


def test_no_layer_goes_back_if_there_are_no_labels() -> None:
    mixed = choose("static", CANNOT_BE_MET)
    assert mixed.cost.drop is None and mixed.cost.to_json()["drop"] is None
    assert mixed.plan == plan_int8(graph_and_statistics()[0], "static")
    assert math.isfinite(mixed.cost.snr_db)


@pytest.mark.parametrize("mode", MODES)
def test_moved_tokens_add_to_the_noise(mode: Int8Mode) -> None:
    """On average: the images' noise together is what the SNR is of."""
    cost = choose(mode, 100.0).cost
    assert cost.kept_overlap[0] < 1, "no token moved: nothing to compare"
    assert cost.snr_db_same_tokens >= cost.snr_db


def test_a_dense_net_has_no_tokens_to_move() -> None:
    graph = build_static_graph(tiny_net(), None)
    inputs = images(4, seed=1)
    mixed = choose_layers(
        graph, plan_int8(graph, "dynamic"), gather_statistics(graph, inputs), inputs, [0] * 4, CANNOT_BE_MET
    )
    assert mixed.all_int8.snr_db == mixed.all_int8.snr_db_same_tokens
    assert mixed.all_int8.kept_overlap == ()
    assert mixed.plan.layers == frozenset()


def test_a_plan_without_layers_costs_nothing() -> None:
    graph, statistics = graph_and_statistics()
    mixed = choose_layers(graph, Int8Plan("dynamic", frozenset()), statistics, images(2, seed=1), [0, 1], CANNOT_BE_MET)
    assert mixed.cost.drop == 0 and mixed.reasons == {}


def test_the_cost_of_a_net_that_selects_by_rank_is_measured_too() -> None:
    """Its selections are rows of float32; they lead the same net to the same cost."""
    graph = tiny_graph(select_by_rank)
    plan, statistics = plan_int8(graph, "dynamic"), graph_and_statistics()[1]
    by_rank = choose_layers(graph, plan, statistics, images(IMAGES, seed=1), None, 100.0)
    assert by_rank == choose("dynamic", 100.0)


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


def test_a_damaged_layer_is_the_worst() -> None:
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
