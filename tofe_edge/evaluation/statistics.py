"""Statistics of an artifact against its reference: intervals, paired tests, calibration. Pure functions on arrays.

Rates are shares in [0, 1]; differences of accuracy are in points (hundredths), artifact less reference: a drop is
negative. Logits are ``(images, classes)`` of any real type, labels ``(images,)`` integers. Every function raises
``InputError`` if an argument is outside what its text says, there is no image, or logits are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import require
from tofe_edge.evaluation.parity import DECIDED_MARGIN, top2_margin
from tofe_edge.evaluation.prediction import Prediction, probabilities

Array = npt.NDArray[Any]


CONFIDENCE = 0.95


@dataclass(frozen=True)
class _Result:
    def to_json(self) -> dict[str, Any]:
        """The fields under their own names, which are therefore stable keys: add, never rename."""
        return asdict(self)


@dataclass(frozen=True)
class Interval(_Result):
    """An estimate and its two-sided interval, in one unit; ``confidence`` in (0, 1)."""

    estimate: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class McNemar(_Result):
    """Images that changed sides, and how likely so uneven a split is if both sides are equally accurate."""

    images: int
    lost: int
    gained: int
    """Right in the reference alone, and in the artifact alone."""
    discordant_rate: float
    """Share of the images that are either: what :func:`sample_size_for` asks for."""
    p_value: float
    mid_p: float
    """Two-sided both: the exact value, never too small and often too large, and one nearer the nominal level."""


@dataclass(frozen=True)
class Calibration(_Result):
    """Confidence is the probability (softmax) of the top class; a mean above the accuracy is overconfidence."""

    images: int
    accuracy: float
    mean_confidence: float
    expected_error: float
    bins: int


@dataclass(frozen=True)
class Agreement(_Result):
    """How often two sides name the same classes; ``decided_top1`` is ``None`` if no image is decided."""

    images: int
    top1: Interval
    top5_overlap: float
    """Mean share of the reference's five likeliest classes that are among the artifact's; of all if there are fewer."""
    decided_margin: float
    decided_images: int
    """Images whose two likeliest classes the reference holds at least ``decided_margin`` of probability apart."""
    decided_top1: Interval | None


@dataclass(frozen=True)
class Margins(_Result):
    """Quantiles ``p5``, ``p25``, ``p50``, ``p75`` and ``p95``, interpolated linearly, of the ``images`` known margins."""

    images: int
    unknown: int
    quantiles: dict[str, float]


@dataclass(frozen=True)
class Change(_Result):
    """The top class of each side and its probability there; what the artifact leaves to the reference's is *remaining*."""

    index: int
    label: int | None
    reference_class: int
    reference_probability: float
    remaining_probability: float
    artifact_class: int
    artifact_probability: float

    @property
    def same(self) -> bool:
        """Whether both sides name the same class."""
        return self.artifact_class == self.reference_class


