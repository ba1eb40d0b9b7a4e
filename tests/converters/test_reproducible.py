"""The reproducible form of a graph: equal to the ordinary one up to rounding, and made of other operators."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import Program, document_of, manifest_for, refusal, tiny_tofe
from hypothesis import given
from hypothesis import strategies as st
from tiny_exports import COUNTS, SIZE, Export, export, images, lower_and_watch, run
from torch import Tensor, nn

from tofe_edge.converters.layers import RmsNorm, StaticAttention
from tofe_edge.converters.quantize import gather_statistics, layers_of, plan_int8, quantize
from tofe_edge.converters.reproducible import (
    SCORE_LIMIT,
    WHOLE_VECTORS,
    ReproducibleAttention,
    ReproducibleNorm,
    reproducible,
)
from tofe_edge.converters.request import ConvertRequest
from tofe_edge.converters.selection import select_by_rank, select_by_topk
from tofe_edge.converters.smoothing import loudest_normalised, smooth_residual
from tofe_edge.converters.static_graph import StaticToFe, build_static_graph
from tofe_edge.io.artifact import Manifest, open_artifact
from tofe_edge.io.targets import find_target
from tofe_edge.model.checkpoint import Checkpoint

FAMILIES = ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2", "lvvit_s"]
ROUNDED_DIFFERENTLY = {"aten._softmax.default", "aten.rsqrt.default", "aten.sqrt.default", "aten.sigmoid.default"}


def ordinary(name: str = "deit_tiny_patch16_224") -> StaticToFe:
    size = 56 if "patch14" in name else SIZE
    return build_static_graph(tiny_tofe(name, image_size=size), COUNTS)


def inputs(graph_name: str, count: int) -> list[Tensor]:
    return images(count, seed=3, size=56 if "patch14" in graph_name else SIZE)


def norm_and_twin(dim: int = 48, eps: float = 1e-6) -> tuple[RmsNorm, ReproducibleNorm]:
    norm = RmsNorm(dim, eps)
    return norm, ReproducibleNorm(norm)


def attention_and_twin(heads: int = 3, dim: int = 48) -> tuple[StaticAttention, ReproducibleAttention]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        attention = StaticAttention(nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), heads)
    return attention, ReproducibleAttention(attention.qkv, attention.proj, heads)


@cache
def reproducible_export(mode: str) -> Export:
    """The tiny DeiT in ``fp32`` or static ``int8``."""
    graph = reproducible(ordinary())
    if mode == "int8":
        graph = quantize(graph, plan_int8(graph, "static"), gather_statistics(graph, images(4, seed=1)))
    lowered, stages = lower_and_watch({"forward": graph})
    return Export(graph, lowered, stages)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_computes_what_the_ordinary_graph_does(name: str) -> None:
    graph = ordinary(name)
    twin = reproducible(graph)
    with torch.no_grad():
        for image in inputs(name, 4):
            (logits, *selections), (wanted, *orders) = twin(image), graph(image)
            torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
            assert all(torch.equal(order, other) for order, other in zip(selections, orders, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_no_layer_is_left_that_cpus_compute_differently(name: str) -> None:
    twin = reproducible(ordinary(name))
    kinds = {type(module) for module in twin.modules()}
    assert not kinds & {RmsNorm, StaticAttention}
    assert {ReproducibleNorm, ReproducibleAttention} <= kinds
    linears = [layer for layer in layers_of(twin).values() if isinstance(layer, nn.Linear)]
    assert all(layer.out_features % WHOLE_VECTORS == 0 for layer in linears)
    assert all(len(module.mean_row) == WHOLE_VECTORS for module in twin.modules() if isinstance(module, RmsNorm))


def test_the_graph_that_it_is_made_of_stays_as_it_was() -> None:
    graph = ordinary()
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    kinds = [type(module) for module in graph.modules()]
    twin = reproducible(graph)
    next(iter(layers_of(twin).values())).weight.data.zero_()
    assert kinds == [type(module) for module in graph.modules()]
    assert before.keys() == graph.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("select", [select_by_topk, select_by_rank])
def test_batches_ranks_and_other_counts_work_too(batch: int, select: object) -> None:
    graph = build_static_graph(tiny_tofe(), COUNTS, select)  # type: ignore[arg-type]
    picture = torch.cat(images(batch, seed=4))
    for kept in (COUNTS.kept, (16, 4, 2)):
        ours, wanted = reproducible(graph).with_counts(kept)(picture), graph.with_counts(kept)(picture)
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)


def test_a_smoothed_graph_keeps_its_weighted_squares() -> None:
    graph = ordinary()
    smoothed = smooth_residual(graph, loudest_normalised(graph, images(2, seed=5)))
    (image,) = images(1, seed=6)
    with torch.no_grad():
        torch.testing.assert_close(reproducible(smoothed)(image)[0], graph(image)[0], atol=1e-5, rtol=1e-5)


@given(st.floats(-18.0, 18.0), st.integers(0, 2**16))
def test_the_norm_is_right_for_loud_and_silent_tokens(exponent: float, seed: int) -> None:
    norm, twin = norm_and_twin()
    tokens = torch.randn(1, 5, 48, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    torch.testing.assert_close(twin(tokens), norm(tokens), atol=0.0, rtol=4e-6)


def test_a_token_of_zeros_stays_one() -> None:
    _, twin = norm_and_twin()
    assert torch.equal(twin(torch.zeros(1, 2, 48)), torch.zeros(1, 2, 48))


@given(st.floats(0.1, SCORE_LIMIT), st.integers(0, 2**16))
def test_attention_is_softmax_within_the_limit(largest: float, seed: int) -> None:
    attention, twin = attention_and_twin()
    generator = torch.Generator().manual_seed(seed)
    scores, value = torch.randn(3, 7, 9, generator=generator), torch.randn(3, 9, 16, generator=generator)
    scores = scores / scores.abs().max() * largest
    torch.testing.assert_close(twin.mix(scores, value), attention.mix(scores, value), atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("factor", [1e2, 1e4, 1e30])
def test_nothing_overflows_beyond_the_limit(factor: float) -> None:
    _, twin = attention_and_twin()
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(3, 577, 577, generator=generator) * factor
    value = torch.randn(3, 577, 16, generator=generator) * 1e4
    mixed = twin.mix(scores, value)
    assert mixed.isfinite().all()
    # A mean of the values, whatever the weights.
    assert bool((mixed <= value.amax(1, keepdim=True) * 1.0001).all())
    assert bool((mixed >= value.amin(1, keepdim=True) * 1.0001).all())


@pytest.mark.parametrize("mode", ["fp32", "int8"])
def test_the_program_has_no_operator_that_cpus_round_differently(mode: str) -> None:
    operators = {operator for stage in reproducible_export(mode).stages for operator in stage.operators}
    assert not operators & ROUNDED_DIFFERENTLY
    assert {"aten.exp.default", "aten.log.default"} <= operators
    usual = {operator for stage in export("fp32").stages for operator in stage.operators}
    assert {"aten._softmax.default", "aten.rsqrt.default"} <= usual


@pytest.mark.parametrize("mode", ["fp32", "int8"])
def test_it_takes_no_delegate_and_no_operator_outside_more(mode: str) -> None:
    method = reproducible_export(mode).lowered.methods["forward"]
    usual = export("fp32").lowered.methods["forward"]
    assert (method.delegates, method.fallback_ops) == (usual.delegates, usual.fallback_ops)


@pytest.mark.parametrize(("mode", "tolerance"), [("fp32", 1e-5), ("int8", 2e-2)])
def test_the_program_computes_what_the_graph_does(mode: str, tolerance: float) -> None:
    made = reproducible_export(mode)
    for image in images(4, seed=8):
        logits, *_ = run(made.lowered, image)
        with torch.no_grad():
            wanted, *_ = made.graph(image)
        torch.testing.assert_close(logits, wanted, atol=tolerance, rtol=tolerance)


def asked(checkpoint: Checkpoint, precision: str) -> ConvertRequest:
    return ConvertRequest(checkpoint, find_target("executorch"), precision, None, "tiny.pte", reproducible=True)


def test_fp32_and_static_int8_may_be_reproducible(tiny_checkpoint: Checkpoint) -> None:
    for wanted in (asked(tiny_checkpoint, "fp32"), replace(asked(tiny_checkpoint, "int8"), int8_mode="static")):
        assert wanted.check() is wanted


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "static int8 needs calibration images; give a folder with --calibration"),
        (["--int8-mode", "dynamic"], r"--reproducible: .*dynamic int8.*; use --int8-mode static"),
        (["--target", "coreml"], r"--reproducible: Core ML .*; use XNNPACK"),
    ],
)
def test_a_wrong_call_says_what_to_do(
    weights: Path, tmp_path: Path, program: Program, options: Sequence[str], said: str
) -> None:
    call = ("convert", "--checkpoint", weights, "--reproducible", *options, "--out", tmp_path)
    assert re.search(said, refusal(program, *call))
    assert not list(tmp_path.iterdir())


def test_the_artifact_says_that_it_is_reproducible(
    tiny_checkpoint: Checkpoint, image_folder: Path, tmp_path: Path, program: Program
) -> None:
    call = ("convert", "--checkpoint", tiny_checkpoint.path, "--reproducible", "--calibration", image_folder)
    model = Path(document_of(program, *call, "--out", tmp_path)["artifact"])
    manifest = open_artifact(model).manifest
    assert model.name == f"{tiny_checkpoint.name}-int8_static-reproducible.pte"
    assert (manifest.reproducible, manifest.precision, manifest.int8_mode) == (True, "int8", "static")
    assert manifest.parity is not None and manifest.parity["passed"]
    assert program("run", model, "--self-test")[0] == 0


def test_a_manifest_has_the_key_if_it_is_true(tiny_checkpoint: Checkpoint) -> None:
    plain = manifest_for(tiny_checkpoint, "tiny.pte", b"")
    document = json.loads(json.dumps(plain.to_json()))
    assert "reproducible" not in document and Manifest.from_json(document) == plain
    marked = Manifest.from_json(json.loads(json.dumps(replace(plain, reproducible=True).to_json())))
    assert marked == replace(plain, reproducible=True) and marked.to_json()["reproducible"] is True
