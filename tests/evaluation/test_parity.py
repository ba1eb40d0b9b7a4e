"""Parity gates catch injected faults; accuracy and its interval are what statistics says."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_COUNTS
from PIL import Image

from tofe_edge.errors import InputError
from tofe_edge.evaluation.evaluate import evaluate_samples
from tofe_edge.evaluation.parity import compare, kept_overlap, on_decided, snr_db
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.evaluation.reference import Mode, load_reference
from tofe_edge.evaluation.statistics import proportion_interval
from tofe_edge.io.dataset import Sample
from tofe_edge.io.inputs import load_image
from tofe_edge.io.targets import FP16_GATES, FP32_GATES, INT8_GATES, MIN_IMAGES_FOR_RATE, Gates
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs

CLASSES, PATCHES = 20, 16
MODES: list[Mode] = ["batch", "instance", "dense"]
Fault = Callable[[Prediction], Prediction]


def predictions(images: int = 160, seed: int = 0, counts: Sequence[int] = TINY_COUNTS.kept) -> list[Prediction]:
    generator = np.random.default_rng(seed)
    return [
        Prediction(
            (4 * generator.standard_normal(CLASSES)).astype(np.float32),
            tuple(generator.permutation(PATCHES)[:count] for count in counts),
        )
        for _ in range(images)
    ]


def with_logits(prediction: Prediction, logits: np.ndarray) -> Prediction:
    return Prediction(logits.astype(np.float32), prediction.kept)


def permuted_classes(prediction: Prediction) -> Prediction:
    return with_logits(prediction, np.roll(prediction.logits, 1))


def noisy(prediction: Prediction) -> Prediction:
    noise = np.random.default_rng(int(1000 * abs(prediction.logits[0]))).standard_normal(CLASSES)
    return with_logits(prediction, prediction.logits + 0.1 * noise)


def one_other_token(prediction: Prediction) -> Prediction:
    unused = next(position for position in range(PATCHES) if position not in prediction.kept[1])
    return Prediction(
        prediction.logits, (prediction.kept[0], np.r_[prediction.kept[1][:-1], unused], prediction.kept[2])
    )


def scaled(prediction: Prediction) -> Prediction:
    return with_logits(prediction, 1.01 * prediction.logits)


def broken(value: float) -> Fault:
    def fault(prediction: Prediction) -> Prediction:
        logits = prediction.logits.copy()
        logits[3] = value
        return with_logits(prediction, logits)

    return fault


@pytest.mark.parametrize("gates", [FP32_GATES, FP16_GATES, INT8_GATES])
def test_identical_predictions_pass_every_gate(gates: Gates) -> None:
    parity = compare(predictions(), predictions(), None, gates)
    assert parity.passed and parity.failures == ()
    assert (parity.images, parity.top1_agreement, parity.decided_agreement) == (160, 1.0, 1.0)
    assert parity.kept_overlap == (1.0, 1.0, 1.0)
    assert parity.snr_db == math.inf
    assert parity.to_json()["snr_db"] is None


def test_the_order_of_kept_tokens_and_the_last_bits_do_not_matter() -> None:
    def rounded(prediction: Prediction) -> Prediction:
        logits = prediction.logits * np.float32(1 + 1e-6)
        return Prediction(logits, tuple(index[::-1] for index in prediction.kept))

    assert compare(predictions(), list(map(rounded, predictions())), None, FP32_GATES).passed


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (permuted_classes, "top-1 agreement"),
        (noisy, "SNR"),
        (scaled, "SNR"),
        (one_other_token, "kept-token overlap of stage 2"),
        (broken(math.nan), "SNR -inf dB"),
        (broken(math.inf), "SNR -inf dB"),
    ],
)
def test_a_fault_in_every_image_fails_the_fp32_gates(fault: Fault, reason: str) -> None:
    parity = compare(predictions(), list(map(fault, predictions())), None, FP32_GATES)
    assert not parity.passed
    assert any(reason in failure for failure in parity.failures)


@pytest.mark.parametrize("fault", [permuted_classes, one_other_token, broken(math.nan)])
def test_a_fault_in_one_image_of_two_hundred_fails_the_fp32_gates(fault: Fault) -> None:
    artifact = predictions(200)
    artifact[77] = fault(artifact[77])
    assert not compare(predictions(200), artifact, None, FP32_GATES).passed


@pytest.mark.parametrize("fault", [permuted_classes, broken(math.nan)])
def test_a_gross_fault_fails_the_int8_gates_too(fault: Fault) -> None:
    assert not compare(predictions(), list(map(fault, predictions())), None, INT8_GATES).passed


def test_images_in_another_order_fail_the_int8_gates() -> None:
    assert not compare(predictions(), predictions()[::-1], None, INT8_GATES).passed


def test_a_reference_that_is_not_finite_fails() -> None:
    reference = list(map(broken(math.nan), predictions()))
    assert not compare(reference, predictions(), None, INT8_GATES).passed


def test_accuracies_against_labels_are_of_each_side() -> None:
    reference = predictions(4)
    labels = [int(prediction.logits.argmax()) for prediction in reference]
    artifact = [permuted_classes(reference[0]), *reference[1:]]
    parity = compare(reference, artifact, labels, INT8_GATES)
    assert (parity.top1_reference, parity.top1_artifact, parity.top1_agreement) == (1.0, 0.75, 0.75)
    unlabelled = compare(reference, artifact, None, INT8_GATES)
    assert (unlabelled.top1_reference, unlabelled.top1_artifact) == (None, None)


def test_another_number_of_stages_classes_or_images_is_refused() -> None:
    two_stages = predictions(counts=(9, 5))
    with pytest.raises(InputError, match="number of stages"):
        compare(predictions(), two_stages, None, FP32_GATES)
    with pytest.raises(InputError, match="number of stages"):
        compare(predictions(), [*predictions()[:-1], two_stages[-1]], None, FP32_GATES)
    with pytest.raises(InputError, match="number of classes"):
        compare(predictions(), [with_logits(one, one.logits[:-1]) for one in predictions()], None, FP32_GATES)
    for artifact in ([], predictions(11)):
        with pytest.raises(InputError, match=f"same images on both sides, not 160 and {len(artifact)}"):
            compare(predictions(), artifact, None, FP32_GATES)
    with pytest.raises(InputError, match="not 0 and 0"):
        compare([], [], None, FP32_GATES)


@pytest.mark.parametrize("decibels", [0.0, 20.0, 60.0])
def test_snr_of_known_noise(decibels: float) -> None:
    signal = np.array([[3.0, -4.0, 0.0, 12.0]], np.float32)
    noise = np.array([[0.0, 0.0, 13.0 * 10 ** (-decibels / 20), 0.0]], np.float32)
    assert snr_db(signal, signal + noise) == pytest.approx(decibels, abs=1e-3)


def test_snr_of_no_noise_and_of_no_signal() -> None:
    zeros, ones = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert snr_db(ones, ones) == math.inf
    assert snr_db(zeros, ones) == -math.inf


def test_kept_overlap_is_the_shared_part_of_the_reference() -> None:
    assert kept_overlap(np.array([1, 5, 9, 3]), np.array([9, 1, 0, 2])) == 0.5
    assert kept_overlap(np.array([4, 2]), np.array([2, 4])) == 1.0
    assert kept_overlap(np.array([4, 2]), np.array([0, 1])) == 0.0


def test_only_images_with_a_clear_winner_count_as_decided() -> None:
    found = compare(
        [Prediction(np.log(np.array(shares, np.float32)), ()) for shares in ([0.5, 0.3, 0.2], [0.4, 0.35, 0.25])],
        [Prediction(np.log(np.array(shares, np.float32)), ()) for shares in ([0.5, 0.3, 0.2], [0.35, 0.4, 0.25])],
        None,
        INT8_GATES,
    )
    assert (found.decided_images, found.decided_agreement, found.top1_agreement) == (1, 1.0, 0.5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrong", [0, 3])
def test_evaluation_of_a_tiny_net(tiny_checkpoint: Checkpoint, tmp_path: Path, mode: Mode, wrong: int) -> None:
    """Ten random images, labelled with the net's own classes, but for the last ``wrong`` with their likeliest but one."""
    reference = load_reference(tiny_checkpoint, mode, "cpu")
    generator, found, samples = np.random.default_rng(0), [], []
    for number in range(10):
        path = tmp_path / f"{number}.png"
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
        found.append(reference(load_image(path, reference.preprocessing)))
        ranks = np.argsort(-found[-1].logits)
        samples.append(Sample(path, int(ranks[1 if number >= 10 - wrong else 0])))
    result = evaluate_samples(reference, tmp_path, samples, reference.preprocessing)
    assert (result.images, result.top1, result.top5) == (10, 100 - 10 * wrong, 100)
    interval = proportion_interval(10 - wrong, 10)
    assert result.top1_interval == (100 * interval.low, 100 * interval.high)
    spec = reference.model.backbone.spec
    kept = [[len(index) for index in prediction.kept] for prediction in found]
    costs = [gmacs(tofe_macs(spec, counts) if counts else dense_macs(spec)) for counts in kept]
    assert result.gmacs == pytest.approx(np.mean(costs))
    assert result.mean_kept == pytest.approx(tuple(np.mean(kept, axis=0)) if kept[0] else ())
    assert (mode == "batch") == (result.mean_kept == (9.0, 5.0, 3.0))
    assert set(result.to_json()) == {"top1", "top1_interval", "top5", "images", "gmacs", "mean_kept"}


