"""State dicts of other programs become timm's, and what cannot is refused with the reason."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.model.backbones import create_backbone
from tofe_edge.model.backbones.architectures import guess_architecture
from tofe_edge.model.backbones.state_dict import fit_weights, grid_side, name_as_timm
from tofe_edge.model.backbones.timm_vit import _timm

Weights = dict[str, Tensor]

SMALL = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}


def small(name: str, **changes: Any) -> Weights:
    """A state dict of timm in which every number counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = _timm().create_model(name, **{**SMALL, **changes})
        return {key: torch.randn_like(value) for key, value in net.state_dict().items()}


def split(weights: Weights, names: tuple[str, str, str], at: str = "attn.qkv") -> Weights:
    """Query, key and value as three tensors."""
    out: Weights = {}
    for key, value in weights.items():
        if f".{at}." in key:
            out |= {key.replace(at, f"attn.{name}"): part for name, part in zip(names, value.chunk(3))}
        else:
            out[key] = value
    return out


def renamed(weights: Weights, *rules: tuple[str, str]) -> Weights:
    def rename(key: str) -> str:
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        return key

    return {rename(key): value for key, value in weights.items()}


_VIT = (
    (r"^cls_token", "vit.embeddings.cls_token"),
    (r"^dist_token", "vit.embeddings.distillation_token"),
    (r"^reg_token", "vit.embeddings.register_tokens"),
    (r"^pos_embed", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^blocks\.(\d+)\.", r"vit.encoder.layer.\1."),
    (r"attn\.(query|key|value)\.", r"attention.attention.\1."),
    (r"attn\.proj\.", "attention.output.dense."),
    (r"^norm\.", "vit.layernorm."),
    (r"^head\.", "classifier."),
)


def as_transformers_vit(weights: Weights) -> Weights:
    """ViTForImageClassification."""
    names = (
        *_VIT,
        (r"norm1\.", "layernorm_before."),
        (r"norm2\.", "layernorm_after."),
        (r"mlp\.fc1\.", "intermediate.dense."),
        (r"mlp\.fc2\.", "output.dense."),
    )
    out = renamed(split(weights, ("query", "key", "value")), *names)
    return {**out, "vit.pooler.dense.weight": torch.zeros(48, 48), "vit.pooler.dense.bias": torch.zeros(48)}


def as_transformers_deit(weights: Weights) -> Weights:
    """DeiTForImageClassificationWithTeacher."""
    out = renamed(as_transformers_vit(weights), ("^vit", "deit"), ("^classifier", "cls_classifier"))
    return renamed(out, ("^head_dist", "distillation_classifier"))


def as_transformers_dinov2(weights: Weights) -> Weights:
    """Dinov2Model and Dinov2WithRegistersModel: without a prefix, positions with that of CLS, a mask token."""
    out = renamed(
        split(weights, ("query", "key", "value")), *_VIT, (r"ls(\d)\.gamma", r"layer_scale\1.lambda1"), ("^vit.", "")
    )
    if "embeddings.register_tokens" in out:
        own = torch.randn(1, 1, 48)
        out["embeddings.cls_token"] = out["embeddings.cls_token"] - own
        out["embeddings.position_embeddings"] = torch.cat((own, out["embeddings.position_embeddings"]), dim=1)
    return {**out, "embeddings.mask_token": torch.zeros(1, 48)}


def as_transformers_clip(weights: Weights) -> Weights:
    """CLIPVisionModelWithProjection, or SiglipVisionModel."""
    out = renamed(
        split(weights, ("q", "k", "v")),
        (r"^cls_token", "embeddings.class_embedding"),
        (r"^pos_embed", "embeddings.position_embedding.weight"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
        (r"^norm_pre\.", "pre_layrnorm."),
        (r"^norm\.", "post_layernorm."),
        (r"^blocks\.(\d+)\.norm(\d)\.", r"encoder.layers.\1.layer_norm\2."),
        (r"^blocks\.(\d+)\.attn\.([qkv])\.", r"encoder.layers.\1.self_attn.\2_proj."),
        (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.out_proj."),
        (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
        (r"^attn_pool\.latent", "head.probe"),
        (r"^attn_pool\.proj\.", "head.attention.out_proj."),
        (r"^attn_pool\.norm\.", "head.layernorm."),
        (r"^attn_pool\.mlp\.", "head.mlp."),
    )
    for kind in ("weight", "bias"):
        if f"attn_pool.q.{kind}" in out:
            parts = out.pop(f"attn_pool.q.{kind}"), out.pop(f"attn_pool.kv.{kind}")
            out[f"head.attention.in_proj_{kind}"] = torch.cat(parts)
    for key in ("embeddings.class_embedding", "embeddings.position_embedding.weight"):
        if key in out:
            out[key] = out[key].squeeze(0).squeeze(0)
    out = {(key if key.startswith("head.weight") else f"vision_model.{key}"): value for key, value in out.items()}
    out["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    if "head.weight" in out:
        out["visual_projection.weight"] = out.pop("head.weight")
        out.pop("vision_model.head.bias")
    out["text_model.encoder.layers.0.mlp.fc1.weight"] = torch.zeros(4, 4)
    return out


def as_openai_clip(weights: Weights) -> Weights:
    """OpenAI's CLIP and OpenCLIP, with a text tower of the same names."""
    out = renamed(
        weights,
        (r"^patch_embed\.proj\.", "conv1."),
        (r"^cls_token", "class_embedding"),
        (r"^pos_embed", "positional_embedding"),
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln_post."),
        (r"^blocks\.(\d+)\.norm(\d)\.", r"transformer.resblocks.\1.ln_\2."),
        (r"^blocks\.(\d+)\.attn\.qkv\.", r"transformer.resblocks.\1.attn.in_proj_"),
        (r"^blocks\.(\d+)\.attn\.proj\.", r"transformer.resblocks.\1.attn.out_proj."),
        (r"^blocks\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
        (r"^blocks\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    )
    out["class_embedding"] = out["class_embedding"].flatten()
    out["positional_embedding"] = out["positional_embedding"][0]
    out["proj"] = out.pop("head.weight").T
    out.pop("head.bias")
    out = {f"visual.{key}": value for key, value in out.items()}
    return {**out, "transformer.resblocks.0.ln_1.weight": torch.zeros(4), "logit_scale": torch.tensor(1.0)}


def as_meta_dinov2(weights: Weights) -> Weights:
    """Meta's own file of DINOv2 with registers."""
    own = torch.randn(1, 1, 48)
    out = {**weights, "register_tokens": weights["reg_token"], "mask_token": torch.zeros(1, 48)}
    out |= {"cls_token": weights["cls_token"] - own, "pos_embed": torch.cat((own, weights["pos_embed"]), dim=1)}
    out.pop("reg_token")
    return out


def no_bias(weights: Weights) -> Weights:
    """The head of a projection: no bias, zeros in timm."""
    return {**weights, "head.bias": torch.zeros_like(weights["head.bias"])}


VIT, DEIT = "vit_small_patch16_224", "deit_tiny_distilled_patch16_224"
REGISTERS, CLIP, SIGLIP = "vit_small_patch14_reg4_dinov2", "vit_base_patch16_clip_224", "vit_base_patch16_siglip_224"

FAMILIES: dict[str, tuple[str, dict[str, Any], Callable[[Weights], Weights]]] = {
    "timm": (VIT, {"num_classes": 7}, dict),
    "transformers ViT": (VIT, {"num_classes": 7}, as_transformers_vit),
    "transformers ViT, no head": (VIT, {"num_classes": 0}, as_transformers_vit),
    "transformers DeiT, distilled": (DEIT, {"num_classes": 7}, as_transformers_deit),
    "transformers DINOv2": ("vit_small_patch14_dinov2", {"img_size": 56}, as_transformers_dinov2),
    "transformers DINOv2, registers": (REGISTERS, {"img_size": 56}, as_transformers_dinov2),
    "Meta's DINOv2, registers": (REGISTERS, {"img_size": 56}, as_meta_dinov2),
    "transformers CLIP": (CLIP, {"num_classes": 0}, as_transformers_clip),
    "transformers CLIP, projection": (CLIP, {"num_classes": 5}, as_transformers_clip),
    "OpenAI's CLIP": (CLIP, {"num_classes": 5}, as_openai_clip),
    "transformers SigLIP": (SIGLIP, {}, as_transformers_clip),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_every_familys_names_become_timms(family: str, prefix: str) -> None:
    name, changes, rename = FAMILIES[family]
    weights = small(name, **changes)
    weights = no_bias(weights) if "CLIP" in family and "head.bias" in weights else weights
    named = name_as_timm({f"{prefix}{key}": value for key, value in rename(weights).items()})
    assert named.tensors.keys() == weights.keys()
    assert named.classes == changes.get("num_classes", 0)
    for key, value in weights.items():
        torch.testing.assert_close(named.tensors[key], value, rtol=0, atol=1e-6)


WRAPPED = [
    "module.",
    "model.",
    "_orig_mod.",
    "module._orig_mod.",
    "model.backbone.",
    "ema_model.module.",
    "student.backbone.",
]


@pytest.mark.parametrize("prefix", WRAPPED)
def test_prefixes_are_taken_off(prefix: str) -> None:
    weights = small(VIT, num_classes=7)
    around = {f"{prefix}{key}": value for key, value in weights.items()} | {"n_averaged": torch.tensor(3)}
    assert name_as_timm(around).tensors.keys() == weights.keys()


HEADS = ["head.1.", "classifier.", "head.fc.", "fc.", "heads.head.", "classifier.1."]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("inside", [True, False])
def test_a_head_may_have_another_name_or_stand_beside_the_net(head: str, inside: bool) -> None:
    weights = small(VIT, num_classes=7)
    moved = {key.replace("head.", head): value for key, value in weights.items()}
    if not inside:
        moved = {(key if key.startswith(head) else f"backbone.{key}"): value for key, value in moved.items()}
    named = name_as_timm({f"model.{key}": value for key, value in moved.items()})
    assert torch.equal(named.tensors["head.weight"], weights["head.weight"])
    assert torch.equal(named.tensors["head.bias"], weights["head.bias"])


def test_what_dino_learns_with_is_no_head() -> None:
    weights = small(VIT, num_classes=0)
    dino = {
        "head.mlp.0.weight": torch.zeros(8, 48),
        "head.mlp.0.bias": torch.zeros(8),
        "head.last_layer.weight_v": torch.zeros(9, 8),
    }
    named = name_as_timm({**{f"backbone.{key}": value for key, value in weights.items()}, **dino})
    assert named.classes == 0 and named.tensors.keys() == weights.keys()


def test_averaged_weights_beside_raw_ones_under_prefixes_are_taken() -> None:
    weights = small(VIT, num_classes=7)
    both = {f"model.{key}": value * 0 for key, value in weights.items()}
    both |= {f"ema.module.{key}": value for key, value in weights.items()}
    assert torch.equal(name_as_timm(both).tensors["norm.weight"], weights["norm.weight"])


def without(weights: Mapping[str, Tensor], start: str) -> Weights:
    return {key: value for key, value in weights.items() if not key.startswith(start)}


def mixed(weights: Weights) -> Weights:
    return {(f"module.{key}" if key.startswith("blocks.1.") else key): value for key, value in weights.items()}


def two_nets(weights: Weights) -> Weights:
    return {f"{prefix}.{key}": value for prefix in ("first", "second") for key, value in weights.items()}


def mlp_head(weights: Weights) -> Weights:
    return {**without(weights, "head."), "head.0.weight": torch.zeros(9, 48), "head.2.weight": torch.zeros(7, 9)}


FAULTS: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "mixed prefixes": (mixed, r"prefixes are mixed.*'module\.blocks\.1\."),
    "two nets": (two_nets, "holds 2 nets, under 'first.' and 'second.'"),
    "a head of two layers": (mlp_head, r"its head is more than one Linear \(head.0.weight, head.2.weight\)"),
    "a head on CLS and mean": (
        lambda w: {**w, "head.weight": torch.zeros(7, 96)},
        "reads 96 channels .CLS and the mean of the patches",
    ),
    "a ResNet": (lambda w: {"conv1.weight": w["norm.weight"], "layer1.0.conv1.weight": w["norm.weight"]}, "of a ResNet"),
    "Swin": (
        lambda w: {**without(w, "blocks"), "layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(2)},
        "windows or relative positions",
    ),
    "no transformer": (lambda _: {"weight": torch.zeros(2)}, "holds no vision transformer: no patch embedding among its 1 tensors"),
    "patches of videos": (
        lambda w: {**w, "patch_embed.proj.weight": torch.zeros(48, 3, 2, 16, 16)},
        r"its patch embedding patch_embed\.proj\.weight has 5 axes",
    ),
    "a patch embedding that is a Linear": (
        lambda w: {**w, "patch_embed.proj.weight": torch.zeros(48, 768)},
        "has 2 axes, not the 4 of a convolution",
    ),
    "unknown tensors": (lambda w: {**w, "gate.weight": torch.zeros(2)}, "1 tensors have no place .* 'gate.weight'"),
    "adapters": (lambda w: {**w, "base.lora_A.weight": torch.zeros(2)}, "LoRA"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_read_names_the_cause(fault: str) -> None:
    damage, message = FAULTS[fault]
    with pytest.raises(InputError, match=message):
        name_as_timm(damage(small(VIT, num_classes=7)))


@pytest.mark.parametrize(
    ("name", "changes", "side"),
    [(VIT, {}, 4), (VIT, {"img_size": 96}, 6), (DEIT, {}, 4), (REGISTERS, {"img_size": 56}, 4), (SIGLIP, {}, 4)],
)
def test_the_grid_is_known_by_the_positions(name: str, changes: dict[str, Any], side: int) -> None:
    assert grid_side(name_as_timm(small(name, **changes))) == side


@pytest.mark.parametrize(
    "change", [lambda w: without(w, "pos_embed"), lambda w: {**w, "pos_embed": torch.zeros(1, 14, 48)}]
)
def test_positions_of_another_kind_are_refused(change: Callable[[Weights], Weights]) -> None:
    with pytest.raises(InputError, match="position"):
        grid_side(name_as_timm(change(small(VIT))))


def test_positions_are_fitted_to_the_net() -> None:
    named = name_as_timm(small(VIT, img_size=96, num_classes=7))
    spec = create_backbone(
        "deit_tiny_patch16_224", {"image_size": 64, "depth": 4, "dim": 48, "heads": 3, "classes": 7}
    ).spec
    fitted = fit_weights(named, spec)
    assert fitted["pos_embed"].shape == (1, 17, 48)
    assert torch.equal(fitted["pos_embed"][:, 0], named.tensors["pos_embed"][:, 0])


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("deit_tiny_patch16_224", ("vit_tiny_patch16_224",)),
        ("deit_tiny_distilled_patch16_224", ("deit_tiny_distilled_patch16_224",)),
        ("vit_small_patch14_reg4_dinov2", ("vit_small_patch14_reg4_dinov2",)),
        ("deit3_small_patch16_384", ("deit3_small_patch16_384",)),
        (CLIP, (CLIP, "vit_base_patch16_clip_quickgelu_224")),
        (SIGLIP, (SIGLIP,)),
    ],
)
def test_shapes_tell_the_architecture(name: str, guess: tuple[str, ...]) -> None:
    with torch.device("meta"):
        weights = _timm().create_model(name).state_dict()
    assert guess_architecture(name_as_timm(weights)) == guess
    assert guess_architecture(name_as_timm(weights), "quick_gelu" if name == CLIP else None)[0] == guess[-1]


def test_shapes_of_no_published_net_tell_nothing() -> None:
    assert guess_architecture(name_as_timm(small(VIT))) == ()
