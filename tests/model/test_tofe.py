"""The three forwards of ToFe against each other, against timm and against NumPy, for every family of backbone."""

from typing import Any

import numpy as np
import numpy_reference
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_tofe
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.model.backbones import Reduction, TokenCounts
from tofe_edge.model.masking import take
from tofe_edge.model.tofe import KEEP, Inference, ToFe, masks_of
from tofe_edge.training.schedule import gumbel_sampler

DEIT, DISTILLED = "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"
FAMILIES: list[tuple[str, dict[str, int]]] = [
    (DEIT, {}),
    (DISTILLED, {}),
    ("deit3_small_patch16_224", {"depth": 7}),
    ("vit_small_patch14_reg4_dinov2", {"image_size": 56}),
    ("lvvit_s", {"depth": 6}),
]
COUNTS = TokenCounts((9, 5, 3))
PATCHES = 16


REDUCTIONS: tuple[Reduction, ...] = ("paper", "merging")


@pytest.fixture(params=FAMILIES, ids=[name for name, _ in FAMILIES])
def family(request: pytest.FixtureRequest) -> tuple[str, dict[str, int]]:
    found: tuple[str, dict[str, int]] = request.param
    return found


@pytest.fixture(params=REDUCTIONS)
def net(family: tuple[str, dict[str, int]], request: pytest.FixtureRequest) -> ToFe:
    name, overrides = family
    return tiny_tofe(name, reduction=request.param, **overrides).requires_grad_(False)


@pytest.fixture
def deit() -> ToFe:
    return tiny_tofe(DEIT).requires_grad_(False)


def images_for(model: ToFe, batch: int = 3, seed: int = 0) -> Tensor:
    size = model.backbone.spec.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, wanted: Tensor) -> None:
    # 300 times a cosine, as which merging nets weigh tokens, makes 3e-5 of a rounding of 1e-7.
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def kept_sets(inference: Inference) -> list[list[list[int]]]:
    return [index.sort(dim=1).values.tolist() for index in inference.kept]


