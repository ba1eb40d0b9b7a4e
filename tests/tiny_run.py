"""What the tests of whole runs share: a tiny net under a published name, its dense weights and images of two classes."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, write_images
from PIL import Image
from safetensors.torch import save_file

from tofe_edge.model import dense
from tofe_edge.model.backbones import BackboneAdapter, Reduction, create_backbone
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.training.recipe import KEYS, Recipe
from tofe_edge.training.run import TrainingRequest, train_checkpoint

RECIPE = Recipe(device="cpu", epochs=1, fixed_epochs=0.5, batch_size=8, held_out=6, seed=3)
TARGET_GMACS = 0.002
STILL: dict[str, Any] = {"learning_rate": 1e-12, "final_learning_rate": 1e-13, "backbone_learning_rate": 1e-12}
"""Nothing moves."""


def trained(request: TrainingRequest, **changes: Any) -> Checkpoint:
    """The checkpoint of a run with some fields of the request or of its recipe changed."""
    recipe = {name: value for name, value in changes.items() if name in KEYS}
    own = {name: value for name, value in changes.items() if name not in KEYS}
    return train_checkpoint(replace(request, recipe=replace(request.recipe, **recipe), **own))


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of published nets stand for their tiny versions."""

    def tiny(
        name: str,
        overrides: Mapping[str, int] | None = None,
        pretrained: bool = False,
        stages: tuple[int, ...] | None = None,
        reduction: Reduction = "paper",
    ) -> BackboneAdapter:
        return create_backbone(name, {**TINY, **(overrides or {})}, pretrained, stages, reduction)

    monkeypatch.setattr(dense, "create_backbone", tiny)
    monkeypatch.setattr(dense, "guess_architecture", lambda *_: (dense.DEFAULT_BACKBONE,))


def write_dense(folder: Path) -> Path:
    """Weights of the tiny dense net under timm's names: the same ones whatever ran before in this process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = create_backbone("deit_tiny_patch16_224", TINY).state_dict()
    path = folder / "dense.safetensors"
    save_file({key.removeprefix("vit."): value for key, value in weights.items()}, path)
    return path


@contextmanager
def to_reduce(folder: Path) -> Iterator[Path]:
    """A folder with ``dense.safetensors`` and 80 images in two classes, while the published net's name stands for the tiny one."""
    write_dense(folder)
    write_images(folder / "images", 40)
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        yield folder


def striped_images(folder: Path, per_class: int) -> Path:
    """Noisy images of two classes, class 0 bright at the top and class 1 bright at the bottom."""
    generator = np.random.default_rng(0)
    for identifier in (0, 1):
        (folder / str(identifier)).mkdir(parents=True)
        for number in range(per_class):
            pixels = generator.integers(0, 100, (64, 64, 3))
            pixels[32 * identifier : 32 * identifier + 32] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / str(identifier) / f"{number}.png")
    return folder


def make_request(folder: Path) -> TrainingRequest:
    """A run on 26 images, validated on 6."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 13), ("val", 3)):
        for identifier in ("0", "1"):
            (folder / part / identifier).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (64, 64, 3), np.uint8)
                Image.fromarray(pixels).save(folder / part / identifier / f"{number}.png")
    return TrainingRequest(
        data=(str(folder / "train"),),
        out=folder / "out" / "tiny.safetensors",
        target_gmacs=TARGET_GMACS,
        weights=write_dense(folder),
        validation=folder / "val",
        recipe=RECIPE,
    )


def records(out: Path) -> list[dict[str, Any]]:
    """The log of the run to ``out``, a line each."""
    return [json.loads(line) for line in out.with_suffix(".log.jsonl").read_text().splitlines()]


def assert_same_weights(actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert [key for key, value in expected.items() if not torch.equal(actual[key], value)] == []
