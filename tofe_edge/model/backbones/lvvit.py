"""LV-ViT (Token Labeling, Jiang et al. 2021), module and key names as in the TokenLabeling repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tofe_edge.errors import InputError
from tofe_edge.io.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tofe_edge.model.backbones.adapter import BackboneAdapter
from tofe_edge.model.backbones.spec import Backbone, Conv, default_stages
from tofe_edge.model.backbones.weights import load_strictly, resample_positions
from tofe_edge.model.masking import masked_attention, received, sized_attention

RESIDUAL_SCALE = 0.5
"""Every residual branch is halved (``skip_lam = 2`` in TokenLabeling)."""

AUX_WEIGHT = 0.5
"""Prediction = cls + 0.5 * max over patch tokens of aux, at train and at inference time."""

_STEM_CHANNELS = 64
_PATCH = 16
_MODELS: dict[str, dict[str, int]] = {
    "lvvit_s": {"dim": 384, "depth": 16, "heads": 6},
    "lvvit_m": {"dim": 512, "depth": 20, "heads": 8},
}
_CROP_PCT = {"lvvit_s": 0.9, "lvvit_m": 1.0}
_MLP_RATIO = 3


def model_names() -> list[str]:
    """The LV-ViT sizes that can be built by name."""
    return sorted(_MODELS)


class PatchEmbed(nn.Module):
    """Four convolutions with stride 2, 1, 1 and 8: image to ``(B, N, D)``. ``PatchEmbed4_2`` in TokenLabeling."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        channels = _STEM_CHANNELS
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.proj = nn.Conv2d(channels, dim, _PATCH // 2, stride=_PATCH // 2)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        patches: Tensor = self.proj(x)
        return patches.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention without qkv bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each ``(B, H, T, d)``."""
        batch, count, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def forward(self, tokens: Tensor, keep: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        batch, count, dim = tokens.shape
        query, key, value = self.project(tokens)
        if keep is not None:
            mixed = masked_attention(query, key, value, keep, sizes)
        elif sizes is not None:
            mixed = sized_attention(query, key, value, sizes)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, dim))
        return out


class Mlp(nn.Module):
    """Linear-GELU-Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block with halved residual branches."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, _MLP_RATIO * dim)

    def forward(self, tokens: Tensor, keep: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        tokens = tokens + RESIDUAL_SCALE * self.attn(self.norm1(tokens), keep, sizes)
        out: Tensor = tokens + RESIDUAL_SCALE * self.mlp(self.norm2(tokens))
        return out


class LvVit(BackboneAdapter):
    """LV-ViT with its auxiliary head."""

    def __init__(self, spec: Backbone, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.spec = spec
        self.preprocessing = preprocessing
        self.patch_embed = PatchEmbed(spec.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, spec.patch_tokens + 1, spec.dim))
        self.blocks = nn.ModuleList(Block(spec.dim, spec.heads) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.dim)
        if spec.classes:
            self.head = nn.Linear(spec.dim, spec.classes)
            self.aux_head = nn.Linear(spec.dim, spec.classes)
        for embedding in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images)
        return torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), dim=1) + self.pos_embed

    def block(self, index: int, tokens: Tensor, sizes: Tensor | None = None) -> Tensor:
        out: Tensor = self.blocks[index](tokens, None, sizes)
        return out

    def attention_received(self, index: int, tokens: Tensor) -> Tensor:
        block = self.blocks[index]
        assert isinstance(block, Block)
        query, key, _ = block.attn.project(block.norm1(tokens))
        return received(query, key, self.spec.prefix_tokens)

    def masked_block(self, index: int, tokens: Tensor, keep: Tensor, sizes: Tensor | None = None) -> Tensor:
        out: Tensor = self.blocks[index](tokens, keep, sizes)
        return out

    def features(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.norm(tokens[:, 1:])
        return out

    def pooled(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.norm(tokens[:, 0])
        return out

    def logits(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        if not self.spec.classes:
            return self.pooled(tokens)
        tokens = self.norm(tokens)
        aux = self.aux_head(tokens[:, 1:])
        if keep is None:
            best = aux.amax(dim=1)
        else:
            # A frozen token must never be the maximum; its gradient is cut as the gathered form never sees it.
            frozen = keep[..., None] < 0.5
            best = aux.masked_fill(frozen, torch.finfo(aux.dtype).min).amax(dim=1)
            # Inference keeps at least one token; a sample drawn in training may keep none, and then has no aux.
            best = best.masked_fill(frozen.all(dim=1), 0.0)
        out: Tensor = self.head(tokens[:, 0]) + AUX_WEIGHT * best
        return out

    def load_dense(self, weights: Mapping[str, Tensor]) -> None:
        load_strictly(self, weights, self.spec.name)

    def resized(self, image_size: int) -> LvVit:
        net = create(self.spec.name, {**self.spec.overrides, "image_size": image_size})
        net.spec = replace(
            net.spec, stages=self.spec.stages, reduction=self.spec.reduction, thaws_last=self.spec.thaws_last
        )
        weights = self.state_dict()
        sides = [host.spec.image_size // _PATCH for host in (self, net)]
        weights["pos_embed"] = resample_positions(weights["pos_embed"], *sides)
        net.load_dense(weights)
        return net


def create(name: str, overrides: Mapping[str, int]) -> LvVit:
    """Build an LV-ViT with random weights.

    Args:
        overrides: see :data:`tofe_edge.model.backbones.spec.OVERRIDES`.

    Raises:
        InputError: an override does not fit.
    """
    size = {"image_size": 224, "classes": 1000, **_MODELS[name], **overrides}
    if size["image_size"] % _PATCH or size["dim"] % size["heads"]:
        raise InputError(f"backbone {name!r}: image_size must be a multiple of {_PATCH}, dim a multiple of heads")
    channels = _STEM_CHANNELS
    spec = Backbone(
        name=name,
        image_size=size["image_size"],
        patch_tokens=(size["image_size"] // _PATCH) ** 2,
        prefix_tokens=1,
        dim=size["dim"],
        depth=size["depth"],
        heads=size["heads"],
        mlp_hidden=_MLP_RATIO * size["dim"],
        classes=size["classes"],
        stem=(
            Conv(7, 3, channels, 2),
            Conv(3, channels, channels, 2),
            Conv(3, channels, channels, 2),
            Conv(_PATCH // 2, channels, size["dim"], _PATCH),
        ),
        stages=default_stages(size["depth"]),
        aux_head=size["classes"] > 0,
        overrides=dict(overrides),
    )
    preprocessing = Preprocessing(
        image_size=size["image_size"],
        crop_pct=_CROP_PCT[name],
        interpolation="bicubic",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return LvVit(spec, preprocessing).eval()
