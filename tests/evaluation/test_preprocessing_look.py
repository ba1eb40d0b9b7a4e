"""A look at pictures tells of preprocessing that agrees better, and of nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_tofe, write_images
from torch import Tensor, nn

from tofe_edge.evaluation.preprocessing_look import look_at_preprocessing
from tofe_edge.io.dataset import Sample
from tofe_edge.io.listing import list_images
from tofe_edge.io.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

IMAGENET = Preprocessing(64, 0.9, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
INCEPTION = replace(IMAGENET, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Contrast(nn.Module):
    """Sure of itself if pixels spread as far as ImageNet's deviation makes them; then class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = tiny_tofe().backbone

    def forward_dense(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 10)
        logits[:, 0] = 1.0
        logits[:, 1] = 8 * (images.flatten(1).std(dim=1) - 0.7)
        return logits


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list_images(write_images(tmp_path_factory.mktemp("look"), 16))


def samples(pictures: list[Path], label: int) -> list[Sample]:
    return [Sample(path, label) for path in pictures]


@pytest.mark.parametrize(
    ("label", "message"), [(-1, "clearly more sure of itself"), (1, "is right about 0.0% of them, and about")]
)
def test_it_warns_where_another_way_agrees_better(pictures: list[Path], label: int, message: str) -> None:
    remark = look_at_preprocessing(Contrast(), INCEPTION, samples(pictures, label))  # type: ignore[arg-type]
    assert remark is not None and message in remark and "32 pictures prepared as" in remark
    assert "with --preprocessing imagenet" in remark or "with --preprocessing clip" in remark


@pytest.mark.parametrize("label", [-1, 1])
def test_it_is_silent_if_the_way_is_right(pictures: list[Path], label: int) -> None:
    assert look_at_preprocessing(Contrast(), IMAGENET, samples(pictures, label)) is None  # type: ignore[arg-type]


def test_few_or_unreadable_pictures_tell_nothing(pictures: list[Path], tmp_path: Path) -> None:
    net = Contrast()
    assert look_at_preprocessing(net, INCEPTION, samples(pictures[:15], -1)) is None  # type: ignore[arg-type]
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = [Sample(tmp_path / "broken.png", -1)] * 20
    assert look_at_preprocessing(net, INCEPTION, broken) is None  # type: ignore[arg-type]


def test_a_random_net_prefers_nothing(pictures: list[Path]) -> None:
    assert np.all(
        [look_at_preprocessing(tiny_tofe(), spec, samples(pictures, -1)) is None for spec in (IMAGENET, INCEPTION)]
    )
