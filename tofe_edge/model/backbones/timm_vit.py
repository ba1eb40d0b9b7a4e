"""timm's vision transformers as hosts of ToFe. The only module that imports timm."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tofe_edge.errors import InputError, require
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.model.backbones.adapter import BackboneAdapter
from tofe_edge.model.backbones.spec import Backbone, Conv, activation_of, default_stages
from tofe_edge.model.backbones.weights import load_strictly
from tofe_edge.model.masking import masked_attention, received, sized_attention

_TORCHVISION_OPERATORS: list[torch.library.Library] = []


def _make_torchvision_importable() -> None:
    """Let timm import torchvision if its compiled operators do not load.

    torchvision's PyPI wheel for x86-64 Linux is a CUDA build; beside a CPU torch its import fails with
    ``operator torchvision::nms does not exist``. Declaring the two operators that its import looks up is
    enough; calling them still gives torchvision's own error.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _TORCHVISION_OPERATORS:
        return
    libraries = sorted(Path(spec.origin).parent.glob("_C*.so"))
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
        if libraries:
            return
    except OSError:
        pass  # the build does not fit this torch: declare the operators below
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        fragment.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _TORCHVISION_OPERATORS.append(fragment)


@cache
def _timm() -> Any:
    _make_torchvision_importable()
    import timm

    return timm


def model_names() -> list[str]:
    """Every architecture name that timm knows."""
    return list(_timm().list_models())


@cache
def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a net of timm, by their names; no weights are made."""
    with torch.device("meta"):
        net = _timm().create_model(name)
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def is_of_imagenet(name: str) -> bool:
    """Whether timm's published weights of this name were trained on the 1000 classes of ImageNet."""
    config = _timm().get_pretrained_cfg(name, allow_unregistered=True)
    return config is not None and config.num_classes == 1000 and "in1k" in (config.tag or "")


def imagenet_classes() -> tuple[list[str], list[str]]:
    """WordNet ids and names of the 1000 ImageNet classes, in the order of the logits."""
    _timm()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return list(info.label_names()), [name.split(",")[0] for name in info.label_descriptions()]


