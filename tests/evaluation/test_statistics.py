"""Intervals, tests and summaries against scipy, plain loops, simulation and known values."""

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from scipy.special import softmax  # type: ignore[import-untyped]

from tofe_edge.errors import InputError
from tofe_edge.evaluation.statistics import (
    Interval,
    McNemar,
    agreement,
    bootstrap_difference,
    calibration_error,
    margin_at_cut,
    mcnemar,
    proportion_interval,
    sample_size_for,
    top_k_accuracy,
    top_k_hits,
    worst,
)

Array = npt.NDArray[Any]
counts = st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))
confidences = st.floats(0.01, 0.999)


def paired(both: int, lost: int, gained: int, neither: int = 0) -> tuple[Array, Array]:
    cells = [both, lost, gained, neither]
    return np.repeat([True, True, False, False], cells), np.repeat([True, False, True, False], cells)


def random_logits(seed: int, images: int = 40, classes: int = 7, levels: int | None = None) -> Array:
    """Logits of four standard deviations; with ``levels``, small integers with many ties."""
    generator = np.random.default_rng(seed)
    if levels is not None:
        return generator.integers(0, levels, (images, classes)).astype(np.float32)
    return (4 * generator.standard_normal((images, classes))).astype(np.float32)


def labels_of(seed: int, images: int = 40, classes: int = 7) -> Array:
    return np.random.default_rng(seed + 1000).integers(0, classes, images)


@given(counts, confidences)
def test_wilson_agrees_with_scipy(case: tuple[int, int], confidence: float) -> None:
    found = proportion_interval(*case, confidence)
    wanted = stats.binomtest(*case).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert (found.estimate, found.confidence) == (case[0] / case[1], confidence)


@given(counts, confidences, confidences)
def test_wilson_holds_the_rate_mirrors_and_widens(case: tuple[int, int], one: float, other: float) -> None:
    hits, total = case
    narrow, wide = (proportion_interval(hits, total, confidence) for confidence in sorted((one, other)))
    assert 0 <= narrow.low <= narrow.estimate <= narrow.high <= 1
    assert 0 <= wide.low <= narrow.low + 1e-15 and narrow.high - 1e-15 <= wide.high <= 1
    mirrored = proportion_interval(total - hits, total, narrow.confidence)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((narrow.low, narrow.high), abs=1e-12)


def test_wilson_at_its_ends() -> None:
    for hits in range(1, 300):  # so narrow that rounding alone might put the rate outside
        thin = proportion_interval(hits, 300, 10.0 ** -(1 + hits % 20))
        assert thin.low <= thin.estimate <= thin.high
    assert proportion_interval(0, 10).low == 0.0
    assert proportion_interval(10, 10).high == 1.0
    assert proportion_interval(1, 1).low == pytest.approx(0.20654, abs=1e-5)
    extreme = proportion_interval(5, 10, math.nextafter(1, 0))
    assert 0 < extreme.low < extreme.high < 1