def test_a_dense_checkpoint_has_no_other_mode(tiny_dense_checkpoint: Checkpoint) -> None:
    assert load_reference(tiny_dense_checkpoint, device="cpu").mode == "dense"
    with pytest.raises(InputError, match="without token selectors; use --mode dense"):
        load_reference(tiny_dense_checkpoint, "batch", "cpu")


@pytest.mark.parametrize("images", [MIN_IMAGES_FOR_RATE - 1, MIN_IMAGES_FOR_RATE])
def test_agreement_is_gated_from_a_hundred_images_on(images: int) -> None:
    wanted = predictions(images)
    turned = images // 10
    # The two likeliest classes of a tenth of the images change places by a hair: no loss of SNR or tokens.
    found = [_with_the_best_two_swapped(item) if number < turned else item for number, item in enumerate(wanted)]
    gates = replace(INT8_GATES, min_snr_db=-100.0)
    failures = compare(wanted, found, None, gates).failures
    assert any("all images" in failure for failure in failures) == (images >= MIN_IMAGES_FOR_RATE)


def _with_the_best_two_swapped(prediction: Prediction) -> Prediction:
    second, best = np.argsort(prediction.logits)[-2:]
    logits = prediction.logits.copy()
    logits[[second, best]] = logits[[best, second]]
    return with_logits(prediction, logits)


