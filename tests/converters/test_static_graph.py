"""The exported form (concatenate, select again) equals the reference form (rearrange) on every family of backbones."""

import numpy as np
import pytest
import torch
from conftest import tiny_tofe
from torch import Tensor, nn

from tofe_edge.converters.decompose import to_static_layers
from tofe_edge.converters.layers import LinearStem, StaticBlock
from tofe_edge.converters.selection import Select, select_by_rank, select_by_topk
from tofe_edge.converters.static_graph import StaticApproximator, StaticToFe, build_static_graph
from tofe_edge.errors import InputError
from tofe_edge.evaluation.prediction import compose_selections
from tofe_edge.model.backbones import BackboneAdapter, TokenCounts
from tofe_edge.model.tofe import ToFe

FAMILIES = [
    pytest.param("deit_tiny_patch16_224", {}, id="deit"),
    pytest.param("deit_tiny_distilled_patch16_224", {}, id="distilled"),
    pytest.param("deit3_small_patch16_224", {}, id="deit3"),
    pytest.param("vit_small_patch14_reg4_dinov2", {"image_size": 56}, id="dinov2-reg"),
    pytest.param("lvvit_s", {}, id="lvvit_s"),
]
DEEPER = [
    pytest.param("deit_tiny_patch16_224", {"depth": 9}, id="uneven stages"),
    pytest.param("deit_tiny_patch16_224", {"image_size": 48}, id="9 tokens"),
]
COUNTS = [(9, 5, 3), (3, 9, 1), (16, 5, 3), (9, 16, 3), (9, 5, 16), (16, 16, 16), (1, 1, 1)]


def images_for(model: ToFe, count: int, seed: int = 0) -> Tensor:
    size = model.backbone.spec.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def assert_equal_forms(model: ToFe, counts: TokenCounts, images: Tensor) -> None:
    graph = build_static_graph(model, counts)
    with torch.no_grad():
        reference = model.forward_batch(images, counts)
        for number, image in enumerate(images):
            logits, *selections = graph(image[None])
            torch.testing.assert_close(logits[0], reference.logits[number], atol=1e-5, rtol=1e-5)
            kept = compose_selections([selection.numpy() for selection in selections], counts.kept)
            for found, wanted in zip(kept, reference.kept, strict=True):
                np.testing.assert_array_equal(found, wanted[number].numpy())


@pytest.mark.parametrize(("name", "overrides"), FAMILIES + DEEPER)
def test_the_concatenated_form_equals_the_rearranged_form(name: str, overrides: dict[str, int]) -> None:
    model = tiny_tofe(name, **overrides)
    tokens = model.backbone.spec.patch_tokens
    assert_equal_forms(model, TokenCounts((min(9, tokens), 5, 3)), images_for(model, 6))


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "lvvit_s"])
def test_the_forms_agree_for_any_counts(name: str, counts: tuple[int, ...]) -> None:
    model = tiny_tofe(name, seed=1)
    assert_equal_forms(model, TokenCounts(counts), images_for(model, 3, seed=1))


@pytest.mark.parametrize(("name", "overrides"), FAMILIES + DEEPER)
def test_a_graph_of_no_counts_is_the_dense_backbone(name: str, overrides: dict[str, int]) -> None:
    model = tiny_tofe(name, **overrides)
    graph, images = build_static_graph(model, None), images_for(model, 3)
    with torch.no_grad():
        for batch in (images, *images.split(1)):
            (logits,) = graph(batch)
            torch.testing.assert_close(logits, model.forward_dense(batch), atol=1e-5, rtol=1e-5)


def test_the_reference_keeps_different_tokens_for_different_images() -> None:
    """Else the comparisons above would compare constants."""
    model = tiny_tofe()
    with torch.no_grad():
        inference = model.forward_batch(images_for(model, 6), TokenCounts((9, 5, 3)))
    for kept in inference.kept:
        assert len({tuple(sorted(row)) for row in kept.tolist()}) > 1
    assert float((inference.logits[0] - inference.logits[1]).abs().max()) > 1e-2


