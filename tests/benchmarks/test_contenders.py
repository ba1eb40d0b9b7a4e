"""Each runtime that is installed builds a tiny net, dense and with ToFe, and agrees with eager fp32."""

import numpy as np
import pytest
import torch
from conftest import tiny_tofe

from benchmarks.contenders import Contender, Recipe, Subject, Unavailable, all_recipes, torch_peers
from benchmarks.contenders.contender import PlainToFe
from benchmarks.contenders.onnx_runtime import OnnxAttention, with_onnx_attention
from benchmarks.runtimes import check
from tofe_edge.errors import InputError
from tofe_edge.model.backbones import TokenCounts
from tofe_edge.model.tofe import ToFe

PEERS = [recipe for recipe in all_recipes() if recipe.runtime in ("PyTorch eager", "ONNX Runtime", "OpenVINO")]
STOCK_INT8 = ("stock ExecuTorch", "int8 static")
"""Takes a minute to build, and shares its code with its neighbours."""
SLOW = [recipe for recipe in all_recipes() if recipe not in PEERS and (recipe.runtime, recipe.precision) != STOCK_INT8]
LEAST_DB = {"fp32": 60.0, "int8 dynamic": 10.0, "int8 static": 5.0}
"""Random weights of a tiny net quantize worse than a trained one's."""


@pytest.mark.parametrize("counts", [None, (9, 5, 3), (3, 9, 1), (16, 5, 16), (16, 16, 16), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "lvvit_s"])
def test_the_graph_of_peers_computes_what_tofe_computes(name: str, counts: tuple[int, ...] | None) -> None:
    model = tiny_tofe(name)
    size = model.backbone.spec.image_size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    kept = None if counts is None else TokenCounts(counts)
    graph = PlainToFe(model, kept)
    with torch.no_grad():
        wanted = model.forward_dense(images) if kept is None else model.forward_batch(images, kept).logits
        for image, logits in zip(images, wanted):
            torch.testing.assert_close(graph(image[None])[0], logits, atol=1e-5, rtol=1e-5)


def test_the_graph_of_peers_keeps_layers_whole_and_has_no_scatter() -> None:
    subject = subject_of(tiny_tofe(), TokenCounts((9, 5, 3)))
    program = torch.export.export(subject.plain(), (subject.example(),))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("scatter" in operator for operator in operators)
    for kept_whole in ("layer_norm", "scaled_dot_product_attention", "topk", "index_select"):
        assert any(kept_whole in operator for operator in operators)
    with pytest.raises(InputError, match="has only 16 patch tokens"):
        PlainToFe(subject.model, TokenCounts((17, 5, 3)))


def subject_of(model: ToFe, counts: TokenCounts | None) -> Subject:
    size = model.backbone.spec.image_size
    generator = np.random.default_rng(0)
    calibration = tuple(generator.standard_normal((1, 3, size, size), np.float32) for _ in range(4))
    return Subject("dense" if counts is None else "ToFe", model, counts, calibration, threads=1, pinned=False)


def build(recipe: Recipe, subject: Subject) -> Contender:
    """Build, or skip with the reason that a user would read."""
    try:
        return recipe.build(subject)
    except Unavailable as error:
        pytest.skip(str(error))


def assert_agrees(recipe: Recipe, subject: Subject) -> Contender:
    contender = build(recipe, subject)
    (found,) = check([contender], [subject], subject.calibration)
    assert found.snr_db > LEAST_DB[recipe.precision]
    assert contender.size_bytes > 10_000
    return contender


def label(recipe: Recipe) -> str:
    return f"{recipe.runtime} {recipe.precision}"


@pytest.mark.parametrize("recipe", PEERS, ids=label)
def test_a_peer_agrees_with_the_reference(recipe: Recipe) -> None:
    model = tiny_tofe()
    assert_agrees(recipe, subject_of(model, None))
    # All tokens kept in the first stages, so that no int8 score near a boundary swaps a token in so small a net.
    assert_agrees(recipe, subject_of(model, TokenCounts((16, 16, 16))))


@pytest.mark.parametrize("recipe", [recipe for recipe in PEERS if recipe.precision == "fp32"], ids=label)
def test_a_float_peer_agrees_where_tokens_are_selected(recipe: Recipe) -> None:
    assert_agrees(recipe, subject_of(tiny_tofe(), TokenCounts((9, 5, 3))))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SLOW, ids=label)
def test_an_executorch_program_or_compiled_net_agrees_with_the_reference(recipe: Recipe) -> None:
    contender = assert_agrees(recipe, subject_of(tiny_tofe(), TokenCounts((16, 16, 16))))
    assert (contender.delegates is not None) == ("torch.compile" not in contender.name)


def test_names_are_unique_and_the_baseline_comes_first() -> None:
    subject = subject_of(tiny_tofe(), None)
    names = [recipe.name(subject) for recipe in all_recipes()]
    assert len(set(names)) == len(names)
    assert names[0] == "dense, stock ExecuTorch fp32"


def test_a_missing_library_is_named_with_the_way_to_install_it() -> None:
    recipe = Recipe("Other", "fp32", lambda subject: pytest.fail("built"), ("torch", "no_such_library"))
    with pytest.raises(Unavailable, match=r"^no_such_library not installed: pip install .*\[benchmarks\]"):
        recipe.build(subject_of(tiny_tofe(), None))


def test_torch_compile_is_unavailable_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiled = next(recipe for recipe in torch_peers.RECIPES if recipe.runtime == "torch.compile")
    with pytest.raises(Unavailable, match=r"needs a C\+\+ compiler"):
        compiled.build(subject_of(tiny_tofe(), None))


def test_onnx_attention_equals_the_backbones_own() -> None:
    for name in ("deit_tiny_patch16_224", "lvvit_s"):
        subject = subject_of(tiny_tofe(name), TokenCounts((9, 5, 3)))
        plain = subject.plain()
        changed = with_onnx_attention(plain)
        assert sum(isinstance(module, OnnxAttention) for module in changed.modules()) == 4
        assert not any(isinstance(module, OnnxAttention) for module in plain.modules())
        with torch.no_grad():
            torch.testing.assert_close(changed(subject.example()), plain(subject.example()), atol=1e-5, rtol=1e-5)