@given(st.integers(0, 20), st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_agrees_with_scipy(both: int, lost: int, gained: int) -> None:
    found = mcnemar(*paired(both, lost, gained, 1))
    images, trials = both + lost + gained + 1, lost + gained
    assert (found.images, found.lost, found.gained) == (images, lost, gained)
    assert found.discordant_rate == trials / images
    if not trials:
        assert (found.p_value, found.mid_p) == (1.0, 1.0)
        return
    point = stats.binom.pmf(min(lost, gained), trials, 0.5)
    assert found.p_value == pytest.approx(stats.binomtest(lost, trials).pvalue, rel=1e-9)
    assert found.mid_p == pytest.approx(1 - point / 2 if lost == gained else found.p_value - point, rel=1e-9)
    assert 0 < found.mid_p <= found.p_value <= 1
    swapped = mcnemar(*paired(both, gained, lost, 1))
    assert (swapped.p_value, swapped.mid_p) == (found.p_value, found.mid_p)


def test_mcnemar_of_published_and_of_large_counts() -> None:
    # Fagerland et al. 2013, section "Example": 1 and 7 discordant of 21, p = 0.0703 and mid-p = 0.0391.
    found = mcnemar(*paired(1, 1, 7, 12))
    assert (found.p_value, found.mid_p) == pytest.approx((0.0703125, 0.0390625))
    large = mcnemar(*paired(0, 24_800, 25_200))
    assert large.p_value == pytest.approx(stats.binomtest(24_800, 50_000).pvalue, rel=1e-8)
    assert mcnemar(*paired(0, 50_000, 0)).p_value == 0.0


def test_nothing_changed_sides() -> None:
    for right in (np.ones(30, bool), np.zeros(30, bool), np.ones(1, bool)):
        assert mcnemar(right, right) == McNemar(len(right), 0, 0, 0.0, 1.0, 1.0)
        assert bootstrap_difference(right, right) == Interval(0.0, 0.0, 0.0, 0.95)


@pytest.mark.parametrize("cells", [(700, 60, 30, 210), (80, 12, 8, 0), (0, 5, 1, 30)])
def test_bootstrap_agrees_with_plain_resampling(cells: tuple[int, int, int, int]) -> None:
    before, after = paired(*cells)
    images = len(before)
    change = after.astype(np.int8) - before.astype(np.int8)
    generator = np.random.default_rng(1)
    plain = [100 * change[generator.integers(0, images, images)].mean() for _ in range(6000)]
    wanted = np.quantile(plain, [0.05, 0.95])
    found = bootstrap_difference(before, after, confidence=0.9)
    spread = float(np.std(plain))
    # A 5 % quantile of 6,000 normal draws has a standard error of 0.027 spreads; steps are of 100 / images points.
    assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=0.12 * spread + 100 / images)
    assert found.estimate == pytest.approx(100 * (after.mean() - before.mean()))


def test_bootstrap_depends_on_its_seed_and_covers_the_true_difference() -> None:
    lost, gained, images = 0.05, 0.03, 1000
    drawn = np.random.default_rng(0).multinomial(images, [1 - lost - gained, lost, gained], 400)
    found = [bootstrap_difference(*paired(*map(int, cells)), seed=0, resamples=1000) for cells in drawn]
    assert 0.915 <= np.mean([one.low <= 100 * (gained - lost) <= one.high for one in found]) <= 0.98
    sides = paired(9000, 400, 300, 300)
    assert bootstrap_difference(*sides, seed=1) != bootstrap_difference(*sides, seed=2)


@given(st.integers(0, 10_000), st.integers(1, 9), st.sampled_from([None, 2, 4]))
def test_top_k_agrees_with_a_stable_sort(seed: int, k: int, levels: int | None) -> None:
    logits, labels = random_logits(seed, levels=levels), labels_of(seed)
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    wanted = [label in best for label, best in zip(labels, ranked)]
    assert top_k_hits(logits, labels, k).tolist() == wanted
    assert top_k_hits(logits.astype(np.uint8 if levels else np.float64), labels, k).tolist() == wanted
    assert top_k_accuracy(logits, labels, k, 0.9) == proportion_interval(sum(wanted), 40, 0.9)


def naive_calibration_error(logits: Array, labels: Array, bins: int) -> float:
    shares = softmax(logits.astype(np.float64), axis=1)
    error = 0.0
    for number in range(bins):
        members = [i for i, row in enumerate(shares) if number / bins < row.max() <= (number + 1) / bins]
        if members:
            accuracy = sum(int(logits[i].argmax() == labels[i]) for i in members) / len(members)
            confidence = sum(shares[i].max() for i in members) / len(members)
            error += len(members) / len(labels) * abs(accuracy - confidence)
    return error


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(0.01, 3))
def test_calibration_error_agrees_with_a_loop(seed: int, bins: int, scale: float) -> None:
    logits, labels = random_logits(seed) * np.float32(scale), labels_of(seed)
    found = calibration_error(logits, labels, bins)
    assert found.expected_error == pytest.approx(naive_calibration_error(logits, labels, bins), abs=1e-9)
    assert found.mean_confidence == pytest.approx(softmax(logits.astype(np.float64), axis=1).max(1).mean())
    assert found.accuracy == top_k_accuracy(logits, labels).estimate
    assert abs(found.accuracy - found.mean_confidence) - 1e-12 <= found.expected_error <= 1