def test_a_near_tie_may_go_either_way_in_fp32_and_nowhere_else() -> None:
    def prediction(scale: float, kept: list[int], margin: float) -> Prediction:
        return Prediction(np.array([scale, 0.0], np.float32), (np.array(kept, np.int64),), (margin,))

    clear, tied = prediction(1.0, [1, 2], 0.5), prediction(1.0, [1, 2], 1e-8)
    moved = prediction(0.9, [1, 3], 0.5)
    found = compare([clear, tied], [clear, moved], None, FP32_GATES)
    assert found.passed
    assert (found.images, found.near_ties, found.kept_overlap) == (2, 1, (1.0,))
    assert not compare([clear, clear], [clear, moved], None, FP32_GATES).passed
    int8 = compare([clear, tied], [clear, moved], None, INT8_GATES)
    assert (int8.near_ties, int8.kept_overlap) == (0, (0.75,))


def test_near_ties_alone_are_compared() -> None:
    tied = Prediction(np.array([1.0, 0.0], np.float32), (np.array([1, 2], np.int64),), (1e-8,))
    moved = Prediction(np.array([0.9, 0.0], np.float32), (np.array([1, 3], np.int64),))
    assert not compare([tied], [moved], None, FP32_GATES).passed


@pytest.mark.parametrize(("max_drop", "passed"), [(0.0, False), (0.4, False), (0.5, True), (2.0, True)])
def test_a_drop_of_accuracy_is_held_to_the_point(max_drop: float, passed: bool) -> None:
    """One image of 200 is half a point, and the artifact loses it."""
    reference = predictions(200)
    labels = [int(one.logits.argmax()) for one in reference]
    artifact = [permuted_classes(reference[0]), *reference[1:]]
    gates = replace(INT8_GATES, max_drop=max_drop, min_snr_db=-math.inf)
    (gate,) = [one for one in compare(reference, artifact, labels, gates).gates if one.name == "top-1 drop"]
    assert gate.passed == passed, gate.message
    # The other way round the artifact is better, which no gate minds.
    (gate,) = [one for one in compare(artifact, reference, labels, gates).gates if one.name == "top-1 drop"]
    assert gate.passed


@pytest.mark.parametrize(("images", "text"), [(0, "no image is decided: "), (55, "98.2% on 55 decided images: ")])
def test_agreement_on_no_image_is_not_called_perfect(images: int, text: str) -> None:
    assert on_decided(images, 54 / 55).startswith(text)
