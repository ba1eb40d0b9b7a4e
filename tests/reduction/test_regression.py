"""Ridge regression against NumPy's least squares, and what cross-validation chooses."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tofe_edge.reduction import regression
from tofe_edge.reduction.regression import towards_identity


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_numpy(inputs: Tensor, outputs: Tensor, weights: Tensor, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """The same by an augmented least-squares problem in centred variables."""
    x, y, w = inputs.flatten(0, 1).numpy(), (outputs - inputs).flatten(0, 1).numpy(), weights.flatten().numpy()
    share = w / w.sum()
    centred_x, centred_y, root = x - share @ x, y - share @ y, np.sqrt(share)[:, None]
    dim = x.shape[1]
    penalty = np.sqrt(strength * np.mean(share @ centred_x**2)) * np.eye(dim)
    rows, aims = np.vstack((root * centred_x, penalty)), np.vstack((root * centred_y, np.zeros((dim, dim))))
    coefficients = np.linalg.lstsq(rows, aims, rcond=None)[0].T
    return np.eye(dim) + coefficients, share @ y - coefficients @ (share @ x)


@pytest.mark.parametrize("strength", [1e-3, 1.0, 100.0])
def test_it_is_weighted_least_squares_with_a_penalty(strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "_STRENGTHS", (strength,))
    inputs, weights = noise(9, 6, 5), noise(9, 6, seed=1).abs()
    outputs = inputs @ noise(5, 5, seed=2) + 3 + 0.1 * noise(9, 6, 5, seed=3)
    weights[:2], outputs[:2] = 0, 1e3  # what weighs nothing does not matter
    expected = by_numpy(inputs, outputs, weights, strength)
    for ours, theirs in zip(towards_identity(inputs, outputs, weights), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("images", "signal", "closest"), [(60, 1.0, 1e-3), (6, 0.0, 100.0)])
def test_the_strength_is_what_serves_other_images(images: int, signal: float, closest: float) -> None:
    """Many images of a clear relation: little penalty. A few of none: the identity, nearly."""
    inputs, weights = noise(images, 4, 12), torch.ones(images, 4)
    outputs = inputs @ (torch.eye(12) + signal * noise(12, 12, seed=2)) + 0.1 * noise(images, 4, 12, seed=3)
    weight, _ = towards_identity(inputs, outputs, weights)
    np.testing.assert_allclose(weight, by_numpy(inputs, outputs, weights, closest)[0], atol=1e-5)


def test_updates_that_are_all_zero() -> None:
    weight, bias = towards_identity(torch.zeros(4, 2, 3), torch.ones(4, 2, 3), torch.ones(4, 2))
    torch.testing.assert_close(weight, torch.eye(3))
    torch.testing.assert_close(bias, torch.ones(3))