def test_calibration_at_its_ends() -> None:
    sure = 1000 * np.eye(4, dtype=np.float32)
    right, wrong = (calibration_error(sure, labels) for labels in (np.arange(4), np.array([1, 2, 3, 0])))
    assert (right.expected_error, right.mean_confidence, right.accuracy) == (0.0, 1.0, 1.0)
    assert (wrong.expected_error, wrong.mean_confidence, wrong.accuracy) == (1.0, 1.0, 0.0)
    # Two equal classes have a confidence of exactly 1/2, the upper end of the first of two bins; 0.9 is in the second.
    edge = calibration_error(np.log([[0.5, 0.5], [0.9, 0.1]]), np.array([0, 1]), 2)
    assert edge.expected_error == pytest.approx((0.5 + 0.9) / 2)
    assert calibration_error(np.array([[3e38, -3e38]], np.float64), np.array([0])).expected_error == 0.0


@given(st.integers(0, 10_000), st.sampled_from([3, 5, 9]), st.floats(0, 3), st.sampled_from([None, 3]))
def test_agreement_agrees_with_sets(seed: int, classes: int, noise: float, levels: int | None) -> None:
    wanted = random_logits(seed, 30, classes, levels)
    found = wanted + np.float32(noise) * random_logits(seed + 1, 30, classes)
    result = agreement(wanted, found, confidence=0.9)
    best = min(5, classes)
    overlap = [
        len({*np.argsort(-a, kind="stable")[:5]} & {*np.argsort(-b, kind="stable")[:5]}) / best
        for a, b in zip(wanted, found)
    ]
    same = wanted.argmax(1) == found.argmax(1)
    ranked = np.sort(softmax(wanted.astype(np.float64), axis=1), axis=1)
    decided = ranked[:, -1] - ranked[:, -2] >= 0.1
    assert result.top1 == proportion_interval(int(same.sum()), 30, 0.9)
    assert result.top5_overlap == pytest.approx(np.mean(overlap))
    assert (result.images, result.decided_images, result.decided_margin) == (30, decided.sum(), 0.1)
    if decided.any():
        assert result.decided_top1 == proportion_interval(int(same[decided].sum()), int(decided.sum()), 0.9)


def test_agreement_at_its_ends() -> None:
    logits = random_logits(0)
    alike = agreement(logits, logits)
    assert (alike.top1.estimate, alike.top1.high, alike.top5_overlap) == (1.0, 1.0, 1.0)
    assert alike.decided_top1 is not None and alike.decided_top1.estimate == 1.0
    undecided = agreement(np.zeros((1, 2)), np.array([[0.0, 1.0]]))
    assert (undecided.top1.estimate, undecided.decided_images, undecided.decided_top1) == (0.0, 0, None)
    assert agreement(logits, -logits).top1.estimate == 0.0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50), st.integers(0, 5))
def test_margins_at_the_cut(values: list[float], unknown: int) -> None:
    found = margin_at_cut(np.array([math.inf] * unknown + values))
    assert (found.images, found.unknown) == (len(values), unknown)
    assert list(found.quantiles) == ["p5", "p25", "p50", "p75", "p95"]
    assert found.quantiles["p50"] == pytest.approx(
        sorted(values + values)[len(values) - 1] / 2 + sorted(values + values)[len(values)] / 2
    )
    ordered = list(found.quantiles.values())
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(ordered)) and min(values) <= ordered[0]


