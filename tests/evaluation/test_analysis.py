"""The analysis of a comparison: the statistics of the right sides, under stable keys."""

import json

import numpy as np
import pytest

from tofe_edge.errors import InputError
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.evaluation.statistics import analyse, bootstrap_difference

CLASSES = 7
IMAGES = 60


def sides(seed: int = 0, stages: int = 3) -> tuple[list[Prediction], list[Prediction], list[int]]:
    generator = np.random.default_rng(seed)
    wanted = (3 * generator.standard_normal((IMAGES, CLASSES))).astype(np.float32)
    found = wanted + 0.8 * generator.standard_normal((IMAGES, CLASSES)).astype(np.float32)
    labels = [int(row.argmax()) if number % 4 else int(row.argmin()) for number, row in enumerate(wanted)]
    margins = generator.random((IMAGES, stages))
    reference = [Prediction(row, (), tuple(map(float, margin))) for row, margin in zip(wanted, margins)]
    return reference, [Prediction(row, ()) for row in found], labels


NAMES = [f"image {number}" for number in range(IMAGES)]


def test_accuracy_is_of_the_side_it_is_named_after() -> None:
    reference, artifact, labels = sides()
    accuracy = analyse(reference, artifact, labels, NAMES).accuracy
    assert accuracy is not None
    right = [
        np.array([side.logits.argmax() == label for side, label in zip(both, labels)]) for both in (reference, artifact)
    ]
    assert accuracy.top1_reference.estimate == pytest.approx(right[0].mean()) == pytest.approx(0.75)
    assert accuracy.top1_artifact.estimate == pytest.approx(right[1].mean())
    assert accuracy.difference == bootstrap_difference(right[0], right[1])
    assert accuracy.mcnemar.lost == int((right[0] & ~right[1]).sum()) > 0
    assert accuracy.calibration_reference.accuracy == pytest.approx(0.75)
    assert accuracy.images_to_see_half_a_point is not None and accuracy.images_to_see_half_a_point > IMAGES


def test_sides_that_are_equal_have_nothing_to_see() -> None:
    reference, _, labels = sides()
    accuracy = analyse(reference, reference, labels, NAMES).accuracy
    assert accuracy is not None
    assert (accuracy.mcnemar.lost, accuracy.mcnemar.gained, accuracy.images_to_see_half_a_point) == (0, 0, None)


def test_accuracy_needs_labels() -> None:
    reference, artifact, _ = sides()
    found = analyse(reference, artifact, None, NAMES)
    assert found.accuracy is None
    assert all(change.label is None for change in found.worst)


def test_margins_are_per_stage_and_none_of_a_dense_net() -> None:
    reference, artifact, labels = sides()
    found = analyse(reference, artifact, labels, NAMES)
    assert len(found.margins) == 3
    assert found.margins[1].quantiles["p50"] == pytest.approx(np.median([one.margins[1] for one in reference]))
    dense, other, labels = sides(stages=0)
    assert analyse(dense, other, labels, NAMES).margins == ()


def test_the_worst_images_come_with_their_names() -> None:
    reference, artifact, labels = sides()
    found = analyse(reference, artifact, labels, NAMES, worst_count=4)
    assert [NAMES[change.index] for change in found.worst] == list(found.worst_names)
    lost = [change.reference_probability - change.remaining_probability for change in found.worst]
    assert lost == sorted(lost, reverse=True) and len(lost) == 4


def test_the_document_is_json_with_stable_keys() -> None:
    reference, artifact, labels = sides()
    document = json.loads(json.dumps(analyse(reference, artifact, labels, NAMES).to_json(), allow_nan=False))
    assert document.keys() == {"agreement", "accuracy", "margins", "worst"}
    assert document["worst"][0].keys() >= {"image", "index", "label", "reference_class", "artifact_class"}
    assert document["accuracy"]["top1_artifact"].keys() == {"estimate", "low", "high", "confidence"}


def test_logits_that_are_no_numbers_are_refused() -> None:
    reference, artifact, labels = sides()
    artifact[3].logits[2] = np.nan
    with pytest.raises(InputError):
        analyse(reference, artifact, labels, NAMES)