def proportion_interval(hits: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a rate (Wilson 1927), for ``0 <= hits <= total``.

    With p = hits / n and z the normal quantile of (1 + confidence) / 2, the ends are
    (p + z²/2n ± z √(p (1 - p) / n + z²/4n²)) / (1 + z²/n).
    """
    require(total >= 1 and 0 <= hits <= total, f"a rate is 0 to n images of n, at least one; not {hits} of {total}")
    z = -NormalDist().inv_cdf(_tail(confidence))
    rate, scale = hits / total, 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / scale
    half = z * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total)) / scale
    low = centre - half if hits else 0.0  # where rounding would leave 1e-18
    high = centre + half if hits < total else 1.0
    return Interval(rate, low, high, confidence)


def mcnemar(reference_right: Array, artifact_right: Array) -> McNemar:
    """Exact test of equal accuracy on the same images (McNemar 1947); both arguments are ``(images,)`` of bool.

    Given n = lost + gained, either count is Binomial(n, 1/2) if both sides are equally accurate. With k the smaller,
    p = min(1, 2 P(X <= k)) and mid-p = p - P(X = k), or 1 - P(X = k) / 2 if lost = gained (Fagerland, Lydersen and
    Laake 2013, BMC Medical Research Methodology 13:91). If no image changed sides both are 1.
    """
    images, lost, gained = _discordant(reference_right, artifact_right)
    trials, fewer = lost + gained, min(lost, gained)
    if not trials:
        return McNemar(images, lost, gained, 0.0, 1.0, 1.0)
    log_ways = math.lgamma(trials + 1) - math.lgamma(fewer + 1) - math.lgamma(trials - fewer + 1)
    point = math.exp(log_ways - trials * math.log(2))
    # P(X = i - 1) / P(X = i) = i / (n - i + 1), under 1 below the middle: summed from k down nothing overflows.
    down = np.arange(fewer, 0, -1)
    exact = min(1.0, 2 * point * (1 + float(np.cumprod(down / (trials - down + 1)).sum())))
    return McNemar(images, lost, gained, trials / images, exact, 1 - point / 2 if lost == gained else exact - point)


def bootstrap_difference(
    reference_right: Array,
    artifact_right: Array,
    seed: int = 0,
    resamples: int = 10_000,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Difference of accuracy in points, with the percentile interval of the paired bootstrap (Efron and Tibshirani 1993).

    To resample n images is to draw from a multinomial how many fall in each cell of right and wrong: the difference is
    100 (gained - lost) / n. If no image changed sides the interval is a point, and proves little: a resample cannot
    hold what the sample does not.
    """
    images, lost, gained = _discordant(reference_right, artifact_right)
    require(resamples >= 1 and seed >= 0, f"bootstrap: {resamples} resamples with seed {seed}; give 1 and 0 at least")
    tail = _tail(confidence)
    # The two concordant cells add nothing to the difference: drawn as one, they leave its distribution as it is.
    cells = [lost / images, gained / images, (images - lost - gained) / images]
    drawn = np.random.default_rng(seed).multinomial(images, cells, size=resamples)
    low, high = np.quantile(100 * (drawn[:, 1] - drawn[:, 0]) / images, [tail, 1 - tail])
    return Interval(100 * (gained - lost) / images, float(low), float(high), confidence)


def top_k_hits(logits: Array, labels: Array, k: int = 1) -> npt.NDArray[np.bool_]:
    """Whether each label is among the ``k >= 1`` likeliest classes, the lower class first among equals: ``(images,)``."""
    logits, labels = _logits(logits), np.asarray(labels)
    require(k >= 1, f"top-k needs a k of at least 1, not {k}")
    _check_labels(labels, *logits.shape)
    return np.take_along_axis(_among_best(logits, k), labels[:, None], axis=1)[:, 0]


def top_k_accuracy(logits: Array, labels: Array, k: int = 1, confidence: float = CONFIDENCE) -> Interval:
    """Share of images whose label is among the ``k`` likeliest classes, with its Wilson interval."""
    hits = top_k_hits(logits, labels, k)
    return proportion_interval(int(hits.sum()), len(hits), confidence)


def calibration_error(logits: Array, labels: Array, bins: int = 15) -> Calibration:
    """Expected calibration error (Guo et al. 2017, Eq. 3): Σ_m |B_m| / n · |accuracy(B_m) - confidence(B_m)|.

    B_m holds the images whose confidence is in ((m - 1) / bins, m / bins]: bins of equal width, at least one.
    """
    right = top_k_hits(logits, labels)
    require(bins >= 1, f"calibration needs at least 1 bin, not {bins}")
    confidence = probabilities(np.asarray(logits)).max(1)
    member = np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1
    error = float(np.abs(np.bincount(member, weights=right - confidence)).sum() / len(right))
    return Calibration(len(right), float(right.mean()), float(confidence.mean()), error, bins)


def agreement(
    reference_logits: Array,
    artifact_logits: Array,
    decided_margin: float = DECIDED_MARGIN,
    confidence: float = CONFIDENCE,
) -> Agreement:
    """How often two sides name the same top class and the same five likeliest, whatever the label."""
    expected, actual = _pair(reference_logits, artifact_logits)
    same = expected.argmax(1) == actual.argmax(1)
    best = min(5, expected.shape[1])
    shared = (_among_best(expected, best) & _among_best(actual, best)).sum(1)
    decided = top2_margin(expected) >= decided_margin
    clear = int(decided.sum())
    return Agreement(
        images=len(same),
        top1=proportion_interval(int(same.sum()), len(same), confidence),
        top5_overlap=float(shared.mean() / best),
        decided_margin=decided_margin,
        decided_images=clear,
        decided_top1=proportion_interval(int(same[decided].sum()), clear, confidence) if clear else None,
    )


def margin_at_cut(margins: Array) -> Margins:
    """Quantiles of score margins at the cut, ``(images,)`` as ``Prediction.margin`` has them: infinite is not known."""
    values = np.asarray(margins, np.float64)
    valid = values.ndim == 1 and not np.isnan(values).any() and not np.isneginf(values).any()
    require(valid, f"margins {values.shape} are not one number per image (infinite if not known)")
    known = values[np.isfinite(values)]
    require(len(known) > 0, f"of {len(values)} images none has a known margin; has the net no token selectors?")
    quantiles = {f"p{percent}": float(np.percentile(known, percent)) for percent in (5, 25, 50, 75, 95)}
    return Margins(len(known), len(values) - len(known), quantiles)


def worst(reference_logits: Array, artifact_logits: Array, labels: Array | None, count: int = 10) -> tuple[Change, ...]:
    """The ``count >= 1`` images on which the reference's top class loses most probability, by index among equals."""
    expected, actual = _pair(reference_logits, artifact_logits)
    require(count >= 1, f"worst needs a count of at least 1, not {count}")
    if labels is not None:
        _check_labels(np.asarray(labels), *expected.shape)
    before, after = probabilities(expected), probabilities(actual)
    rows, named, now = np.arange(len(expected)), expected.argmax(1), actual.argmax(1)
    order = np.argsort(after[rows, named] - before[rows, named], kind="stable")[:count]
    columns = named, before[rows, named], after[rows, named], now, after[rows, now]
    known = [None] * len(order) if labels is None else np.asarray(labels)[order].tolist()
    return tuple(map(Change, order.tolist(), known, *(column[order].tolist() for column in columns)))


def sample_size_for(drop_points: float, discordant_rate: float, power: float = 0.8, significance: float = 0.05) -> int:
    """Images that a paired, two-sided test needs to see a drop of accuracy (Connor 1987, Biometrics 43:207-211).

    With r the discordant rate and d in (0, r] the drop as a share, n = (z_a √r + z_b √(r - d²))² / d², where z_a and z_b
    are the normal quantiles of 1 - significance / 2 and of ``power`` in [0.5, 1). The exact p needs a few more than mid-p.
    """
    drop, rate = drop_points / 100, discordant_rate
    valid = 0 < rate <= 1 and 0.5 <= power < 1
    require(valid, f"a discordant rate is in (0, 1] and power in [0.5, 1), not {rate:g} and {power:g}")
    z_a, z_b = -NormalDist().inv_cdf(_tail(1 - significance)), NormalDist().inv_cdf(power)
    # 1.1 / 100 > 0.011 in floating point, hence the factor.
    require(0 < drop <= rate * (1 + 1e-9), f"a drop is in (0, {100 * rate:g}], the % discordant; not {drop_points:g}")
    return math.ceil(((z_a * math.sqrt(rate) + z_b * math.sqrt(max(0.0, rate - drop * drop))) / drop) ** 2)


def _tail(confidence: float) -> float:  # beyond either end of a two-sided interval
    require(0 < confidence < 1, f"confidence, or 1 - significance, is in (0, 1), such as 0.95, not {confidence:g}")
    return (1 - confidence) / 2


def _discordant(reference_right: Array, artifact_right: Array) -> tuple[int, int, int]:
    """Images, and how many of them the reference alone and the artifact alone has right."""
    before, after = np.asarray(reference_right), np.asarray(artifact_right)
    paired = before.ndim == 1 and before.shape == after.shape and before.size > 0
    require(paired, f"paired statistics need the same images on both sides, not {before.shape} and {after.shape}")
    require(before.dtype == after.dtype == np.bool_, f"right or wrong is bool, not {before.dtype} and {after.dtype}")
    return len(before), int((before & ~after).sum()), int((after & ~before).sum())


def _logits(logits: Array, whose: str = "the") -> Array:
    array = np.asarray(logits)
    valid = array.ndim == 2 and len(array) >= 1 and array.shape[1] >= 2 and array.dtype.kind in "fiu"
    require(valid, f"{whose} logits {array.shape} {array.dtype} are not (images, classes) of numbers, from (1, 2) up")
    finite = np.isfinite(array).all(1)
    require(finite.all(), f"{whose} logits of {(~finite).sum()} images are not finite; the first is {finite.argmin()}")
    return array


def _pair(reference_logits: Array, artifact_logits: Array) -> tuple[Array, Array]:
    expected, actual = _logits(reference_logits, "the reference's"), _logits(artifact_logits, "the artifact's")
    require(
        expected.shape == actual.shape, f"reference and artifact are not of one shape: {expected.shape}, {actual.shape}"
    )
    return expected, actual


def _check_labels(labels: Array, images: int, classes: int) -> None:
    valid = labels.shape == (images,) and labels.dtype.kind in "iu"
    require(valid, f"labels {labels.shape} {labels.dtype} are not integers, one for each of {images} images")
    low, high = labels.min(), labels.max()
    require(low >= 0 and high < classes, f"labels {low} to {high} are not in 0 to {classes - 1}; of another data set?")


def _among_best(logits: Array, k: int) -> npt.NDArray[np.bool_]:
    """Mask ``(images, classes)`` of the ``k`` largest logits of each row, the lower class first among equals."""
    k = min(k, logits.shape[1])
    least = np.partition(logits, -k, axis=1)[:, -k, None]
    above, level = logits > least, logits == least
    mask: npt.NDArray[np.bool_] = above | (level & (level.cumsum(1) <= k - above.sum(1, keepdims=True)))
    return mask


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of both sides on labelled images, as shares; differences in points."""

    top1_reference: Interval
    top1_artifact: Interval
    top5_reference: Interval
    top5_artifact: Interval
    difference: Interval
    """Artifact less reference, paired bootstrap."""
    mcnemar: McNemar
    calibration_reference: Calibration
    calibration_artifact: Calibration
    images_to_see_half_a_point: int | None
    """That a paired test needs, at this rate of changes, to see a drop of half a point; ``None`` if nothing changed."""

    @property
    def largest_drop(self) -> float:
        """The most points that top-1 may have fallen by: the end of the interval of the difference.

        The bootstrap knows nothing of what was not seen: no image lost of n leaves at least z² / (n + z²) (Wilson).
        """
        unseen = proportion_interval(0, self.mcnemar.images, self.difference.confidence).high
        return max(-self.difference.low, 100 * unseen)


@dataclass(frozen=True)
class Analysis:
    """Everything but the gates. ``accuracy`` is ``None`` without labels, ``margins`` empty for a dense net."""

    agreement: Agreement
    accuracy: Accuracy | None
    margins: tuple[Margins, ...]
    """Per stage: how clearly the reference's selector decides."""
    worst: tuple[Change, ...]
    worst_names: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Stable keys of ``tofe-edge parity --json`` under ``analysis``."""
        document = asdict(self)
        names = document.pop("worst_names")
        document["worst"] = [{"image": name, **change} for name, change in zip(names, document["worst"])]
        return document


_HALF_A_POINT = 0.5


def analyse(
    reference: Sequence[Prediction],
    artifact: Sequence[Prediction],
    labels: Sequence[int] | None,
    names: Sequence[str],
    worst_count: int = 10,
    confidence: float = CONFIDENCE,
) -> Analysis:
    """Statistics of predictions of the same images.

    Args:
        names: of the images, for the list of the worst.
        confidence: of the interval of the difference in accuracy.

    Raises:
        InputError: logits are not finite, or a label is no class.
    """
    expected = np.stack([prediction.logits for prediction in reference])
    actual = np.stack([prediction.logits for prediction in artifact])
    known = None if labels is None else np.asarray(labels)
    changes = worst(expected, actual, known, min(worst_count, len(expected)))
    stages = min(len(prediction.margins) for prediction in reference)
    return Analysis(
        agreement=agreement(expected, actual),
        accuracy=None if known is None else _accuracy(expected, actual, known, confidence),
        margins=tuple(
            margin_at_cut(margins)
            for stage in range(stages)
            if np.isfinite(margins := np.array([one.margins[stage] for one in reference])).any()
        ),
        worst=changes,
        worst_names=tuple(names[change.index] for change in changes),
    )


def _accuracy(expected: np.ndarray, actual: np.ndarray, labels: np.ndarray, confidence: float) -> Accuracy:
    right = top_k_hits(expected, labels), top_k_hits(actual, labels)
    test = mcnemar(*right)
    changed = test.discordant_rate
    return Accuracy(
        top1_reference=top_k_accuracy(expected, labels),
        top1_artifact=top_k_accuracy(actual, labels),
        top5_reference=top_k_accuracy(expected, labels, 5),
        top5_artifact=top_k_accuracy(actual, labels, 5),
        difference=bootstrap_difference(*right, confidence=confidence),
        mcnemar=test,
        calibration_reference=calibration_error(expected, labels),
        calibration_artifact=calibration_error(actual, labels),
        images_to_see_half_a_point=sample_size_for(_HALF_A_POINT, changed) if changed >= _HALF_A_POINT / 100 else None,
    )
