"""State dicts as training programs write them, in timm's names: prefixes, Hugging Face's and OpenAI's names, heads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tofe_edge.errors import InputError, quoted
from tofe_edge.io.tensors import StateDict, must_be_finite
from tofe_edge.model.backbones.spec import Backbone
from tofe_edge.model.backbones.weights import resample_positions

_ANCHORS = {
    "patch_embed.proj.weight": "timm",
    "embeddings.patch_embeddings.projection.weight": "transformers ViT",
    "embeddings.patch_embedding.weight": "transformers CLIP",
    "conv1.weight": "CLIP",
}
"""The patch embedding of each family: what stands in front of it is the prefix of the net."""

_WRAPPERS = ("module", "model", "_orig_mod", "backbone", "net", "network", "encoder", "vit", "student", "trunk")

_VIT = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.", r"blocks.\1.attn.\2."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.(?:layernorm_before|norm1)\.", r"blocks.\1.norm1."),
    (r"encoder\.layer\.(\d+)\.(?:layernorm_after|norm2)\.", r"blocks.\1.norm2."),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.", r"blocks.\1.mlp.fc1."),
    (r"encoder\.layer\.(\d+)\.(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.", r"blocks.\1.mlp.fc2."),
    (r"layernorm\.", "norm."),
)
"""ViT, DeiT and DINOv2 of transformers."""

_VISION_TOWER = (
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"pre_layrnorm\.", "norm_pre."),
    (r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.", r"blocks.\1.attn.\2."),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.", r"blocks.\1.norm\2."),
    (r"encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
    (r"post_layernorm\.", "norm."),
    (r"head\.probe", "attn_pool.latent"),
    (r"head\.attention\.in_proj_", "attn_pool.in_proj_"),
    (r"head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"head\.layernorm\.", "attn_pool.norm."),
    (r"head\.mlp\.", "attn_pool.mlp."),
)
"""The vision models of transformers' CLIP and SigLIP."""

_OPENAI = (
    (r"conv1\.", "patch_embed.proj."),
    (r"class_embedding", "cls_token"),
    (r"positional_embedding", "pos_embed"),
    (r"ln_pre\.", "norm_pre."),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_", r"blocks.\1.attn.qkv."),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"blocks.\1.mlp.fc1."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"blocks.\1.mlp.fc2."),
    (r"ln_post\.", "norm."),
)
"""The vision tower of OpenAI's CLIP and of OpenCLIP."""

_TIMM = (
    (r"register_tokens", "reg_token"),
    (r"blocks\.(\d+)\.gamma_([12])$", r"blocks.\1.ls\2.gamma"),
    (r"blocks\.(\d+)\.mlp\.w12\.", r"blocks.\1.mlp.fc1."),
    (r"blocks\.(\d+)\.mlp\.w3\.", r"blocks.\1.mlp.fc2."),
)
"""What Meta's DINOv2 and DeiT-III call otherwise than timm."""

_RULES = {"timm": _TIMM, "transformers ViT": _VIT, "transformers CLIP": _VISION_TOWER, "CLIP": _OPENAI}

_UNUSED = re.compile(r"(embeddings\.)?(mask_token|position_ids)$|pooler\.|n_averaged$|.*num_batches_tracked$")
"""Tensors that play no part in a prediction."""

_HEADS = ("head", "heads", "classifier", "fc", "cls_head", "linear", "last_linear", "cls_classifier")
_DISTILLED_HEADS = ("head_dist", "distillation_classifier")

_PARTS = re.compile(r"(blocks|norm|fc_norm|norm_pre|pos_embed|cls_token|patch_embed|dist_token|reg_token|attn_pool)\b")


@dataclass(frozen=True)
class NamedWeights:
    """The weights of one net in timm's names.

    Attributes:
        tensors: by timm's names; the head's Linear is ``head``, without a head there is none.
        family: whose names the file had.
        prefix: what stood in front of them.
        left_out: names of tensors of the file that are of something else, such as a text tower.
        passed_over: prefixes of raw weights that stand beside averaged ones.
    """

    tensors: dict[str, Tensor]
    family: str
    prefix: str
    left_out: tuple[str, ...]
    passed_over: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """Outputs of the head, 0 without one."""
        return int(self.tensors["head.weight"].shape[0]) if "head.weight" in self.tensors else 0

    @property
    def has_projection(self) -> bool:
        """Whether the head is CLIP's projection and not a classifier."""
        return self.family == "CLIP" or (self.family == "transformers CLIP" and "norm_pre.weight" in self.tensors)