def scored_patches(model: ToFe, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Records the patch tokens that every selector sees from now on."""
    seen: list[Tensor] = []
    score = model.score
    monkeypatch.setattr(model, "score", lambda stage, patches: seen.append(patches) or score(stage, patches))  # type: ignore[func-returns-value]
    return seen


def test_masked_forward_with_the_masks_of_the_gathered_one_gives_its_logits(net: ToFe) -> None:
    images = images_for(net)
    gathered = net.forward_batch(images, COUNTS)
    masked = net.forward_masked(images, masks=masks_of(gathered, PATCHES))
    close(masked.logits, gathered.logits)
    assert gathered.logits.std(dim=0).min() > 1e-3, "the logits must depend on the image for this to mean anything"


def test_masked_and_gathered_forward_hold_the_same_tokens(net: ToFe, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_for(net)
    seen = scored_patches(net, monkeypatch)
    gathered = net.forward_batch(images, COUNTS)
    masked = net.forward_masked(images, masks=masks_of(gathered, PATCHES))
    assert len(masked.rearranged) == 2
    for stage in range(2):
        close(masked.rearranged[stage], seen[stage + 1])
        close(take(masked.rearranged[stage], gathered.kept[stage]), take(seen[stage + 1], gathered.kept[stage]))


def test_masked_forward_without_noise_is_the_instance_adaptive_one(net: ToFe) -> None:
    images = images_for(net, 12)
    for selector in net.selectors:
        selector.get_submodule("fc3").get_parameter("bias")[KEEP] += 1.0
    masked = net.forward_masked(images)
    # Where no token is wanted, inference alone keeps the best one.
    usable = torch.stack([mask.any(dim=1) for mask in masked.masks]).all(dim=0).nonzero()[:, 0].tolist()
    assert usable
    for number in usable:
        instance = net.forward_instance(images[number][None])
        wanted = [torch.nonzero(mask[number])[:, 0].tolist() for mask in masked.masks]
        assert [stage[0] for stage in kept_sets(instance)] == wanted
        close(masked.logits[number], instance.logits[0])


def test_the_gathered_form_is_batch_adaptive_inference_and_trains_all_but_the_selectors(net: ToFe) -> None:
    images = images_for(net)
    inference = net.forward_batch(images, COUNTS)
    with torch.enable_grad():
        net.requires_grad_(True)
        output = net.gathered_from(net.stem(images).detach(), COUNTS)
        (output.logits.square().sum() + output.rearranged[-1].square().sum()).backward()
    close(output.logits, inference.logits)
    for mask, expected in zip(output.masks, masks_of(inference, PATCHES)):
        assert torch.equal(mask, expected)
    for one, other in zip(output.rearranged, net.forward_masked(images, masks=output.masks).rearranged):
        close(one, other)
    learned = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert all(".features." in name for name in learned if name.startswith("selectors"))
    assert {name for name, _ in net.approximators.named_parameters(prefix="approximators")} <= learned
    first = net.backbone.spec.stages[0]
    assert {name.split("blocks.")[1].split(".")[0] for name in learned if "blocks." in name} == {
        str(block) for block in range(first, net.backbone.spec.depth)
    }


def test_a_stem_replaces_the_first_blocks(net: ToFe) -> None:
    images = images_for(net)
    stem = net.run_blocks(0, net.backbone.embed(images))
    close(net.masked_from(stem).logits, net.forward_masked(images).logits)


def test_instance_adaptive_is_batch_adaptive_with_its_own_counts(net: ToFe) -> None:
    for image in images_for(net, 4).split(1):
        instance = net.forward_instance(image)
        batch = net.forward_batch(image, TokenCounts(tuple(index.shape[1] for index in instance.kept)))
        assert kept_sets(instance) == kept_sets(batch)
        close(instance.logits, batch.logits)


def test_instance_adaptive_keeps_the_tokens_with_positive_scores(net: ToFe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scored_patches(net, monkeypatch)
    inference = net.forward_instance(images_for(net, 1, seed=3))
    for stage, index in enumerate(inference.kept):
        keep_probability = F.softmax(net.selectors[stage](seen[stage]), dim=-1)[0, :, 0]
        likely = torch.nonzero(keep_probability > 0.5)[:, 0].tolist()
        assert sorted(index[0].tolist()) == (likely or [int(keep_probability.argmax())])


def test_instance_adaptive_keeps_at_least_the_best_token(deit: ToFe) -> None:
    for selector in deit.selectors:
        selector.get_submodule("fc3").get_parameter("bias").copy_(torch.tensor([-100.0, 100.0]))
    image = images_for(deit, 1)
    inference = deit.forward_instance(image)
    assert [tuple(index.shape) for index in inference.kept] == [(1, 1)] * 3
    assert kept_sets(inference) == kept_sets(deit.forward_batch(image, TokenCounts((1, 1, 1))))


def test_a_batch_gives_what_its_images_give_one_by_one(net: ToFe) -> None:
    images = images_for(net, 5)
    together = net.forward_batch(images, COUNTS)
    alone = [net.forward_batch(image, COUNTS) for image in images.split(1)]
    close(together.logits, torch.cat([inference.logits for inference in alone]))
    for stage in range(3):
        assert kept_sets(together)[stage] == [kept_sets(inference)[stage][0] for inference in alone]
        close(together.margins[stage], torch.cat([inference.margins[stage] for inference in alone]))


@pytest.mark.parametrize(("name", "overrides"), FAMILIES[:-1])
def test_the_dense_forward_is_timms_own(name: str, overrides: dict[str, int]) -> None:
    model = tiny_tofe(name, **overrides).requires_grad_(False)
    images = images_for(model)
    vit: Any = model.backbone.vit
    close(model.forward_dense(images), vit(images))


def test_every_form_with_all_tokens_is_the_dense_forward(net: ToFe) -> None:
    images = images_for(net)
    everything = net.forward_batch(images, TokenCounts((PATCHES,) * 3))
    close(everything.logits, net.forward_dense(images))
    close(net.forward_masked(images, masks=[torch.ones(3, PATCHES)] * 3).logits, net.forward_dense(images))
    assert all(torch.isinf(margin).all() for margin in everything.margins)
    assert kept_sets(everything) == [[list(range(PATCHES))] * 3] * 3


@pytest.mark.parametrize("counts", [(9, 5, 3), (3, 11, 7), (1, 1, 1), (16, 2, 16)])
@pytest.mark.parametrize("name", [DEIT, DISTILLED])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_batch_adaptive_agrees_with_numpy(reduction: Reduction, name: str, counts: tuple[int, ...]) -> None:
    model = tiny_tofe(name, reduction=reduction, depth=6).requires_grad_(False)
    images = images_for(model, 2)
    inference = model.forward_batch(images, TokenCounts(counts))
    weights = {key: value.double().numpy() for key, value in model.state_dict().items()}
    net = numpy_reference.Net(weights, model.backbone.spec.heads)
    for number, image in enumerate(images.double().numpy()):
        logits, kept = numpy_reference.batch_adaptive(net, image, model.backbone.spec.stages, counts)
        np.testing.assert_allclose(inference.logits[number].numpy(), logits, rtol=0, atol=1e-5)
        assert [index[number].tolist() for index in inference.kept] == kept


def test_the_margin_is_the_score_gap_at_the_cut(deit: ToFe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scored_patches(deit, monkeypatch)
    inference = deit.forward_batch(images_for(deit), COUNTS)
    for stage, count in enumerate(COUNTS.kept):
        ranked = deit.score(stage, seen[stage]).sort(dim=1, descending=True).values
        close(inference.margins[stage], ranked[:, count - 1] - ranked[:, count])


def test_a_frozen_token_is_reused_after_its_approximation(deit: ToFe, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_for(deit, 1)
    first = deit.forward_batch(images, COUNTS)
    frozen = sorted(set(range(PATCHES)) - set(first.kept[0][0].tolist()))
    before = scored_patches(deit, monkeypatch)

    def wanting_the_frozen(stage: int, patches: Tensor) -> Tensor:
        before.append(patches)
        wanted = frozen if stage == 1 else first.kept[stage][0].tolist()
        return torch.tensor([[float(token in wanted) for token in range(PATCHES)]])

    before.clear()
    monkeypatch.setattr(deit, "score", wanting_the_frozen)
    second = deit.forward_batch(images, COUNTS)
    assert second.kept[1][0].tolist() == frozen[:5]
    approximated = deit.approximators[0](before[0])[:, frozen]
    close(before[1][:, frozen], approximated)
    assert (before[1][:, frozen] - before[0][:, frozen]).abs().max() > 1e-3
    deit.approximators[0].get_submodule("fc2").get_parameter("bias").copy_(torch.linspace(-1, 1, 48))
    assert (deit.forward_batch(images, COUNTS).logits - second.logits).abs().max() > 1e-3


def perturb_stage_input(model: ToFe, at: int, frozen: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add to the frozen patch tokens at the input of the blocks of stage ``at``."""
    run_blocks, prefix = model.run_blocks, model.backbone.spec.prefix_tokens

    def perturbed(stage: int, tokens: Tensor, keep: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        if stage == at:
            noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1))
            noise[:, :prefix] = 0
            noise[:, prefix:] *= frozen[..., None]
            tokens = tokens + noise
        return run_blocks(stage, tokens, keep, sizes)

    monkeypatch.setattr(model, "run_blocks", perturbed)