class TimmVit(BackboneAdapter):
    """A ``timm.models.vision_transformer.VisionTransformer`` (or a subclass with a distillation token)."""

    def __init__(self, vit: Any, spec: Backbone, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.vit = vit
        self.spec = spec
        self.preprocessing = preprocessing

    def embed(self, images: Tensor) -> Tensor:
        tokens = self.vit._pos_embed(self.vit.patch_embed(images))
        embedded: Tensor = self.vit.norm_pre(tokens)
        return embedded

    def block(self, index: int, tokens: Tensor, sizes: Tensor | None = None) -> Tensor:
        block = self.vit.blocks[index]
        if sizes is None:
            out: Tensor = block(tokens)
            return out
        query, key, value = project(block.attn, block.norm1(tokens))
        return self._after_attention(block, tokens, sized_attention(query, key, value, sizes))

    def attention_received(self, index: int, tokens: Tensor) -> Tensor:
        block = self.vit.blocks[index]
        query, key, _ = project(block.attn, block.norm1(tokens))
        return received(query, key, self.spec.prefix_tokens, cls=self.spec.pool == "token")

    def masked_block(self, index: int, tokens: Tensor, keep: Tensor, sizes: Tensor | None = None) -> Tensor:
        block = self.vit.blocks[index]
        query, key, value = project(block.attn, block.norm1(tokens))
        return self._after_attention(block, tokens, masked_attention(query, key, value, keep, sizes))

    @staticmethod
    def _after_attention(block: Any, tokens: Tensor, mixed: Tensor) -> Tensor:
        """The rest of a block, from the values ``(B, H, T, d)`` that attention mixed."""
        batch, _, count, _ = mixed.shape
        attended = block.attn.proj(mixed.transpose(1, 2).reshape(batch, count, block.attn.attn_dim))
        tokens = tokens + block.drop_path1(block.ls1(attended))
        out: Tensor = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
        return out

    def features(self, tokens: Tensor) -> Tensor:
        # Only one of the two norms is there; that behind the pool norms single tokens just as well.
        out: Tensor = self.vit.fc_norm(self.vit.norm(tokens[:, self.spec.prefix_tokens :]))
        return out

    def pooled(self, tokens: Tensor) -> Tensor:
        return self._head(tokens, pre_logits=True)

    def logits(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        del keep  # of the patch tokens all are read or none
        return self._head(tokens, pre_logits=False)

    def _head(self, tokens: Tensor, pre_logits: bool) -> Tensor:
        if self.spec.pool == "token":
            tokens = tokens[:, : self.spec.prefix_tokens]
        out: Tensor = self.vit.forward_head(self.vit.norm(tokens), pre_logits=pre_logits)
        return out

    def load_dense(self, weights: Mapping[str, Tensor]) -> None:
        load_strictly(self.vit, weights, self.spec.name)

    def resized(self, image_size: int) -> TimmVit:
        from timm.layers import resample_abs_pos_embed

        net = create(self.spec.name, {**self.spec.overrides, "image_size": image_size})
        net.spec = replace(
            net.spec, stages=self.spec.stages, reduction=self.spec.reduction, thaws_last=self.spec.thaws_last
        )
        weights = self.vit.state_dict()
        old, new = (host.vit.patch_embed.grid_size for host in (self, net))
        positions = weights["pos_embed"]
        # Not every prefix token has a position: DeiT-III's CLS and the registers of DINOv2 have none.
        prefix = positions.shape[1] - self.spec.patch_tokens
        weights["pos_embed"] = resample_abs_pos_embed(positions, new, old_size=old, num_prefix_tokens=prefix)
        net.load_dense(weights)
        return net


def project(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of timm's attention, each ``(B, H, T, d)``, normalised where the net does that."""
    batch, count, _ = tokens.shape
    qkv = attention.qkv(tokens).reshape(batch, count, 3, attention.num_heads, attention.head_dim)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return attention.q_norm(query), attention.k_norm(key), value


def create(name: str, overrides: Mapping[str, int], pretrained: bool = False) -> TimmVit:
    """Build a timm vision transformer by name, with random weights unless ``pretrained``.

    Args:
        overrides: see :data:`tofe_edge.model.backbones.spec.OVERRIDES`.
        pretrained: fetch timm's published weights (needs a network or timm's cache).

    Raises:
        InputError: the name is unknown, or the net is not a plain vision transformer.
    """
    timm = _timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, model_names(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise InputError(f"backbone {name!r} is unknown; {hint}")
    keywords = {"image_size": "img_size", "dim": "embed_dim", "heads": "num_heads", "classes": "num_classes"}
    arguments = {keywords.get(key, key): value for key, value in overrides.items()}
    try:
        if pretrained:  # a net that does not fit is not worth a download
            with torch.device("meta"):
                _refuse_unfit(name, timm.create_model(name, **arguments))
        vit = timm.create_model(name, pretrained=pretrained, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"backbone {name!r}: {error}") from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise InputError(
            f"backbone {name!r}: its published weights could not be fetched ({type(error).__name__}); "
            "give a local file with --weights"
        ) from error
    _refuse_unfit(name, vit)
    return TimmVit(vit.eval(), _describe(name, vit, overrides), _preprocessing(vit))


def _refuse_unfit(name: str, vit: Any) -> None:
    reason = _unfit(vit)
    require(reason is None, f"backbone {name!r} cannot carry ToFe: {reason}")


def _unfit(vit: Any) -> str | None:
    """Why ToFe cannot be put on ``vit``, or ``None``."""
    from timm.layers import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(vit, VisionTransformer):
        return _other_kind(vit)
    if vit.global_pool not in ("token", "avg", "map"):
        return f"its pooling ({vit.global_pool or 'none'}) is not one of token, avg and map"
    if vit.pool_include_prefix:
        return "its pool mixes CLS or register tokens with patches"
    if isinstance(vit.norm, nn.Identity) == isinstance(vit.fc_norm, nn.Identity):
        return "its head reads tokens behind no norm, or behind two"
    if type(vit.patch_embed) is not PatchEmbed or vit.dynamic_img_size or vit.pos_embed is None:
        return "its patch embedding is not one convolution with a learned position embedding"
    norms = [vit.norm, vit.fc_norm, vit.norm_pre, vit.patch_embed.norm]
    for block in vit.blocks:
        reason = _unfit_block(block)
        if reason:
            return reason
        norms += [block.norm1, block.norm2, block.attn.q_norm, block.attn.k_norm]
    strange = [norm for norm in norms if not isinstance(norm, (nn.LayerNorm, nn.Identity))]
    if strange:
        return f"its norm is {type(strange[0]).__name__}, not LayerNorm"
    if not isinstance(vit.patch_embed.norm, nn.Identity):
        return "its patch embedding has a norm of its own"
    return None if vit.attn_pool is None else _unfit_pool(vit.attn_pool, vit.blocks[0].mlp)


def _other_kind(vit: Any) -> str:
    name = type(vit).__name__
    if getattr(vit, "rope", None) is not None:
        return f"{name} rotates queries and keys by their places (RoPE), which is not supported"
    if hasattr(vit, "blocks") and any("rel_pos" in key or "relative_pos" in key for key, _ in vit.named_parameters()):
        return f"{name} adds a bias for relative places to its attention, which is not supported"
    return f"{name} is not a plain vision transformer (windows, pyramids and convolutions between blocks are not supported)"


def _unfit_block(block: Any) -> str | None:
    from timm.layers import Attention, GluMlp, Mlp, SwiGLU
    from timm.models.vision_transformer import Block

    if type(block) is not Block or type(block.attn) is not Attention or type(block.mlp) not in (Mlp, GluMlp, SwiGLU):
        parts = (block, getattr(block, "attn", None), getattr(block, "mlp", None))
        kinds = ", ".join(type(part).__name__ for part in parts if part is not None)
        return f"its blocks ({kinds}) are not the plain ones"
    if activation_of(block.mlp.act) is None:
        return f"its activation is {type(block.mlp.act).__name__}, not GELU, SiLU or ReLU"
    extra = (block.attn.norm, block.mlp.norm)
    if block.attn.gate is not None or not all(isinstance(norm, nn.Identity) for norm in extra):
        return "its attention or MLP has extra gates or norms"
    return None


def _unfit_pool(pool: Any, mlp: Any) -> str | None:
    from timm.layers import AttentionPoolLatent, Mlp

    plain = (
        type(pool) is AttentionPoolLatent
        and (pool.latent_len, pool.pool, pool.pos_embed) == (1, "token", None)
        and isinstance(pool.q_norm, nn.Identity)
        and isinstance(pool.norm, nn.LayerNorm)
        and type(pool.mlp) is Mlp
        and activation_of(pool.mlp.act) is not None
        and pool.mlp.fc1.out_features == _mlp_hidden(mlp)
    )
    return None if plain else "its pool is not the attention of one query with an MLP like those of the blocks"


def _mlp_hidden(mlp: Any) -> int:
    """Hidden channels of a plain MLP; of a gated one 3/2 of them, for it has three Linears in place of two."""
    hidden = int(mlp.fc2.in_features)
    gated = hasattr(mlp, "fc1_g") or mlp.fc1.out_features != hidden
    return hidden * 3 // 2 if gated else hidden


def _describe(name: str, vit: Any, overrides: Mapping[str, int]) -> Backbone:
    patch = vit.patch_embed.patch_size[0]
    first = vit.blocks[0]
    return Backbone(
        name=name,
        image_size=vit.patch_embed.img_size[0],
        patch_tokens=vit.patch_embed.num_patches,
        prefix_tokens=vit.num_prefix_tokens,
        dim=vit.embed_dim,
        depth=len(vit.blocks),
        heads=first.attn.num_heads,
        mlp_hidden=_mlp_hidden(first.mlp),
        classes=vit.num_classes,
        stem=(Conv(patch, 3, vit.embed_dim, patch),),
        stages=default_stages(len(vit.blocks)),
        classifiers=1 if getattr(vit, "head_dist", None) is None else 2,
        overrides=dict(overrides),
        pool=vit.global_pool,
    )


def _preprocessing(vit: Any) -> Preprocessing:
    config = vit.pretrained_cfg
    return Preprocessing(
        image_size=vit.patch_embed.img_size[0],
        crop_pct=float(config["crop_pct"]),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
