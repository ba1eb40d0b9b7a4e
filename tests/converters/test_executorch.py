"""What the real exporter makes of tiny nets: one delegate a stage, the reference's numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import tiny_exports
import torch
from conftest import tiny_tofe
from tiny_exports import COUNTS, OTHER, OTHER_COUNTS, SIZE, export, images, tiny_net, two_methods

from tofe_edge.converters.executorch import lower
from tofe_edge.converters.quantize import layers_of, plan_int8, quantize
from tofe_edge.converters.static_graph import build_static_graph
from tofe_edge.evaluation.parity import kept_overlap, snr_db
from tofe_edge.evaluation.prediction import compose_selections
from tofe_edge.io.quiet import swallow_native_stderr

IMAGES = 8
SELECTORS = [f"selectors.{stage}.{layer}" for stage in range(3) for layer in ("fc1", "fc2", "score")]
TOFE = ["fp32", "int8 dynamic", "int8 static", "lvvit"]


@dataclass(frozen=True)
class Outputs:
    """What a program and the reference make of the same images."""

    logits: npt.NDArray[np.float32]
    kept: list[list[npt.NDArray[np.int64]]]
    """Per image, per stage."""
    wanted_logits: npt.NDArray[np.float32]
    wanted_kept: list[list[npt.NDArray[np.int64]]]


@cache
def outputs(kind: str) -> Outputs:
    model = tiny_net("lvvit" if kind == "lvvit" else "deit")
    counts = None if kind == "dense" else COUNTS
    with swallow_native_stderr():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(export(kind).lowered.program).load_method("forward")
    assert method is not None
    logits, kept, wanted_logits, wanted_kept = [], [], [], []
    for image in images(IMAGES, seed=2):
        first, *selections = method.execute([image])
        logits.append(first.numpy()[0].copy())
        kept.append(compose_selections([selection.numpy() for selection in selections], counts.kept if counts else ()))
        with torch.no_grad():
            if counts is None:
                wanted_logits.append(model.forward_dense(image).numpy()[0])
                continue
            reference = model.forward_batch(image, counts)
        wanted_logits.append(reference.logits.numpy()[0])
        wanted_kept.append([index.numpy()[0] for index in reference.kept])
    return Outputs(np.stack(logits), kept, np.stack(wanted_logits), wanted_kept)


def overlap(found: Outputs, stage: int) -> float:
    pairs = zip(found.wanted_kept, found.kept, strict=True)
    return float(np.mean([kept_overlap(wanted[stage], kept[stage]) for wanted, kept in pairs]))


@pytest.mark.parametrize("kind", TOFE)
def test_each_stage_is_one_delegate_and_only_selections_stay_outside(kind: str) -> None:
    exported = export(kind)
    assert len(exported.stages) == exported.lowered.methods["forward"].delegates == 4
    assert tiny_exports.outside(exported.lowered) == {"topk": 3, "index_select": 3}


@pytest.mark.parametrize("kind", ["dense", "rank"])
def test_a_net_without_moves_by_index_is_one_delegate_with_nothing_outside(kind: str) -> None:
    assert export(kind).lowered.methods["forward"].delegates == 1
    assert tiny_exports.outside(export(kind).lowered) == {}


@pytest.mark.parametrize("kind", ["fp32", "lvvit"])
def test_fp32_keeps_the_tokens_that_the_reference_keeps(kind: str) -> None:
    found = outputs(kind)
    for kept, wanted in zip(found.kept, found.wanted_kept, strict=True):
        for kept_stage, wanted_stage in zip(kept, wanted, strict=True):
            assert set(kept_stage.tolist()) == set(wanted_stage.tolist())


@pytest.mark.parametrize("kind", ["fp32", "lvvit", "dense"])
def test_fp32_logits_are_those_of_the_reference(kind: str) -> None:
    np.testing.assert_allclose(outputs(kind).logits, outputs(kind).wanted_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "decibels"), [("int8 dynamic", 22), ("int8 static", 15)])
def test_int8_logits_are_close_to_the_reference(kind: str, decibels: float) -> None:
    snr = snr_db(outputs(kind).wanted_logits, outputs(kind).logits)
    assert decibels < snr < 80, "closer than int8 can be: was it quantized?"


@pytest.mark.parametrize("kind", ["int8 dynamic", "int8 static"])
def test_int8_keeps_nearly_the_same_tokens(kind: str) -> None:
    assert min(overlap(outputs(kind), stage) for stage in range(3)) > 0.85


@pytest.mark.parametrize("kind", ["int8 dynamic", "int8 static"])
def test_int8_programs_compute_what_the_quantized_graph_computes(kind: str) -> None:
    """The graph that was measured in PyTorch is the one that runs."""
    wanted = []
    with torch.no_grad():
        for image in images(IMAGES, seed=2):
            wanted.append(export(kind).graph(image)[0].numpy()[0])
    assert snr_db(np.stack(wanted), outputs(kind).logits) > 30


@pytest.mark.parametrize("kind", ["int8 dynamic", "int8 static"])
def test_int8_leaves_the_selectors_alone_in_fp32(kind: str) -> None:
    assert sorted(layers_of(export(kind).graph)) == SELECTORS


@pytest.mark.parametrize("kind", ["int8 dynamic", "int8 static"])
def test_int8_makes_the_program_smaller(kind: str) -> None:
    assert len(export(kind).lowered.program) < 0.45 * len(export("fp32").lowered.program)


@pytest.mark.parametrize("kind", ["fp32", "dense"])
def test_planned_memory_covers_the_input_and_not_the_weights(kind: str) -> None:
    lowered = export(kind).lowered
    planned = lowered.methods["forward"].planned_memory_bytes
    assert planned is not None and 4 * 3 * 64 * 64 <= planned < len(lowered.program)


def test_further_methods_share_the_weights() -> None:
    """Of a tiny net the graph itself weighs as much as the weights: what the second method adds is little of them."""
    added = len(two_methods().program) - len(export("int8 dynamic").lowered.program)
    weights = sum(buffer.nbytes for name, buffer in tiny_exports.int8_graph("dynamic").named_buffers())
    assert 0 < added < 0.3 * weights


def test_each_method_is_described() -> None:
    assert list(two_methods().methods) == ["forward", OTHER]
    for method in two_methods().methods.values():
        assert method.delegates == 4 and method.fallback_ops.keys() == {"topk", "index_select", "view_copy"}


def test_each_method_agrees_with_its_own_program_bit_for_bit() -> None:
    alone = {"forward": export("int8 dynamic").lowered, OTHER: tiny_exports.other_method_alone()}
    lengths: dict[str, Sequence[int]] = {"forward": (16, 16, 3), OTHER: (16, 16, 4)}
    for name, program in alone.items():
        for image in images(4, seed=3):
            found = tiny_exports.run(two_methods(), image, name)
            wanted = tiny_exports.run(program, image)
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
            assert [len(selection) for selection in found[1:]] == list(lengths[name])
    assert OTHER_COUNTS[-1] == 4


def test_a_further_budget_costs_at_most_a_fortieth_at_the_width_of_the_shipped_nets() -> None:
    """The graph that a further method adds does not grow with the width; the weights, stored once, grow with its square."""
    graph = build_static_graph(tiny_tofe(dim=192, classes=1000), COUNTS)
    graph = quantize(graph, plan_int8(graph, "dynamic"))
    two = lower({"forward": graph, OTHER: graph.with_counts(OTHER_COUNTS)}, (1, 3, SIZE, SIZE))
    assert all(method.delegates == 4 for method in two.methods.values())
    weights = sum(tensor.nbytes for tensor in graph.state_dict().values())
    assert 0.95 * weights < len(two.program) <= 1.025 * weights