def name_as_timm(tensors: Mapping[str, Tensor]) -> NamedWeights:
    """Find the vision transformer in a state dict and give its tensors timm's names.

    Raises:
        InputError: there is none, there are two, the prefixes are mixed, or it has a head that is not one Linear.
    """
    prefix, anchor, passed_over = _find_net(tensors)
    if (axes := tensors[prefix + anchor].ndim) != 4:
        raise InputError(
            f"its patch embedding {prefix}{anchor} has {axes} axes, not the 4 of a convolution over images"
        )
    tensors = {
        key: value for key, value in tensors.items() if key.startswith(prefix) or not key.startswith(passed_over)
    }
    family = _ANCHORS[anchor]
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    others = {key: value for key, value in tensors.items() if not key.startswith(prefix)}
    _refuse_mixture(prefix, own, others, family)
    named: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for key, value in own.items():
        if _UNUSED.match(key):
            continue
        new = _renamed(key, _RULES[family])
        (rest if new is None and family != "timm" else named)[new or key] = value
    named = _reshaped(named, family)
    # A head may stand beside the net: `vit.…` and `classifier.…`, or inside: `head.…`.
    loose = {**rest, **{key: value for key, value in named.items() if not _PARTS.match(key)}}
    if "aux_head.weight" not in named:
        named = {key: value for key, value in named.items() if _PARTS.match(key)}
        outer = {_without_wrappers(key): value for key, value in others.items()}
        dim = int(named["patch_embed.proj.weight"].shape[0])
        heads, used = _heads({**outer, **loose}, dim)
        if family == "transformers CLIP" and any(key.startswith("classifier") for key in used):
            named = _average_pooled(named)
        named.update(heads)
        left = sorted(key for key in (*loose, *outer) if key not in used)
        _refuse_leftovers([key for key in loose if key not in used], family)
    else:
        left = sorted(others)  # LV-ViT, whose names are its own
    return NamedWeights(named, family, prefix, tuple(left), passed_over)


def _find_net(tensors: Mapping[str, Tensor]) -> tuple[str, str, tuple[str, ...]]:
    """The prefix of the net, its anchor, and the prefixes of raw weights beside averaged ones."""
    found = []
    for key in tensors:
        for anchor in _ANCHORS:
            prefix = key.removesuffix(anchor)
            if key.endswith(anchor) and (not prefix or prefix.endswith(".")) and _fits(tensors, prefix, anchor):
                found.append((prefix, anchor))
    if not found:
        raise InputError(_no_transformer(tensors))
    if len(found) > 1:
        averaged = [one for one in found if re.search(r"\b(ema|teacher|averaged|model_ema)", one[0])]
        if len(averaged) != 1:
            names = " and ".join(quoted(prefix) for prefix, _ in found[:2])
            raise InputError(f"holds {len(found)} nets, under {names}; save the state dict of the one that is meant")
        return (*averaged[0], tuple(prefix for prefix, _ in found if prefix != averaged[0][0]))
    return (*found[0], ())


def _fits(tensors: Mapping[str, Tensor], prefix: str, anchor: str) -> bool:
    """A ResNet has a ``conv1`` as well."""
    return anchor != "conv1.weight" or f"{prefix}class_embedding" in tensors


def _no_transformer(tensors: Mapping[str, Tensor]) -> str:
    kinds = {
        r"(.*\.)?layer1\.0\.conv1\.": "a ResNet",
        r"(.*\.)?stages\.\d+\.blocks\.\d+\.(conv_dw|gamma)": "a ConvNeXt",
        r"(.*\.)?features\.\d+\.": "a convolutional net of torchvision",
        r"(.*\.)?encoder\.layers\.encoder_layer_0\.": "a ViT of torchvision, whose names are not known here",
        r"(.*\.)?embeddings\.word_embeddings": "a language model",
        r".*lora_[AB]\.": "an adapter (LoRA), which has to be merged into its net first",
    }
    for pattern, what in kinds.items():
        if any(re.match(pattern, key) for key in tensors):
            return f"holds the weights of {what}, not of a plain vision transformer that tofe-edge knows"
    first = quoted(next(iter(tensors), "nothing"))
    return f"holds no vision transformer: no patch embedding among its {len(tensors)} tensors (first: {first})"