@given(st.integers(0, 10_000), st.integers(1, 50), st.booleans())
def test_the_worst_images_agree_with_a_sort(seed: int, count: int, labelled: bool) -> None:
    wanted = random_logits(seed)
    found = wanted + random_logits(seed + 1)
    wanted[10:20], found[10:20] = wanted[0], found[0]  # equals: by index
    labels = labels_of(seed) if labelled else None
    before, after = (softmax(side.astype(np.float64), axis=1) for side in (wanted, found))
    drop = [float(a[a.argmax()] - b[a.argmax()]) for a, b in zip(before, after)]
    result = worst(wanted, found, labels, count)
    order = [one.index for one in result]
    assert [drop[row] for row in order] == pytest.approx(sorted(drop, reverse=True)[:count], abs=1e-9)
    equals = [row for row in order if row in {0, *range(10, 20)}]
    assert equals == sorted(equals) and len(set(order)) == min(count, 40)
    for one in result:
        row = one.index
        assert (one.reference_class, one.artifact_class) == (before[row].argmax(), after[row].argmax())
        assert one.label == (None if labels is None else labels[row])
        assert one.reference_probability == pytest.approx(before[row].max())
        assert one.remaining_probability == pytest.approx(after[row, one.reference_class])
        assert one.artifact_probability == pytest.approx(after[row].max())


def test_the_worst_of_one_image() -> None:
    (only,) = worst(np.array([[2.0, 0.0]]), np.array([[0.0, 2.0]]), np.array([1]))
    high = 1 / (1 + math.exp(-2))
    right, wrong = pytest.approx(high), pytest.approx(1 - high)
    assert list(only.to_json().values()) == [0, 1, 0, right, wrong, 1, right]


def test_sample_size_is_the_formula_of_connor() -> None:
    z_a, z_b = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    wanted = ((z_a * 0.05**0.5 + z_b * (0.05 - 0.005**2) ** 0.5) / 0.005) ** 2
    assert sample_size_for(0.5, 0.05) == math.ceil(wanted) == 15_696
    assert sample_size_for(100 * (1 + 5e-10), 1.0) == 4
    assert sample_size_for(1.1, 0.011) < sample_size_for(1.1, 0.02)


@given(st.floats(0.01, 1), st.floats(0.01, 0.99), st.floats(0.5, 0.98), st.floats(0.001, 0.2))
def test_a_smaller_drop_or_certainty_takes_more_images(rate: float, part: float, power: float, level: float) -> None:
    drop = 100 * rate * part
    images = sample_size_for(drop, rate, power, level)
    assert 1 <= images <= sample_size_for(0.9 * drop, rate, power, level)
    assert images <= sample_size_for(drop, rate, power + 0.01, level)
    assert images <= sample_size_for(drop, rate, power, 0.9 * level)


LOGITS = random_logits(0, 4, 3)
LABELS = np.array([0, 1, 2, 0])
RIGHT = np.array([True, False])


