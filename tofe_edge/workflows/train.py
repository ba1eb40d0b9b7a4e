"""Training a checkpoint: dense weights and images in, a ToFe checkpoint for a budget out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.profiles import DeviceProfile
from tofe_edge.training.recipe import Recipe, read_recipe
from tofe_edge.training.run import TrainingRequest, train_checkpoint
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
) -> Checkpoint:
    """Train ToFe on a dense backbone to a budget and write the checkpoint; an interrupted run goes on when called again.

    Args:
        data: sources of training images, each ``DATA`` or ``DATA:REPEATS``.
        out: the checkpoint to write; state and log stand beside it.
        target_gmacs: the budget in multiply-accumulates, or
        target_ms: in milliseconds that the latency table of ``profile`` predicts.
        profile: a device profile; ``None``: the recipe's.
        backbone: ``lvvit_s``, ``lvvit_m`` or a timm vision transformer; ``None``: the recipe's, DeiT-Tiny by default.
        weights: dense weights; or ``pretrained`` for timm's.
        labels: class names: a file, a folder of class folders, or ``imagenet``.
        preprocessing: ``imagenet``, ``inception``, ``clip`` or a file.
        start: a ToFe checkpoint to go on from, by name or path.
        validation: labelled images on which accuracy is measured at the end.
        recipe: ``paper`` (the default), ``quick``, or the path of a YAML file.
        settings: keys of the recipe with other values, such as ``{"epochs": 2}``.
        device: ``auto``, ``cuda`` or ``cpu``; ``None``: the recipe's.

    Raises:
        InputError: weights, images or settings are unfit, or the output cannot be written.

    Example::

        te.train("train/", "mine.safetensors", target_gmacs=0.63, weights="deit.safetensors", recipe="quick")
    """
    sources = [data] if isinstance(data, str | Path) else list(data)  # type: ignore[arg-type]
    if isinstance(settings, Mapping):
        settings = [f"{key}={'' if value is None else value}" for key, value in settings.items()]
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe, settings)
    keys = {"backbone": backbone, "device": device}
    recipe = replace(recipe, **{key: value for key, value in keys.items() if value is not None})  # type: ignore[arg-type]
    profile = profile or recipe.profile
    request = TrainingRequest(
        data=tuple(map(str, sources)),
        out=Path(out),
        target_gmacs=target_gmacs,
        target_ms=target_ms,
        profile=None if profile is None else open_profile(profile),
        weights=None if weights is None else Path(weights),
        pretrained=pretrained,
        start=None if start is None else open_checkpoint(start),
        validation=None if validation is None else Path(validation),
        recipe=recipe,
        choices=choices_of(labels, preprocessing),
    )
    return train_checkpoint(request)
