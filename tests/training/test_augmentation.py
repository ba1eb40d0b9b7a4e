"""Pieces of one image in another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.training.batches import cutmix
from tofe_edge.training.config import TrainingConfig

SHAPES = st.tuples(st.integers(1, 6), st.just(3), st.integers(1, 9), st.integers(1, 9))


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """Images whose every pixel is the number of the image."""
    return np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None, None, None], shape).copy()


@given(SHAPES, st.integers(0, 2**32))
def test_what_is_pasted_is_one_rectangle_of_the_next_image(shape: tuple[int, ...], seed: int) -> None:
    for index, image in enumerate(cutmix(numbered(shape), 1.0, np.random.default_rng(seed))):
        assert all(np.array_equal(channel, image[0]) for channel in image)
        pasted = image[0] != index
        assert np.all(image[0][pasted] == (index + 1) % shape[0])
        rows, columns = pasted.any(axis=1), pasted.any(axis=0)
        assert np.array_equal(pasted, np.outer(rows, columns))
        for line in (rows, columns):
            where = np.flatnonzero(line)
            assert len(where) == 0 or where[-1] - where[0] + 1 == len(where)


def test_the_share_of_mixed_images_and_of_their_area() -> None:
    images, generator = numbered((2000, 1, 32, 32)), np.random.default_rng(0)
    mixed = cutmix(images, 0.3, generator)
    changed = (mixed != images).mean(axis=(1, 2, 3))
    assert (changed > 0).mean() == pytest.approx(0.3, abs=0.04)
    # Half of the area before the border cuts it off; some 0.32 after.
    assert changed[changed > 0].mean() == pytest.approx(0.32, abs=0.03)
    assert np.array_equal(images, numbered((2000, 1, 32, 32)))


def test_no_share_changes_nothing() -> None:
    images = numbered((4, 3, 8, 8))
    assert np.array_equal(cutmix(images, 0.0, np.random.default_rng(0)), images)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_of_its_range_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=r"cutmix must lie in \[0, 1\]"):
        TrainingConfig(target_gmacs=1.0, cls_weight=0.0, cutmix=share)


def test_labels_do_not_fit_mixed_images() -> None:
    with pytest.raises(InputError, match="no label fits an image that cutmix mixed; set cls_weight to 0"):
        TrainingConfig(target_gmacs=1.0, cutmix=0.5)
