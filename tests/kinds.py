"""Tiny nets of every kind that ToFe takes, and whole nets of timm to compare them with."""

from functools import partial
from typing import Any
from unittest import mock

import torch
from conftest import tiny_tofe
from torch import Tensor, nn

from tofe_edge.model.backbones.spec import Output
from tofe_edge.model.backbones.timm_vit import TimmVit, imagenet_classes
from tofe_edge.model.tofe import ToFe

imagenet_classes()  # with it timm can be imported whatever torchvision's build
import timm  # noqa: E402
from timm.layers import SwiGLU  # noqa: E402

DINOV2 = {"image_size": 56, "classes": 0}
KINDS: dict[str, tuple[str, dict[str, int]]] = {
    "deit": ("deit_tiny_patch16_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "headless": ("deit_tiny_patch16_224", {"classes": 0}),
    "headless distilled": ("deit_tiny_distilled_patch16_224", {"classes": 0}),
    "deit3": ("deit3_small_patch16_224", {}),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", DINOV2),
    "lvvit": ("lvvit_s", {}),
    "headless lvvit": ("lvvit_s", {"classes": 0}),
    "mean, norm behind it": ("vit_medium_patch16_gap_256", {}),
    "mean, norm before it": ("vit_base_patch16_siglip_gap_224", {}),
    "mean, registers": ("vit_medium_patch16_reg4_gap_256", {}),
    "clip": ("vit_base_patch16_clip_224", {}),
    "clip, quick gelu": ("vit_base_patch16_clip_quickgelu_224", {"classes": 0}),
    "attention pool": ("vit_base_patch16_siglip_224", {"classes": 0}),
    "attention pool, head, tanh gelu": ("vit_base_patch32_siglip_256", {"image_size": 128}),
    "swiglu": ("vit_giant_patch14_reg4_dinov2", DINOV2),
    "query norms": ("deit_tiny_patch16_224", {"heads": 4}),
    "norm behind cls": ("deit3_small_patch16_224", {"classes": 7}),
    "split swiglu": ("vit_small_patch16_224", {}),
}
"""Name and overrides; 16 patch tokens each."""

OPTIONS: dict[str, dict[str, Any]] = {
    "query norms": {"qk_norm": True, "norm_layer": "layernorm", "init_values": 0.5},
    "norm behind cls": {"fc_norm": True},
    "split swiglu": {"mlp_layer": SwiGLU, "act_layer": "silu"},
}
"""What timm is told besides."""

OUTPUTS: tuple[Output, ...] = ("logits", "embedding", "features")


def kind(name: str, **options: Any) -> ToFe:
    """The net of a kind, with random weights that all count."""
    backbone, overrides = KINDS[name]
    create = partial(timm.create_model, **OPTIONS.get(name, {}))
    with mock.patch.object(timm, "create_model", create):
        model: ToFe = tiny_tofe(backbone, **options, **overrides).requires_grad_(False)
    if model.backbone.spec.merges:
        for selector in model.selectors:
            selector.get_parameter("aversion").fill_(3.0)
        for approximator in model.approximators:
            approximator.get_parameter("fc.weight").add_(0.1 * torch.randn(48, 48, generator=_seeded(5)))
    return model


def outputs_of(model: ToFe) -> tuple[Output, ...]:
    """The outputs that a net has."""
    return OUTPUTS if model.backbone.spec.classes else OUTPUTS[1:]


def images_for(model: ToFe, count: int, seed: int = 0) -> Tensor:
    """Seeded noise in the size of the net."""
    size = model.backbone.spec.image_size
    return torch.randn(count, 3, size, size, generator=_seeded(seed))


def by_timm(model: ToFe, output: str, images: Tensor) -> Tensor:
    """An output of the dense net as timm itself computes it."""
    host = model.backbone
    assert isinstance(host, TimmVit)
    vit, prefix = host.vit, host.spec.prefix_tokens
    if output == "logits":
        logits: Tensor = vit(images)
        return logits
    tokens: Tensor = vit.forward_features(images)
    if output == "embedding":
        pooled: Tensor = vit.forward_head(tokens, pre_logits=True)
        return pooled
    patches = tokens[:, prefix:]
    return patches if isinstance(vit.fc_norm, nn.Identity) else vit.fc_norm(patches)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