def test_each_part_of_the_net_reaches_the_logits() -> None:
    """A part that the graph left out would go unnoticed if it did not matter."""
    model = tiny_tofe()
    counts = TokenCounts((9, 5, 3))
    image = images_for(model, 1)
    with torch.no_grad():
        before = build_static_graph(model, counts)(image)[0]
        for part in (model.approximators[0].fc2, model.approximators[1].fc2, model.selectors[2].fc3):
            assert isinstance(part, nn.Linear)
            part.weight.mul_(-3)
            after = build_static_graph(model, counts)(image)[0]
            assert float((after - before).abs().max()) > 1e-4
            before = after


def test_selections_have_static_lengths() -> None:
    model = tiny_tofe()
    _, *selections = build_static_graph(model, TokenCounts((9, 5, 3)))(images_for(model, 1))
    assert [len(selection) for selection in selections] == [16, 16, 3]
    for selection in selections[:-1]:
        assert sorted(selection.tolist()) == list(range(16))


def test_building_the_graph_leaves_the_net_as_it_was() -> None:
    model, untouched = tiny_tofe(), tiny_tofe()
    graph: StaticToFe = build_static_graph(model, TokenCounts((9, 5, 3)))
    assert not graph.training
    for key, value in untouched.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [((9, 5), "has 3 stages, not 2"), ((17, 5, 3), "has only 16 patch tokens"), ((9, 5, 3, 1), "has 3 stages, not 4")],
)
def test_counts_that_do_not_fit_are_refused(counts: tuple[int, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        build_static_graph(tiny_tofe(), TokenCounts(counts))


def test_a_backbone_without_a_static_form_is_refused() -> None:
    model = tiny_tofe()

    class Other(BackboneAdapter):
        spec, preprocessing = model.backbone.spec, model.backbone.preprocessing
        embed = block = attention_received = masked_block = features = pooled = logits = load_dense = None  # type: ignore[assignment]

    model.backbone = Other()
    with pytest.raises(InputError, match="Other: this kind of backbone cannot be exported"):
        build_static_graph(model, None)


EVERY_FAMILY = pytest.mark.parametrize(("name", "overrides"), FAMILIES)


@EVERY_FAMILY
def test_what_enters_and_leaves_each_block_is_centred(name: str, overrides: dict[str, int]) -> None:
    """The norms rely on it: they divide by the root mean square and subtract no mean."""
    model = tiny_tofe(name, **overrides)
    graph = build_static_graph(model, TokenCounts((9, 5, 3)))
    offsets: list[float] = []

    def watch(_module: nn.Module, _args: object, tokens: Tensor) -> None:
        offsets.append(float((tokens.mean(-1).abs() / tokens.square().mean(-1).sqrt()).max()))

    watched = [module for module in graph.modules() if isinstance(module, (StaticBlock, StaticApproximator))]
    for module in (graph.stem, *watched):
        module.register_forward_hook(watch)
    with torch.no_grad():
        graph(images_for(model, 1))
        uncentred = model.backbone.embed(images_for(model, 1)).mean(-1).abs().max()
    assert len(offsets) == 1 + 4 + 2
    assert max(offsets) < 1e-5
    assert float(uncentred) > 1e-3, "the host's own stream is centred: this shows nothing"


@EVERY_FAMILY
def test_the_last_block_computes_what_the_head_reads(name: str, overrides: dict[str, int]) -> None:
    model = tiny_tofe(name, **overrides)
    parts = to_static_layers(model.backbone)
    read = {"lvvit_s": None, "deit_tiny_distilled_patch16_224": 2}.get(name, 1)
    assert [block.queries for block in parts.blocks] == [None] * (len(parts.blocks) - 1) + [read]
    with torch.no_grad():
        tokens = parts.stem(images_for(model, 2))
        for block in parts.blocks[:-1]:
            tokens = block(tokens)
        last = parts.blocks[-1]
        some = last(tokens)
        logits = parts.head(some)
        last.queries = None  # type: ignore[assignment]
        everything = last(tokens)
        assert some.shape == (2, read or tokens.shape[1], tokens.shape[2])
        assert everything.shape == tokens.shape
        torch.testing.assert_close(some, everything[:, : some.shape[1]], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits, parts.head(everything), atol=1e-5, rtol=1e-5)


SELECTS = [pytest.param(select_by_topk, id="topk"), pytest.param(select_by_rank, id="rank")]


@pytest.mark.parametrize("select", SELECTS)
@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "lvvit_s"])
def test_a_batch_is_classified_image_by_image(name: str, batch: int, select: Select) -> None:
    model = tiny_tofe(name)
    graph = build_static_graph(model, TokenCounts((9, 5, 3)), select)
    images = images_for(model, batch, seed=2)
    with torch.no_grad():
        logits, *selections = graph(images)
        assert logits.shape == (batch, 10)
        assert [selection.shape for selection in selections] == [(batch, 16), (batch, 16), (batch, 3)]
        for number in range(batch):
            wanted, *orders = graph(images[[number]])
            torch.testing.assert_close(logits[number], wanted[0], atol=1e-5, rtol=1e-5)
            for found, order in zip(selections, orders, strict=True):
                assert torch.equal(found[number], order.view(-1))


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "lvvit_s"])
def test_selection_by_rank_is_selection_by_topk(name: str) -> None:
    model = tiny_tofe(name)
    by_topk, by_rank = (
        build_static_graph(model, TokenCounts((9, 5, 3)), select) for select in (select_by_topk, select_by_rank)
    )
    with torch.no_grad():
        for image in images_for(model, 4):
            for found, wanted in zip(by_rank(image[None]), by_topk(image[None]), strict=True):
                assert torch.equal(found.view(-1), wanted.view(-1).to(found.dtype))