def spoiled(value: float) -> Array:
    logits = LOGITS.copy()
    logits[2, 1] = value
    return logits


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: proportion_interval(0, 0), "0 of 0"),
        (lambda: proportion_interval(3, 2), "3 of 2"),
        (lambda: proportion_interval(-1, 2), "-1 of 2"),
        (lambda: proportion_interval(1, 2, 1.0), "confidence"),
        (lambda: proportion_interval(1, 2, math.nan), "confidence"),
        (lambda: mcnemar(RIGHT[:0], RIGHT[:0]), "same images"),
        (lambda: mcnemar(RIGHT, RIGHT[:1]), "same images"),
        (lambda: mcnemar(RIGHT[None], RIGHT[None]), "same images"),
        (lambda: mcnemar(RIGHT, np.array([0, 2])), "bool and int64"),
        (lambda: bootstrap_difference(RIGHT, RIGHT, resamples=0), "0 resamples"),
        (lambda: bootstrap_difference(RIGHT, RIGHT, seed=-1), "seed -1"),
        (lambda: bootstrap_difference(RIGHT, RIGHT, confidence=0.0), "confidence"),
        (lambda: top_k_hits(LOGITS, LABELS, 0), "k of at least 1"),
        (lambda: top_k_hits(LOGITS[:0], LABELS[:0]), r"\(0, 3\)"),
        (lambda: top_k_hits(LOGITS[:, :1], LABELS), r"\(4, 1\)"),
        (lambda: top_k_hits(LOGITS[0], LABELS), r"\(3,\)"),
        (lambda: top_k_hits(LOGITS.astype(complex), LABELS), "complex128"),
        (lambda: top_k_hits(LOGITS, LABELS[:3]), "one for each of 4"),
        (lambda: top_k_hits(LOGITS, LABELS.astype(float)), "float64 are not integers"),
        (lambda: top_k_accuracy(LOGITS, LABELS + 1), "labels 1 to 3 are not in 0 to 2"),
        (lambda: calibration_error(LOGITS, LABELS - 1), "labels -1 to 1"),
        (lambda: calibration_error(LOGITS, LABELS, 0), "at least 1 bin"),
        (lambda: calibration_error(spoiled(math.nan), LABELS), "logits of 1 images are not finite; the first is 2"),
        (lambda: agreement(LOGITS, spoiled(math.inf)), "the artifact's logits of 1"),
        (lambda: agreement(spoiled(-math.inf), LOGITS), "the reference's logits of 1"),
        (lambda: agreement(LOGITS, LOGITS[:3]), "not of one shape"),
        (lambda: agreement(LOGITS, LOGITS[:, :2]), "not of one shape"),
        (lambda: worst(LOGITS, spoiled(math.nan), None), "not finite"),
        (lambda: worst(LOGITS, LOGITS, LABELS + 1), "labels 1 to 3"),
        (lambda: worst(LOGITS, LOGITS, None, 0), "count of at least 1"),
        (lambda: margin_at_cut(np.array([])), "none has a known margin"),
        (lambda: margin_at_cut(np.array([math.inf])), "of 1 images none"),
        (lambda: margin_at_cut(np.array([math.nan])), "not one number per image"),
        (lambda: margin_at_cut(np.array([-math.inf])), "not one number per image"),
        (lambda: margin_at_cut(np.zeros((2, 2))), "not one number per image"),
        (lambda: sample_size_for(0.0, 0.1), "not 0"),
        (lambda: sample_size_for(11.0, 0.1), r"\(0, 10\]"),
        (lambda: sample_size_for(1.0, 0.0), "discordant rate"),
        (lambda: sample_size_for(1.0, 1.1), "discordant rate"),
        (lambda: sample_size_for(1.0, 0.1, power=0.4), "power"),
        (lambda: sample_size_for(1.0, 0.1, power=1.0), "power"),
        (lambda: sample_size_for(1.0, 0.1, significance=1.0), "significance"),
    ],
)
def test_what_is_no_sample_is_refused(call: Callable[[], object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        call()


def test_results_are_plain_json() -> None:
    results: list[Any] = [
        proportion_interval(3, 4),
        mcnemar(RIGHT, ~RIGHT),
        bootstrap_difference(RIGHT, ~RIGHT),
        top_k_accuracy(LOGITS, LABELS),
        calibration_error(LOGITS, LABELS),
        agreement(LOGITS, LOGITS[::-1]),
        margin_at_cut(np.array([0.5])),
        *worst(LOGITS, LOGITS[::-1], LABELS),
    ]
    for result in results:
        assert json.loads(json.dumps(result.to_json(), allow_nan=False)) == result.to_json()
    assert results[5].to_json()["top1"].keys() == {"estimate", "low", "high", "confidence"}


def test_statistics_need_numpy_alone() -> None:
    program = (
        "import sys, tofe_edge.evaluation.statistics; print(*{'torch', 'scipy', 'sklearn', 'PIL'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