def _refuse_mixture(prefix: str, own: Mapping[str, Tensor], others: Mapping[str, Tensor], family: str) -> None:
    """Parts of the net with another prefix would be missing from it."""
    if family == "CLIP":
        return  # the text tower has blocks of the same names
    strays = [key for key in others if _is_block(_without_wrappers(key), family)]
    if not strays:
        # Without a prefix, everything is the net's own.
        strays = [key for key in own if not _is_block(key, family) and _is_block(_without_wrappers(key), family)]
    if strays:
        raise InputError(
            f"prefixes are mixed: the patch embedding is under {quoted(prefix)}, but there is {quoted(strays[0])} "
            f"({len(strays)} such tensors); save the state dict of one module"
        )


def _is_block(key: str, family: str) -> bool:
    starts = {"timm": "blocks.", "transformers ViT": "encoder.layer.", "CLIP": "transformer.resblocks."}
    return key.startswith(starts.get(family, "encoder.layers."))


def _without_wrappers(key: str) -> str:
    while "." in key and key.split(".", 1)[0] in _WRAPPERS and not key.startswith("encoder.layer"):
        key = key.split(".", 1)[1]
    return key


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in rules:
        new, count = re.subn(f"^{pattern}", replacement, key)
        if count:
            return new
    return None


def _reshaped(named: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """Tensors with timm's shapes: query, key and value in one, tokens ``(1, n, D)``."""
    joined: dict[str, Tensor] = {}
    for key, value in named.items():
        part = re.fullmatch(r"(blocks\.\d+\.attn\.)(query|key|value|q|k|v)\.(weight|bias)", key)
        if part is None:
            joined[key] = value
        elif part[2] in ("query", "q"):
            three = ("query", "key", "value") if part[2] == "query" else ("q", "k", "v")
            names = [f"{part[1]}{one}.{part[3]}" for one in three]
            missing = [name for name in names if name not in named]
            if missing:
                raise InputError(f"query, key and value are not all there: {missing[0]} is missing")
            joined[f"{part[1]}qkv.{part[3]}"] = torch.cat([named[name] for name in names])
    for key in ("cls_token", "pos_embed", "dist_token", "reg_token"):
        if key in joined:
            joined[key] = joined[key].reshape(1, -1, joined[key].shape[-1])
    for kind in ("weight", "bias"):
        if f"attn_pool.in_proj_{kind}" in joined:
            query, key_value = joined.pop(f"attn_pool.in_proj_{kind}").tensor_split([joined["norm.weight"].shape[0]])
            joined |= {f"attn_pool.q.{kind}": query, f"attn_pool.kv.{kind}": key_value}
    if "reg_token" in joined and "pos_embed" in joined and _side(joined["pos_embed"].shape[1] - 1):
        # Registers stand between CLS and the patches and have no position: timm adds that of CLS to CLS itself.
        joined["cls_token"] = joined["cls_token"] + joined["pos_embed"][:, :1]
        joined["pos_embed"] = joined["pos_embed"][:, 1:]
    return joined


def _heads(loose: Mapping[str, Tensor], dim: int) -> tuple[dict[str, Tensor], set[str]]:
    """The Linear of the head (and of the distillation token's) among tensors outside of the net, and their keys."""
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    if "proj" in loose and loose["proj"].ndim == 2:  # OpenAI's: (D, outputs)
        return {"head.weight": loose["proj"].T.contiguous(), "head.bias": torch.zeros(loose["proj"].shape[1])}, {"proj"}
    if "visual_projection.weight" in loose:
        weight = loose["visual_projection.weight"]
        return {"head.weight": weight, "head.bias": torch.zeros(len(weight))}, {"visual_projection.weight"}
    for target, names in (("head", _HEADS), ("head_dist", _DISTILLED_HEADS)):
        keys = [key for key in loose if key.split(".")[0] in names]
        if any("last_layer" in key for key in keys):
            used |= set(keys)  # what DINO learns with, which nobody predicts with
            continue
        linear = [key for key in keys if key.endswith(".weight") and loose[key].ndim == 2]
        if not linear:
            continue
        if len(linear) > 1 or len(keys) > 2:
            raise InputError(
                f"its head is more than one Linear ({', '.join(sorted(keys)[:4])}); only Linear heads are supported, "
                "train one on the same backbone"
            )
        weight = loose[linear[0]]
        if weight.shape[1] != dim:
            twice = " (CLS and the mean of the patches side by side)" if weight.shape[1] == 2 * dim else ""
            raise InputError(
                f"its head {linear[0]} reads {weight.shape[1]} channels{twice}, the net has {dim}; only heads that read what the "
                "net pools are supported"
            )
        bias = loose.get(linear[0].removesuffix("weight") + "bias")
        found |= {f"{target}.weight": weight, f"{target}.bias": torch.zeros(len(weight)) if bias is None else bias}
        used |= set(keys)
    return found, used


def _average_pooled(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """What transformers' classifiers on SigLIP read: the mean of the patches."""
    if "norm_pre.weight" in named:
        raise InputError(
            "its classifier averages the patches before the last norm (CLIPForImageClassification), which no timm net does; train a "
            "head on what CLIP pools"
        )
    return {key: value for key, value in named.items() if not key.startswith("attn_pool.")}


_OTHER_NETS = (
    "text_model",
    "text_projection",
    "logit_scale",
    "logit_bias",
    "criterion",
    "loss",
    "teacher",
    "ema",
)
"""Parts of a training that may stand beside the net."""

_FOREIGN = {
    r"relative_position|^layers\.\d+\.(blocks|downsample)": "windows or relative positions, as Swin",
    r"^stages\.\d+": "a pyramid of stages",
    r"rope|freqs_cis|inv_freq": "rotary positions",
    r"lora_[AB]": "adapters (LoRA); merge them into the net first",
    r"^decoder": "a decoder",
}


def _refuse_leftovers(keys: list[str], family: str) -> None:
    """What no rule knows changes predictions, unless it is of another net."""
    unknown = [key for key in keys if key.split(".")[0] not in _OTHER_NETS]
    for pattern, what in _FOREIGN.items():
        if culprit := next((key for key in keys if re.search(pattern, key)), None):
            raise InputError(f"is not a plain vision transformer: it has {what} ({culprit})")
    if unknown:
        raise InputError(
            f"{len(unknown)} tensors have no place in a plain vision transformer (first: {quoted(unknown[0])}, names of {family})"
        )


def _side(count: int) -> int | None:
    """The side of a square of so many."""
    side = round(count**0.5)
    return side if side**2 == count else None


def grid_side(named: NamedWeights) -> int:
    """The side of the grid of patches, by the position embedding.

    Raises:
        InputError: there is no position embedding, or it is not of a square image.
    """
    positions = named.tensors.get("pos_embed")
    if positions is None:
        raise InputError(
            "has no learned position embedding (pos_embed); nets with relative or rotary positions are not supported"
        )
    tokens = {
        key: named.tensors[key].shape[1] for key in ("cls_token", "dist_token", "reg_token") if key in named.tensors
    }
    for prefix in (sum(tokens.values()), 0, tokens.get("cls_token", 0)):
        side = _side(positions.shape[1] - prefix)
        if side:
            return side
    raise InputError(f"{positions.shape[1]} positions are not of a square image; rectangular ones are not supported")


def fit_weights(named: NamedWeights, spec: Backbone) -> dict[str, Tensor]:
    """The tensors for a net of this size: positions interpolated if its grid is another, no head if it has none.

    Raises:
        InputError: the position embedding is not of a square image.
    """
    tensors = (without_head(named) if spec.classes == 0 else named).tensors
    side = grid_side(named)
    wanted = _side(spec.patch_tokens)
    if wanted is None or wanted == side:
        return tensors
    positions = tensors["pos_embed"]
    return {**tensors, "pos_embed": resample_positions(positions.float(), side, wanted).to(positions.dtype)}


def read_weights(state: StateDict) -> NamedWeights:
    """The net in a file's state dict, every number finite. Raises :class:`InputError` as :func:`name_as_timm`."""
    named = name_as_timm(state.tensors)
    must_be_finite(named.tensors)
    return named


def without_head(named: NamedWeights) -> NamedWeights:
    """The same net without its head."""
    tensors = {key: value for key, value in named.tensors.items() if not key.startswith(("head.", "head_dist."))}
    return replace(named, tensors=tensors)
