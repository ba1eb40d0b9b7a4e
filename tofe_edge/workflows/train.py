"""Training a checkpoint: dense weights and images in, a ToFe checkpoint for a budget out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tofe_edge.evaluation.reference import pick_device
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.profiles import DeviceProfile
from tofe_edge.training.batches import Source
from tofe_edge.training.pictures import own_classes
from tofe_edge.training.recipe import Recipe, read_recipe
from tofe_edge.training.run import TrainingRequest, check_request, open_net, train_checkpoint
from tofe_edge.training.running import joined
from tofe_edge.workflows.own_classes import train_own_classes
from tofe_edge.workflows.sources import StrPath, choices_of, open_checkpoint, open_profile


def train(
    data: StrPath | Sequence[StrPath],
    out: StrPath,
    *,
    target_gmacs: float | None = None,
    target_ms: float | None = None,
    profile: StrPath | DeviceProfile | None = None,
    backbone: str | None = None,
    weights: StrPath | None = None,
    pretrained: bool = False,
    labels: StrPath | None = None,
    preprocessing: StrPath | None = None,
    start: StrPath | Checkpoint | None = None,
    validation: StrPath | None = None,
    recipe: str | Recipe | None = None,
    settings: Sequence[str] | Mapping[str, object] = (),
    device: str | None = None,
    allow_empty: bool = False,
) -> Checkpoint:
    """Train ToFe on a dense backbone to a budget and write the checkpoint; an interrupted run goes on when called again.

    If the folders are of other classes than the dense net's, it gets a head for them first; without a budget that is all.

    Args:
        data: sources of training images, each ``DATA`` or ``DATA:REPEATS``.
        out: the checkpoint to write; state and log stand beside it, and the dense net of own classes.
        target_gmacs: the budget in multiply-accumulates, or
        target_ms: in milliseconds that the latency table of ``profile`` predicts.
        profile: a device profile; ``None``: the recipe's.
        backbone: ``lvvit_s``, ``lvvit_m`` or a timm vision transformer; ``None``: the recipe's, DeiT-Tiny by default.
        weights: dense weights; or ``pretrained`` for timm's.
        labels: class names: a file, a folder of class folders, or ``imagenet``.
        preprocessing: ``imagenet``, ``inception``, ``clip`` or a file.
        start: a ToFe checkpoint to go on from, by name or path.
        validation: labelled images on which accuracy is measured at the end; of own classes a fifth of ``data`` if not given.
        recipe: ``paper``, ``reduced``, ``own_classes``, or the path of a YAML file; the one that fits ``start`` and ``data``
            if not given.
        settings: keys of the recipe with other values, such as ``{"epochs": 2}``.
        device: ``auto``, ``cuda`` or ``cpu``; ``None``: the recipe's.
        allow_empty: go on without classes of which there is a folder, but no image.

    Raises:
        InputError: weights, images or settings are unfit, or the output cannot be written.

    Example::

        te.train("train/", "mine.safetensors", target_gmacs=0.63, weights="deit.safetensors", recipe="paper")
    """
    sources = [data] if isinstance(data, str | Path) else list(data)  # type: ignore[arg-type]
    if isinstance(settings, Mapping):
        settings = [f"{key}={'' if value is None else value}" for key, value in settings.items()]
    keys = {key: value for key, value in {"backbone": backbone, "device": device}.items() if value is not None}

    def recipe_of(name: str | None) -> Recipe:
        opened = recipe if isinstance(recipe, Recipe) else read_recipe(recipe or name, settings)
        return replace(opened, **keys)  # type: ignore[arg-type]

    opened = None if start is None else open_checkpoint(start)
    first = recipe_of("reduced" if opened is not None and opened.budgets else None)
    profile = profile or first.profile
    request = TrainingRequest(
        data=tuple(map(str, sources)),
        out=Path(out),
        target_gmacs=target_gmacs,
        target_ms=target_ms,
        profile=None if profile is None else open_profile(profile),
        weights=None if weights is None else Path(weights),
        pretrained=pretrained,
        start=opened,
        validation=None if validation is None else Path(validation),
        recipe=first,
        choices=choices_of(labels, preprocessing),
        allow_empty=allow_empty,
    )
    check_request(request)
    folders = [Source.parse(source).folder for source in request.data]
    if request.start is None and first.cls_weight and all(folder.is_dir() for folder in folders):
        dense = open_net(request)
        names = own_classes(folders, dense.header.classes.ids)
        if names is not None:
            return train_own_classes(replace(request, recipe=recipe_of("own_classes")), dense, names)
    with joined(pick_device(first.device)) as processes:
        return train_checkpoint(request, processes)
