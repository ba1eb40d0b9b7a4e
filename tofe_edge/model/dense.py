"""Dense nets as people have them: weights in a file or timm's published ones, with their size, classes and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tofe_edge.errors import InputError, naming
from tofe_edge.io.configs import Config, read_config_beside
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.io.tensors import StateDict, is_averaged, read_state_dict
from tofe_edge.model.backbones import Backbone, BackboneAdapter, Reduction, create_backbone
from tofe_edge.model.backbones.architectures import guess_architecture, one_architecture
from tofe_edge.model.backbones.state_dict import NamedWeights, fit_weights, grid_side, read_weights
from tofe_edge.model.backbones.timm_vit import is_of_imagenet
from tofe_edge.model.checkpoint import Checkpoint, describe, read_header
from tofe_edge.model.choices import NO_CHOICES, Choices, choose_classes, choose_preprocessing, imagenet
from tofe_edge.model.resolution import check_image_size, patch_size

DEFAULT_BACKBONE = "deit_tiny_patch16_224"
"""The net of ``--pretrained`` if none is named."""


@dataclass(frozen=True)
class DenseNet:
    """A dense net with its weights, and what is known about it.

    Attributes:
        adapter: the net, in eval mode; its ``preprocessing`` is the chosen one.
        header: name, classes, preprocessing and where they are from, as a dense checkpoint.
    """

    adapter: BackboneAdapter
    header: Checkpoint


def describe_dense(path: Path, backbone: str | None = None, choices: Choices = NO_CHOICES) -> Checkpoint:
    """A file of plain dense weights, or a folder of the Hugging Face Hub, as a checkpoint without selectors.

    Size and number of classes are those of its tensors. What was decided without being asked is in the ``remarks``.

    Args:
        backbone: the net; ``None``: the config beside the weights names it, or their shapes tell.

    Raises:
        InputError: the file is missing or unfit, its net is not known, or the backbone cannot carry ToFe.
    """
    return _describe(path, backbone, choices)[0]


def open_dense(
    weights: Path | None,
    backbone: str | None = None,
    choices: Choices = NO_CHOICES,
    *,
    pretrained: bool = False,
    stages: Sequence[int] | None = None,
    reduction: Reduction = "paper",
) -> DenseNet:
    """A dense net with weights from a file or, with ``pretrained``, timm's published ones.

    Args:
        stages: blocks before which tokens are selected, from 0; ``None``: the paper's.

    Raises:
        InputError: as :func:`describe_dense`, or the published weights cannot be fetched.
    """
    if weights is None:
        return _pretrained(backbone or DEFAULT_BACKBONE, choices, pretrained, stages, reduction)
    header, named = _describe(weights, backbone, choices)
    adapter = create_backbone(header.backbone_name, header.overrides, stages=stages, reduction=reduction)
    with naming(weights):
        _load(adapter, named)
    adapter.preprocessing = header.preprocessing
    return DenseNet(adapter, header)


def _load(adapter: BackboneAdapter, named: NamedWeights) -> None:
    weights = fit_weights(named, adapter.spec)
    device = next(adapter.parameters()).device
    adapter.load_dense({key: value.to(device) for key, value in weights.items()})


def _pretrained(
    name: str, choices: Choices, pretrained: bool, stages: Sequence[int] | None, reduction: Reduction
) -> DenseNet:
    adapter = create_backbone(name, pretrained=pretrained, stages=stages, reduction=reduction)
    if choices.image_size is not None and choices.image_size != adapter.spec.image_size:
        check_image_size(adapter.spec, choices.image_size)
        adapter = adapter.resized(choices.image_size)
    config = Config()
    if pretrained and is_of_imagenet(name):
        config = Config(classes=imagenet(), classes_file="timm's published weights")
    remarks: list[str] = []
    classes, classes_from = choose_classes(adapter.spec.classes, choices.labels, config, name, remarks)
    preprocessing, from_where = choose_preprocessing(
        adapter.preprocessing, choices.preprocessing, config, name, remarks
    )
    adapter.preprocessing = preprocessing
    sources = {"weights": f"timm's {name}", "classes": classes_from, "preprocessing": from_where}
    header = describe(name, adapter.spec, preprocessing, classes, None)
    return DenseNet(adapter, replace(header, sources=sources, remarks=tuple(remarks)))


_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")


def weights_in(path: Path) -> Path:
    """The file of weights in a folder as the Hugging Face Hub has them; a file is itself."""
    found = [path / name for name in _IN_FOLDERS if (path / name).is_file()] if path.is_dir() else []
    return found[0] if found else path


def _describe(path: Path, backbone: str | None, choices: Choices) -> tuple[Checkpoint, NamedWeights]:
    path = weights_in(path)
    state = read_state_dict(path)
    with naming(path):
        named = read_weights(state)
        own = _own_header(path)
        config = Config() if own is not None else read_config_beside(path)
        name = backbone or (own.backbone_name if own else None) or _architecture(named, config)
        published = own.overrides if own is not None and own.backbone_name == name else {}
        spec, base = _sized(name, named, published, choices.image_size)
        if config.heads is not None and config.heads != spec.heads:
            raise InputError(
                f"config.json says {config.heads} heads of attention, {name} has {spec.heads}; name another net with --backbone"
            )
        if own is not None:
            config = Config(
                classes=own.classes,
                classes_file="its header",
                preprocessing=_keys(own.preprocessing),
                preprocessing_file="its header",
            )
        told = (backbone, own, config.architecture, choices.preprocessing, config.preprocessing or None)
        remarks = _decisions(path, state, named, name, guessed=all(one is None for one in told))
        classes, classes_from = choose_classes(spec.classes, choices.labels, config, path.name, remarks)
        preprocessing, from_where = choose_preprocessing(base, choices.preprocessing, config, name, remarks)
        header = describe(_stem(path), spec, preprocessing, classes, None)
    sources = {
        "weights": _where(path, state, named),
        "classes": classes_from,
        "preprocessing": from_where,
    }
    return replace(header, path=path, plain=True, sources=sources, remarks=tuple(remarks)), named


def _stem(path: Path) -> str:
    if path.name in _IN_FOLDERS:
        return path.absolute().parent.name
    return path.name.removesuffix(".tar").rpartition(".")[0] or path.name


def _own_header(path: Path) -> Checkpoint | None:
    """The header of a file that tofe-edge wrote; ``None`` of any other."""
    try:
        return read_header(path)
    except InputError:
        return None


def _keys(spec: Preprocessing) -> dict[str, Any]:
    return {key: getattr(spec, key) for key in ("mean", "std", "crop_pct", "interpolation", "resize")}


def _architecture(named: NamedWeights, config: Config) -> str:
    if config.architecture is not None:
        return config.architecture.split(".")[0]
    return one_architecture(guess_architecture(named, config.activation), named)


def _sized(
    name: str, named: NamedWeights, overrides: Mapping[str, int], image_size: int | None
) -> tuple[Backbone, Preprocessing]:
    """The net of this name with the image size and the classes of the weights, and how its name says images are made."""
    with torch.device("meta"):
        net = create_backbone(name, overrides)
    if image_size is None:
        image_size = grid_side(named) * patch_size(net.spec)
    else:
        check_image_size(net.spec, image_size)
    found = {"image_size": image_size, "classes": named.classes}
    changed = {key: value for key, value in found.items() if value != getattr(net.spec, key)}
    if changed:
        with torch.device("meta"):
            net = create_backbone(name, {**overrides, **changed})
    _check(net, named)
    return net.spec, net.preprocessing


def _check(net: BackboneAdapter, named: NamedWeights) -> None:
    """Refuse weights that do not fit, with the net that they fit, before anything else is done with them."""
    try:
        with torch.device("meta"):
            _load(net, named)
    except InputError as error:
        try:
            fitting = guess_architecture(named)
        except InputError:
            fitting = ()
        hint = f"; they fit --backbone {' or '.join(fitting)}" if fitting else ""
        raise InputError(f"{error}{hint}") from error


def _where(path: Path, state: StateDict, named: NamedWeights) -> str:
    key = f", key {state.key}" if state.key else ""
    family = "" if named.family == "timm" else f", names of {named.family}"
    return f"{path.name}{key}{family}"


def _decisions(path: Path, state: StateDict, named: NamedWeights, name: str, guessed: bool) -> list[str]:
    """What was decided about a file without being asked. ``guessed``: its net, and so its preprocessing, by shapes."""
    said = []
    if named.passed_over:
        said.append(
            f"{path.name}: averaged weights ({named.prefix}) are used, not those of {', '.join(named.passed_over)}"
        )
    if is_averaged(state.key) and state.passed_over:
        said.append(
            f"{path.name}: averaged weights ({state.key}) are used, not those under {', '.join(state.passed_over)}"
        )
    if named.has_projection and named.classes:
        said.append(f"{path.name}: its {named.classes} outputs are CLIP's projection, not classes")
    # DeiT and timm's own ViT are one net with two ways to prepare images.
    plain = not {"norm_pre.weight", "blocks.0.ls1.gamma", "attn_pool.latent", "aux_head.weight"} & named.tensors.keys()
    if guessed and plain:
        said.append(
            f"{path.name}: is {name} by the shapes of its tensors, which do not tell how images are prepared; set that with "
            "--preprocessing"
        )
    return said
