"""Embeddings and features against those of the reference: figures, gates, and faults that they catch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tofe_edge.errors import InputError
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.evaluation.vectors import (
    EmbeddingParity,
    FeatureParity,
    compare_outputs,
    cosines,
    neighbours,
    token_snr_db,
)
from tofe_edge.io.targets import FP16_GATES, FP32_GATES, INT8_GATES

Vectors = npt.NDArray[np.float32]
SHAPES: dict[str, tuple[int, ...]] = {"embedding": (48,), "features": (16, 48)}


def drawn(output: str, images: int = 120) -> Vectors:
    """Seeded vectors of images, of which each two are alike."""
    generator = np.random.default_rng(1)
    alike = np.repeat(generator.standard_normal((images // 2, *SHAPES[output])), 2, axis=0)
    return (alike + 0.1 * generator.standard_normal(alike.shape)).astype(np.float32)


def noisy(vectors: Vectors, decibels: float) -> Vectors:
    """The same with noise of this signal-to-noise ratio."""
    noise = np.random.default_rng(2).standard_normal(vectors.shape)
    return (vectors + 10 ** (-decibels / 20) * noise).astype(np.float32)


def predictions(vectors: Vectors) -> list[Prediction]:
    return [Prediction(row, (np.arange(9),)) for row in vectors]


def compared(output: str, actual: Vectors, gates: Any = FP32_GATES, expected: Vectors | None = None) -> Any:
    reference = drawn(output) if expected is None else expected
    return compare_outputs(output, predictions(reference), predictions(actual), None, gates)


@pytest.mark.parametrize("output", SHAPES)
def test_what_is_the_same_passes_every_gate(output: str) -> None:
    parity = compared(output, drawn(output))
    assert parity.passed and parity.images == 120 and parity.snr_db == np.inf and parity.cosine_mean == pytest.approx(1)
    document = parity.to_json()
    assert document["output"] == output and document["snr_db"] is None and "top1_agreement" not in document
    assert [name for name, _ in parity.figures][-2:] == ["SNR", "PSNR"]


@pytest.mark.parametrize("output", SHAPES)
@pytest.mark.parametrize(
    ("gates", "passing", "failing"), [(FP32_GATES, 70, 50), (FP16_GATES, 30, 15), (INT8_GATES, 16, 6)]
)
def test_gates_are_between_rounding_and_a_fault(output: str, gates: Any, passing: float, failing: float) -> None:
    assert compared(output, noisy(drawn(output), passing), gates).passed
    assert not compared(output, noisy(drawn(output), failing), gates).passed


def swapped(vectors: Vectors) -> Vectors:
    """The places of two patches in each image are swapped, out of 16."""
    return vectors[:, [1, 0, *range(2, vectors.shape[1])]]


def one_turned(vectors: Vectors) -> Vectors:
    """One image's vector points the other way."""
    return np.concatenate((-vectors[:1], vectors[1:]))


def not_a_number(vectors: Vectors) -> Vectors:
    found = vectors.copy()
    found.flat[5] = np.nan
    return found


FAULTS: list[tuple[str, Callable[[Vectors], Vectors], str]] = [
    ("embedding", one_turned, "worst cosine -1.00000 is under 0.8"),
    ("embedding", lambda vectors: 1.5 * vectors, "embedding SNR 6.0 dB is under 10 dB"),
    ("embedding", not_a_number, "worst cosine"),
    ("embedding", np.zeros_like, "mean cosine -1.00000 is under 0.95"),
    ("embedding", lambda vectors: np.roll(vectors, 1, axis=0), "nearest neighbours of decided images agree on"),
    ("features", swapped, "cosine of the lowest 5% of the tokens"),
    ("features", lambda vectors: vectors[:, ::-1], "median SNR of a token"),
    ("features", not_a_number, "features SNR -inf dB"),
]


@pytest.mark.parametrize(("output", "fault", "message"), FAULTS)
def test_a_fault_is_named(output: str, fault: Callable[[Vectors], Vectors], message: str) -> None:
    failures = compared(output, fault(drawn(output)), INT8_GATES).failures
    assert any(message in failure for failure in failures), failures


def test_neighbours_are_gated_on_enough_decided_images_alone() -> None:
    few, name = drawn("embedding", 40), "nearest neighbours of decided images"
    assert compared("embedding", few, expected=few).gates[-1].name != name
    wanted = replace(FP32_GATES, min_images_for_rate=1, min_neighbour_agreement=1.0)
    assert compared("embedding", few, wanted, few).gates[-1].name == name
    two = compared("embedding", few[:2], wanted, few[:2])
    assert isinstance(two, EmbeddingParity) and two.neighbour_agreement is None and two.passed
    assert dict(two.figures)["same nearest neighbour"] == "too few images"


def at_angles(*degrees: float) -> Vectors:
    angles = np.radians(degrees)
    return np.stack((np.cos(angles), np.sin(angles)), 1).astype(np.float32)


def test_the_nearest_neighbour_of_other_embeddings_and_which_are_decided() -> None:
    apart = at_angles(0, 10, 50, 60)
    same, decided = neighbours(apart, 3 * apart)
    assert same.all() and decided.all()
    assert neighbours(apart, at_angles(0, 30, 50, 60))[0].tolist() == [True, False, True, True]
    # The middle one is about as near to either of the others.
    same, decided = neighbours(at_angles(0, 10, 20.1), at_angles(0, 10.1, 20))
    assert same.tolist() == [True, False, True] and decided.tolist() == [True, False, True]


def test_a_near_tie_is_left_out_of_fp32() -> None:
    vectors = drawn("features", 4)
    reference = [replace(one, margins=(margin,)) for one, margin in zip(predictions(vectors), (1e-9, 1, 1, 1))]
    actual = [replace(predictions(vectors)[0], output=-vectors[0]), *predictions(vectors)[1:]]
    parity = compare_outputs("features", reference, actual, None, FP32_GATES)
    assert isinstance(parity, FeatureParity) and parity.passed and parity.near_ties == 1
    assert not compare_outputs("features", reference, actual, None, INT8_GATES).passed


def test_cosines_and_ratios_of_vectors() -> None:
    one = np.array([[1, 0], [1, 1], [0, 0], [1, 0]], np.float32)
    other = np.array([[2, 0], [1, -1], [1, 0], [np.inf, 0]], np.float32)
    assert cosines(one, other).tolist() == pytest.approx([1, 0, -1, -1])
    assert token_snr_db(one, one).tolist() == [np.inf] * 4
    other = np.array([[0.9, 0], [np.nan, 1]], np.float32)
    assert token_snr_db(one[:2], other).tolist() == pytest.approx([20, -np.inf], abs=1e-4)


@pytest.mark.parametrize(
    ("output", "actual", "message"),
    [
        ("embedding", np.zeros((120, 47), np.float32), "their number of channels"),
        ("features", np.zeros((120, 15, 48), np.float32), "their number of tokens or channels"),
        ("features", np.zeros((119, 16, 48), np.float32), "the same images on both sides, not 120 and 119"),
    ],
)
def test_what_cannot_be_compared_is_refused(output: str, actual: Vectors, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compared(output, actual)


def test_a_drop_of_accuracy_is_refused() -> None:
    with pytest.raises(InputError, match="--max-drop: only a classifier has"):
        compared("features", drawn("features"), replace(FP32_GATES, max_drop=1.0))
