"""Every kind of net and every output: dense as timm computes it, masked as gathered, and counted product by product."""

from typing import Any

import pytest
import torch
from kinds import KINDS, OPTIONS, OUTPUTS, by_timm, images_for, kind, outputs_of
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tofe_edge.errors import InputError
from tofe_edge.io.labels import default_classes
from tofe_edge.model.backbones import TokenCounts, create_backbone
from tofe_edge.model.backbones.spec import FEATURES
from tofe_edge.model.backbones.timm_vit import TimmVit
from tofe_edge.model.checkpoint import describe, load_model, read_header, save
from tofe_edge.model.macs import dense_macs, tofe_macs
from tofe_edge.model.tofe import ToFe, masks_of

COUNTS = TokenCounts((10, 7, 3))
EVERY_KIND = pytest.mark.parametrize("name", KINDS)
EVERY_REDUCTION = pytest.mark.parametrize("reduction", ["paper", "merging"])
THAWS_LAST = pytest.mark.parametrize("thaws_last", [False, True], ids=["", "thaws last"])


@EVERY_KIND
def test_the_dense_net_is_timms_own(name: str) -> None:
    model = kind(name)
    if not isinstance(model.backbone, TimmVit):
        pytest.skip("not of timm")
    images = images_for(model, 3)
    for output in outputs_of(model):
        found = model.forward_dense(images, output)
        torch.testing.assert_close(found, by_timm(model, output, images), atol=1e-5, rtol=1e-5)


@THAWS_LAST
@EVERY_REDUCTION
@EVERY_KIND
def test_the_masked_form_is_the_gathered_form(name: str, reduction: str, thaws_last: bool) -> None:
    model = kind(name, reduction=reduction, thaws_last=thaws_last)
    images, spec = images_for(model, 3), model.backbone.spec
    for output in outputs_of(model):
        gathered = model.forward_batch(images, COUNTS, output)
        masks = masks_of(gathered, spec.patch_tokens)
        masked = model.forward_masked(images, masks=masks, output=output)
        torch.testing.assert_close(masked.output, gathered.output, atol=1e-4, rtol=1e-4)
        trained = model.gathered_from(model.stem(images), COUNTS, output)
        assert torch.equal(trained.output, gathered.output)
        shape = {"logits": (3, spec.classes), "embedding": (3, 48), "features": (3, 16, 48)}[output]
        assert gathered.output.shape == shape


@EVERY_REDUCTION
@EVERY_KIND
def test_all_tokens_kept_give_the_dense_net(name: str, reduction: str) -> None:
    model = kind(name, reduction=reduction)
    images = images_for(model, 2)
    for output in outputs_of(model):
        every = model.forward_batch(images, TokenCounts((16, 16, 16)), output)
        torch.testing.assert_close(every.output, model.forward_dense(images, output), atol=1e-5, rtol=1e-5)


@THAWS_LAST
@EVERY_REDUCTION
@pytest.mark.parametrize("name", [name for name in KINDS if "headless" not in name])
def test_macs_are_those_of_a_count(name: str, reduction: str, thaws_last: bool) -> None:
    model = kind(name, reduction=reduction, thaws_last=thaws_last)
    spec, image = model.backbone.spec, images_for(model, 1)
    for output in outputs_of(model):
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model.forward_dense(image, output)
        assert counter.get_total_flops() == 2 * dense_macs(spec, output)
        for counts in ((10, 7, 3), (5, 16, 1)):
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                model.forward_batch(image, TokenCounts(counts), output)
            # The reference makes the features that it merges by twice.
            twice = spec.merges * sum(count < 16 for count in counts) * 16 * spec.dim * FEATURES
            assert counter.get_total_flops() == 2 * (tofe_macs(spec, counts, output=output) + twice)


@EVERY_KIND
def test_the_default_output_is_logits_or_without_a_head_the_embedding(name: str) -> None:
    model = kind(name)
    spec, images = model.backbone.spec, images_for(model, 2)
    assert spec.default_output == outputs_of(model)[0]
    assert torch.equal(
        model.forward_batch(images, COUNTS).output, model.forward_batch(images, COUNTS, spec.default_output).output
    )
    if not spec.classes:
        with pytest.raises(InputError, match="has no classifier head, so no logits; use embedding or features"):
            model.forward_dense(images, "logits")


@THAWS_LAST
@pytest.mark.parametrize("name", [name for name in KINDS if name not in OPTIONS])
def test_a_checkpoint_comes_back_as_it_was(name: str, thaws_last: bool, tmp_path: Any) -> None:
    model = kind(name, reduction="merging", thaws_last=thaws_last)
    spec = model.backbone.spec
    assert spec.thaws_last == (thaws_last or spec.pool != "token")
    assert len(model.approximators) == 2 + spec.thaws_last
    header = describe("x", spec, model.backbone.preprocessing, default_classes(spec.classes), COUNTS)
    save(tmp_path / "x.safetensors", model, header, half=False)
    again = load_model(read_header(tmp_path / "x.safetensors"))
    assert again.backbone.spec == spec
    images = images_for(model, 2)
    with torch.no_grad():
        found, wanted = (one.forward_batch(images, COUNTS).output for one in (again, model))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["deit", "lvvit"])
def test_an_approximator_for_the_last_stage_changes_no_logits(name: str) -> None:
    """Its weights are drawn last: the others are the same in both nets."""
    with torch.random.fork_rng():
        nets = []
        for thaws_last in (False, True):
            torch.manual_seed(0)
            backbone, overrides = KINDS[name]
            size = {"image_size": 64, "depth": 4, "dim": 48, "heads": 3, "classes": 10, **overrides}
            nets.append(ToFe(create_backbone(backbone, size, thaws_last=thaws_last)).eval())
    images = images_for(nets[0], 2)
    plain, other = (one.forward_batch(images, COUNTS).output for one in nets)
    assert torch.equal(plain, other)
    assert len(nets[1].gathered_from(nets[1].stem(images), COUNTS).rearranged) == 3


@pytest.mark.parametrize("name", ["mean, norm behind it", "mean, registers"])
def test_tokens_frozen_last_reach_a_pool_of_patches(name: str) -> None:
    model, spec = kind(name), kind(name).backbone.spec
    images = images_for(model, 1)
    before = model.forward_batch(images, COUNTS).output
    model.approximators[2].get_parameter("fc2.weight").mul_(-3)
    assert float((model.forward_batch(images, COUNTS).output - before).abs().max()) > 1e-4
    assert spec.pool == "avg" and OUTPUTS


@EVERY_KIND
def test_attention_received_is_that_of_cls_and_of_all(name: str) -> None:
    model = kind(name)
    spec, host = model.backbone.spec, model.backbone
    tokens = host.embed(images_for(model, 2))
    received = host.attention_received(0, tokens)
    assert received.shape == (2, 16)
    block = host.get_submodule("vit.blocks.0" if isinstance(host, TimmVit) else "blocks.0")
    normed = block.norm1(tokens)  # type: ignore[operator]
    width = 48 // spec.heads
    qkv = block.attn.qkv(normed).unflatten(-1, (3, spec.heads, width)).permute(2, 0, 3, 1, 4)  # type: ignore[operator, union-attr]
    query, key = (getattr(block.attn, f"{one}_norm", nn.Identity())(qkv[row]) for row, one in enumerate("qk"))
    paid = (query @ key.mT * width**-0.5).softmax(dim=-1).mean(dim=1)[..., spec.prefix_tokens :]
    wanted = paid.mean(dim=1) + (paid[:, 0] if spec.pool == "token" else 0)
    torch.testing.assert_close(received, wanted)
