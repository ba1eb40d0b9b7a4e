"""Which of timm's plain vision transformers weights are of, by the shapes of their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.model.backbones.state_dict import NamedWeights, grid_side
from tofe_edge.model.backbones.timm_vit import model_names, published_shapes

_SIZES = {
    192: "tiny",
    256: "xsmall",
    384: "small",
    512: "medium",
    640: "betwixt",
    768: "base",
    1024: "large",
    1152: "so400m",
    1280: "huge",
    1408: "giant",
    1536: "giant",
    1664: "gigantic",
}
"""What timm calls nets of so many channels."""


def guess_architecture(named: NamedWeights, activation: str | None = None) -> tuple[str, ...]:
    """Names of nets in timm whose tensors have the same names and shapes, the likeliest first.

    Nets that differ in image size, head or preprocessing alone are one: the first of the nearest size.

    Args:
        activation: transformers' name of the MLP's function, if it is known.
    """
    tensors = named.tensors
    if "aux_head.weight" in tensors:
        return _lvvit(tensors)
    patch, dim = (int(tensors["patch_embed.proj.weight"].shape[axis]) for axis in (2, 0))
    side = grid_side(named)
    candidates = [name for name in _named_like(tensors, dim, patch) if _same_shapes(name, tensors)]
    if activation is not None:
        quick = activation == "quick_gelu"
        candidates = [name for name in candidates if ("quickgelu" in name) == quick]
    by_function: dict[str, list[str]] = {}
    for name in candidates:
        by_function.setdefault(_function(name), []).append(name)
    size = side * patch
    return tuple(min(names, key=lambda name: (abs(_size_of(name) - size), len(name))) for names in by_function.values())


def _named_like(tensors: Mapping[str, Tensor], dim: int, patch: int) -> list[str]:
    """Names that tell of this size and kind, so that few nets are built."""
    names = [name for name in model_names() if f"_{_SIZES.get(dim)}_" in name and f"patch{patch}_" in name]
    kinds = {
        "clip": "norm_pre.weight" in tensors,
        "distilled": "dist_token" in tensors,
        "siglip": "cls_token" not in tensors,
        "reg": "reg_token" in tensors,
    }
    for word, has in kinds.items():
        names = [name for name in names if (re.search(rf"_{word}", name) is not None) == has]
    scaled = "blocks.0.ls1.gamma" in tensors
    return [name for name in names if (re.search("deit3|dinov2", name) is not None) == scaled]


def _same_shapes(name: str, tensors: Mapping[str, Tensor]) -> bool:
    shapes = published_shapes(name)
    loose = ("head.", "head_dist.", "pos_embed")
    ours = {key: shape for key, shape in shapes.items() if not key.startswith(loose)}
    theirs = {key: tuple(value.shape) for key, value in tensors.items() if not key.startswith(loose)}
    return ours == theirs


def _function(name: str) -> str:
    """What tells nets of equal shapes apart: the MLP's function."""
    return "quick" if "quickgelu" in name else "pe" if "_pe_" in name else ""


def _size_of(name: str) -> int:
    digits = re.findall(r"_(\d{3})(?=_|$)", name)
    return int(digits[-1]) if digits else 518 if "dinov2" in name else 224


def _lvvit(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    dim = int(tensors["head.weight"].shape[1])
    return tuple(name for name, own in {"lvvit_s": 384, "lvvit_m": 512}.items() if own == dim)


def one_architecture(names: Sequence[str], named: NamedWeights) -> str:
    """The one that they are of. Raises :class:`InputError` if there is none, or it is one of several."""
    if len(names) == 1:
        return names[0]
    if names:
        quick = " (OpenAI's are quickgelu)" if any("quickgelu" in name for name in names) else ""
        raise InputError(f"the weights may be of {' or '.join(names)}{quick}; say which with --backbone")
    dim = named.tensors["patch_embed.proj.weight"].shape[0]
    depth = len({key.split(".")[1] for key in named.tensors if key.startswith("blocks.")})
    raise InputError(
        f"no net of timm is known for {depth} blocks of {dim} channels like these; name it with --backbone"
    )