@pytest.mark.parametrize(
    ("counts", "select"),
    [
        *((counts, select_by_topk) for counts in [(9, 5, 3), (16, 5, 3), (9, 16, 3), (16, 16, 16)]),
        ((9, 5, 3), select_by_rank),  # as rows of float32
    ],
)
def test_its_own_selections_forced_change_nothing(counts: tuple[int, ...], select: Select) -> None:
    model = tiny_tofe()
    graph, image = build_static_graph(model, TokenCounts(counts), select), images_for(model, 1)
    with torch.no_grad():
        free = graph(image)
        forced = graph(image, free[1:])
    assert all(torch.equal(a, b) for a, b in zip(free, forced, strict=True))


def test_other_selections_forced_are_followed() -> None:
    model = tiny_tofe()
    graph, (image, other) = build_static_graph(model, TokenCounts((9, 5, 3))), images_for(model, 2)[:, None]
    with torch.no_grad():
        free, others = graph(image), graph(other)[1:]
        logits, *selections = graph(image, others)
    assert all(torch.equal(a, b) for a, b in zip(selections, others, strict=True))
    assert not torch.allclose(logits, free[0], atol=1e-4)


@pytest.mark.parametrize("counts", [(12, 7, 4), (16, 5, 3), (9, 16, 16), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "lvvit_s"])
def test_a_graph_takes_other_counts(name: str, counts: tuple[int, ...]) -> None:
    model = tiny_tofe(name)
    graph = build_static_graph(model, TokenCounts((9, 5, 3)))
    twin, built = graph.with_counts(counts), build_static_graph(model, TokenCounts(counts))
    image = images_for(model, 1)
    with torch.no_grad():
        before = graph(image)
        for found, wanted in zip(twin(image), built(image), strict=True):
            assert torch.equal(found, wanted)
        assert all(torch.equal(a, b) for a, b in zip(graph(image), before, strict=True)), "the original changed"
    assert graph.kept == (9, 5, 3) and twin.kept == counts


def test_graphs_of_other_counts_share_every_weight() -> None:
    graph = build_static_graph(tiny_tofe(), TokenCounts((9, 5, 3)))
    own, shared = graph.state_dict(), graph.with_counts((12, 7, 4)).state_dict()
    assert own.keys() == shared.keys()
    assert all(own[name].data_ptr() == shared[name].data_ptr() for name in own)


@pytest.mark.parametrize("bias", [True, False])
def test_the_linear_stem_is_the_convolution_and_its_embedding(bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(3, 10, 4, stride=4, bias=bias).requires_grad_(False)
    for parameter in conv.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    prefix, position = torch.randn(1, 2, 10, generator=generator), torch.randn(1, 12, 10, generator=generator)
    image = torch.randn(2, 3, 12, 16, generator=generator)
    patches = conv(image).flatten(2).transpose(1, 2) + position
    wanted = torch.cat((prefix.expand(2, -1, -1), patches), dim=1)
    with torch.no_grad():
        found = LinearStem(conv, prefix, position)(image)
    torch.testing.assert_close(found, wanted - wanted.mean(-1, keepdim=True), atol=1e-5, rtol=1e-5)