def test_tokens_frozen_in_the_last_stage_do_not_matter(net: ToFe, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_for(net)
    masks = masks_of(net.forward_batch(images, COUNTS), PATCHES)
    before = net.forward_masked(images, masks=masks).logits
    with monkeypatch.context() as patched:
        perturb_stage_input(net, 3, 1 - masks[2], patched)
        close(net.forward_masked(images, masks=masks).logits, before)
    with monkeypatch.context() as patched:
        perturb_stage_input(net, 3, masks[2], patched)
        assert (net.forward_masked(images, masks=masks).logits - before).abs().max() > 1e-2


def test_each_stage_sees_the_prefix_and_the_kept_tokens_only(net: ToFe, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    block = net.backbone.block

    def counting(index: int, tokens: Tensor, sizes: Tensor | None) -> Tensor:
        assert sizes is None or sizes.shape == tokens.shape[:2]
        lengths.append(tokens.shape[1] - net.backbone.spec.prefix_tokens)
        return block(index, tokens, sizes)

    monkeypatch.setattr(net.backbone, "block", counting)
    net.forward_batch(images_for(net, 1), COUNTS)
    stages = zip(net.backbone.spec.stage_lengths(), (PATCHES, *COUNTS.kept))
    assert lengths == [count for blocks, count in stages for _ in range(blocks)]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_reach_every_selector_and_approximator(reduction: Reduction) -> None:
    model = tiny_tofe(DEIT, reduction=reduction)
    torch.manual_seed(0)
    output = model.forward_masked(images_for(model), gumbel=lambda logits: F.gumbel_softmax(logits, hard=True))
    assert all(set(mask.unique().tolist()) == {0.0, 1.0} for mask in output.masks)
    output.logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and 0 < parameter.grad.abs().max() < torch.inf, name


@pytest.mark.parametrize(
    ("counts", "reason"),
    [((9, 5), "has 3 stages, not 2"), ((17, 5, 3), "only 16 patch tokens"), ((9, 5, 3, 1), "not 4")],
)
def test_counts_that_do_not_fit_the_backbone_are_refused(deit: ToFe, counts: tuple[int, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        deit.forward_batch(images_for(deit), TokenCounts(counts))


def test_instance_adaptive_refuses_a_batch(deit: ToFe) -> None:
    with pytest.raises(InputError, match="one image at a time, not 2"):
        deit.forward_instance(images_for(deit, 2))


@pytest.mark.parametrize("text", ["", "96;49;27", "96,x,27", "9.5,5,3", "0,5,3", "-1,5,3"])
def test_token_counts_that_are_no_positive_whole_numbers_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="token counts"):
        TokenCounts.parse(text)


def test_token_counts_are_read_back_from_their_text() -> None:
    assert TokenCounts.parse(str(TokenCounts((96, 49, 27)))) == TokenCounts((96, 49, 27))


def test_masks_are_drawn_with_the_selectors_own_probability(deit: ToFe) -> None:
    """Eq. 8 taken literally would give Eq. 9 probabilities in place of logits, and cap P(keep) at 0.73."""
    for selector in deit.selectors:
        last = [layer for layer in selector.modules() if isinstance(layer, torch.nn.Linear)][-1]
        torch.nn.init.zeros_(last.weight)
        last.bias.copy_(torch.tensor([3.0, 0.0]))
    images = torch.zeros(8, 3, 64, 64)
    drawn = [deit.forward_masked(images, gumbel_sampler(0, step)).masks for step in range(8)]
    share = float(torch.stack([torch.cat(masks) for masks in drawn]).mean())
    assert share == pytest.approx(torch.sigmoid(torch.tensor(3.0)).item(), abs=0.02)  # 3072 draws: 5 standard errors
