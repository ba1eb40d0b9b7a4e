"""Does an artifact still predict what its reference predicts, and how sure may one be? Pure functions on arrays.

Rates are shares in [0, 1]; differences of accuracy are in points (hundredths), artifact less reference, so that a drop
is negative. Logits are ``(images, classes)`` of any real type and labels ``(images,)`` of integers. Functions raise
:class:`InputError` where an argument is outside what their text says, where there is no image, and where logits are
not finite: no figure of this module is a NaN.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import InputError
from tofe_edge.parity import DECIDED_MARGIN, top2_margin

Array = npt.NDArray[Any]
QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}


class _Result:
    def to_json(self) -> dict[str, Any]:
        """The fields under their own names, which are therefore stable keys: add, never rename."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class Interval(_Result):
    """An estimate and its two-sided interval, all in one unit; ``confidence`` in (0, 1)."""

    estimate: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class McNemar(_Result):
    """Images that changed sides, and how likely so uneven a split is if both sides are equally accurate."""

    images: int
    lost: int
    """Right in the reference, wrong in the artifact."""
    gained: int
    """Wrong in the reference, right in the artifact."""
    p_value: float
    """Exact and two-sided; never too small, often too large."""
    mid_p: float
    """The same less half the probability of the split itself in each tail: nearer the nominal level."""

    @property
    def discordant_rate(self) -> float:
        """Share of images right on one side only: what :func:`sample_size_for` asks for."""
        return (self.lost + self.gained) / self.images


@dataclass(frozen=True)
class Difference(_Result):
    """Accuracy of the artifact less that of the reference, in points."""

    images: int
    points: Interval
    resamples: int
    seed: int


@dataclass(frozen=True)
class Calibration(_Result):
    """Confidence is the softmax probability of the top class. Mean confidence above accuracy: the net is overconfident."""

    images: int
    accuracy: float
    mean_confidence: float
    expected_error: float
    bins: int


@dataclass(frozen=True)
class Agreement(_Result):
    """How often two sides name the same classes."""

    images: int
    top1: Interval
    top5_overlap: float
    """Mean share of the reference's five likeliest classes that are among the artifact's; of all where there are fewer."""
    decided_images: int
    """Images whose two likeliest classes the reference holds at least ``decided_margin`` of probability apart."""
    decided_margin: float
    decided_top1: Interval | None
    """Top-1 agreement among those; ``None`` where there are none."""


@dataclass(frozen=True)
class Margins(_Result):
    """Quantiles, by linear interpolation, of the ``images`` margins that are known."""

    images: int
    unknown: int
    quantiles: dict[str, float]


@dataclass(frozen=True)
class Change(_Result):
    """One image on which two sides differ. Probabilities are softmax of the logits."""

    index: int
    reference_class: int
    reference_probability: float
    """The reference's, of its own top class."""
    remaining_probability: float
    """The artifact's, of the reference's top class."""
    artifact_class: int
    artifact_probability: float
    """The artifact's, of its own top class."""
    label: int | None


@dataclass(frozen=True)
class SampleSize(_Result):
    """``images`` needed to see a drop of ``drop_points`` with probability ``power``."""

    images: int
    drop_points: float
    discordant_rate: float
    power: float
    significance: float


def proportion_interval(hits: int, total: int, confidence: float = 0.95) -> Interval:
    """Score interval of a rate (Wilson 1927), for ``0 <= hits <= total``.

    With p = hits / total and z the normal quantile of (1 + confidence) / 2, its ends are
    (p + z²/2n ± z √(p (1 - p) / n + z²/4n²)) / (1 + z²/n).
    """
    if total < 1 or not 0 <= hits <= total:
        raise InputError(f"a rate is of 0 to n images among n, at least one; {hits} of {total} is none")
    z = _two_sided_z(_inside("confidence", confidence))
    rate, scale = hits / total, 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / scale
    half = z * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total)) / scale
    # Rounding must not leave 1e-18 for 0, nor put the rate outside.
    low = min(rate, centre - half) if hits else 0.0
    high = max(rate, centre + half) if hits < total else 1.0
    return Interval(rate, low, high, confidence)


def mcnemar(reference_right: Array, artifact_right: Array) -> McNemar:
    """Test of equal accuracy on the same images (McNemar 1947), exact; both arguments are ``(images,)`` of bool.

    Given n = lost + gained, the smaller count k is Binomial(n, 1/2) if both sides are equally accurate, so
    p = min(1, 2 P(X <= k)) and mid-p = p - P(X = k), or 1 - P(X = k) / 2 where lost = gained (Fagerland, Lydersen and
    Laake 2013, BMC Medical Research Methodology 13:91). Where no image changed sides both are 1.
    """
    images, lost, gained = _discordant(reference_right, artifact_right)
    trials, fewer = lost + gained, min(lost, gained)
    if not trials:
        return McNemar(images, 0, 0, 1.0, 1.0)
    log_ways = math.lgamma(trials + 1) - math.lgamma(fewer + 1) - math.lgamma(trials - fewer + 1)
    point = math.exp(log_ways - trials * math.log(2))
    # P(X = i - 1) / P(X = i) = i / (n - i + 1), at most 1 below the middle: the sum from k down neither over- nor underflows.
    down = np.arange(fewer, 0, -1)
    tail = point * (1 + float(np.cumprod(down / (trials - down + 1)).sum()))
    exact = min(1.0, 2 * tail)
    return McNemar(images, lost, gained, exact, 1 - point / 2 if lost == gained else exact - point)


def bootstrap_difference(
    reference_right: Array, artifact_right: Array, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95
) -> Difference:
    """Percentile interval of the difference of accuracy under resampling of images (Efron and Tibshirani 1993, ch. 13).

    A resample of n images is a multinomial draw of how many fall in each cell of right and wrong, and the difference
    is 100 (gained - lost) / n points. Where no image changed sides the interval is a point: a resample cannot hold
    what the sample does not, and ``detectable_drop`` says how little that proves.
    """
    images, lost, gained = _discordant(reference_right, artifact_right)
    _inside("confidence", confidence)
    if resamples < 1 or seed < 0:
        raise InputError(f"bootstrap needs a resample and a seed of at least 0, not {resamples} and seed {seed}")
    # The two concordant cells add nothing to the difference and are drawn as one, which leaves its distribution as it is.
    cells = [lost / images, gained / images, (images - lost - gained) / images]
    drawn = np.random.default_rng(seed).multinomial(images, cells, size=resamples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(100 * (drawn[:, 1] - drawn[:, 0]) / images, [tail, 1 - tail])
    points = Interval(100 * (gained - lost) / images, float(low), float(high), confidence)
    return Difference(images, points, resamples, seed)


def top_k_hits(logits: Array, labels: Array, k: int = 1) -> npt.NDArray[np.bool_]:
    """Whether each label is among the ``k`` likeliest classes, the lower class first among equals: ``(images,)``."""
    logits = _logits(logits)
    labels = _labels(labels, logits)
    if k < 1:
        raise InputError(f"top-k needs a k of at least 1, not {k}")
    hits: npt.NDArray[np.bool_] = _among_best(logits, k)[np.arange(len(labels)), labels]
    return hits


def top_k_accuracy(logits: Array, labels: Array, k: int = 1, confidence: float = 0.95) -> Interval:
    """Share of images whose label is among the ``k`` likeliest classes, with its Wilson interval."""
    hits = top_k_hits(logits, labels, k)
    return proportion_interval(int(hits.sum()), len(hits), confidence)


def calibration_error(logits: Array, labels: Array, bins: int = 15) -> Calibration:
    """Expected calibration error (Guo et al. 2017, Eq. 3): Σ_m |B_m| / n · |accuracy(B_m) - confidence(B_m)|.

    B_m holds the images whose confidence is in ((m - 1) / bins, m / bins]: bins of equal width.
    """
    right = top_k_hits(logits, labels)
    if bins < 1:
        raise InputError(f"calibration needs at least 1 bin, not {bins}")
    confidence = _probabilities(np.asarray(logits)).max(1)
    member = np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1
    gaps = np.bincount(member, weights=right - confidence, minlength=bins)
    error = float(np.abs(gaps).sum() / len(right))
    return Calibration(len(right), float(right.mean()), float(confidence.mean()), error, bins)


def agreement(
    reference_logits: Array, artifact_logits: Array, decided_margin: float = DECIDED_MARGIN, confidence: float = 0.95
) -> Agreement:
    """How often two sides name the same top class and the same five likeliest, whatever the label; ``(n, classes)`` each."""
    wanted, found = _pair(reference_logits, artifact_logits)
    same = wanted.argmax(1) == found.argmax(1)
    best = min(5, wanted.shape[1])
    shared = (_among_best(wanted, best) & _among_best(found, best)).sum(1)
    with np.errstate(over="ignore"):
        decided = top2_margin(wanted) >= decided_margin
    clear = int(decided.sum())
    return Agreement(
        images=len(same),
        top1=proportion_interval(int(same.sum()), len(same), confidence),
        top5_overlap=float(shared.mean() / best),
        decided_images=clear,
        decided_margin=decided_margin,
        decided_top1=proportion_interval(int(same[decided].sum()), clear, confidence) if clear else None,
    )


def margin_at_cut(margins: Array) -> Margins:
    """Quantiles of score margins at the cut, ``(images,)`` as in ``Prediction.margin``: infinite where not known."""
    values = np.asarray(margins, dtype=np.float64)
    if values.ndim != 1 or np.isnan(values).any() or np.isneginf(values).any():
        raise InputError(f"margins are one number an image, infinite where not known; got NaN, -inf or shape {values.shape}")
    known = values[np.isfinite(values)]
    if not len(known):
        raise InputError(f"margins: of {len(values)} images none has a known margin; do they come from a dense net?")
    found = np.quantile(known, list(QUANTILES.values())).tolist()
    return Margins(len(known), len(values) - len(known), dict(zip(QUANTILES, found)))


def worst(reference_logits: Array, artifact_logits: Array, labels: Array | None, count: int = 10) -> tuple[Change, ...]:
    """The ``count`` images on which the reference's top class loses most probability, by index among equals."""
    wanted, found = _pair(reference_logits, artifact_logits)
    known = None if labels is None else _labels(labels, wanted)
    if count < 1:
        raise InputError(f"worst needs a count of at least 1, not {count}")
    before, after = _probabilities(wanted), _probabilities(found)
    rows, named, now = np.arange(len(wanted)), wanted.argmax(1), found.argmax(1)
    drop = before[rows, named] - after[rows, named]
    return tuple(
        Change(
            index=int(row),
            reference_class=int(named[row]),
            reference_probability=float(before[row, named[row]]),
            remaining_probability=float(after[row, named[row]]),
            artifact_class=int(now[row]),
            artifact_probability=float(after[row, now[row]]),
            label=None if known is None else int(known[row]),
        )
        for row in np.argsort(-drop, kind="stable")[:count]
    )


def sample_size_for(
    drop_points: float, discordant_rate: float, power: float = 0.8, significance: float = 0.05
) -> SampleSize:
    """Images that a paired, two-sided test needs to see a drop of accuracy (Connor 1987, Biometrics 43:207-211).

    With d the drop as a share and r the discordant rate, n = (z_a √r + z_b √(r - d²))² / d², where z_a and z_b are the
    normal quantiles of 1 - significance / 2 and of the power. For the asymptotic test; the exact p needs a few more.

    Raises:
        InputError: the drop is not in (0, 100 · discordant_rate], or another argument outside (0, 1]; power under 0.5.
    """
    rate, (z_a, z_b) = _design(discordant_rate, power, significance)
    drop = drop_points / 100
    if not 0 < drop <= rate * (1 + 1e-9):  # 1.1 / 100 > 0.011 in floating point
        raise InputError(f"a drop of {drop_points:g} points is not above 0 and at most the {100 * rate:g} % of images that change sides")
    images = ((z_a * math.sqrt(rate) + z_b * math.sqrt(max(0.0, rate - drop * drop))) / drop) ** 2
    return SampleSize(math.ceil(images), drop_points, discordant_rate, power, significance)


def detectable_drop(
    images: int, discordant_rate: float, power: float = 0.8, significance: float = 0.05
) -> float | None:
    """Least drop, in points, that so many images show: :func:`sample_size_for` solved for the drop.

    d = √r (z_a √n + z_b √(n - z_a² + z_b²)) / (n + z_b²); ``None`` where that exceeds r, as no drop can.
    """
    rate, (z_a, z_b) = _design(discordant_rate, power, significance)
    if images < 1:
        raise InputError(f"a test needs at least one image, not {images}")
    under = images - z_a * z_a + z_b * z_b
    if under < 0:
        return None
    drop = math.sqrt(rate) * (z_a * math.sqrt(images) + z_b * math.sqrt(under)) / (images + z_b * z_b)
    return 100 * drop if drop <= rate else None


def _design(rate: float, power: float, significance: float) -> tuple[float, tuple[float, float]]:
    if not 0 < rate <= 1:
        raise InputError(f"a discordant rate is a share in (0, 1], not {rate:g}")
    if not 0.5 <= power < 1:
        raise InputError(f"power is a probability in [0.5, 1), not {power:g}")
    return rate, (_two_sided_z(1 - _inside("significance", significance)), NormalDist().inv_cdf(power))


def _inside(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise InputError(f"{name} is in (0, 1), such as 0.95, not {value:g}")
    return value


def _two_sided_z(confidence: float) -> float:
    return -NormalDist().inv_cdf((1 - confidence) / 2)  # of the small tail: no cancellation near 1


def _discordant(reference_right: Array, artifact_right: Array) -> tuple[int, int, int]:
    """Images, and how many of them only the reference and only the artifact has right."""
    before, after = np.asarray(reference_right), np.asarray(artifact_right)
    if before.ndim != 1 or before.shape != after.shape or not len(before):
        raise InputError(f"paired statistics need the same images on both sides, not {before.shape} and {after.shape}")
    if before.dtype != np.bool_ or after.dtype != np.bool_:
        raise InputError(f"right or wrong is bool, not {before.dtype} and {after.dtype}; compare classes with labels first")
    return len(before), int((before & ~after).sum()), int((after & ~before).sum())


def _logits(logits: Array, whose: str = "the") -> Array:
    array = np.asarray(logits)
    if array.ndim != 2 or len(array) < 1 or array.shape[1] < 2:
        raise InputError(f"{whose} logits are (images, classes), 1 image and 2 classes at least, not {array.shape}")
    if array.dtype.kind not in "fiu":
        raise InputError(f"{whose} logits are real numbers, not {array.dtype}")
    finite = np.isfinite(array).all(1)
    if not finite.all():
        raise InputError(f"{whose} logits of image {int(finite.argmin())} are not finite; {int((~finite).sum())} such images")
    return array


def _pair(reference_logits: Array, artifact_logits: Array) -> tuple[Array, Array]:
    wanted, found = _logits(reference_logits, "the reference's"), _logits(artifact_logits, "the artifact's")
    if wanted.shape != found.shape:
        raise InputError(f"reference and artifact differ in images or classes: {wanted.shape} and {found.shape}")
    return wanted, found


def _labels(labels: Array, logits: Array) -> Array:
    images, classes = logits.shape
    array = np.asarray(labels)
    if array.shape != (images,) or array.dtype.kind not in "iu":
        raise InputError(f"labels are {images} integers, one an image, not {array.dtype} of shape {array.shape}")
    if array.min() < 0 or array.max() >= classes:
        raise InputError(f"labels are 0 to {classes - 1}, not {array.min()} to {array.max()}; are they of another data set?")
    return array


def _among_best(logits: Array, k: int) -> npt.NDArray[np.bool_]:
    """Mask ``(images, classes)`` of the ``k`` largest logits of each row, the lower class first among equals."""
    if k >= logits.shape[1]:
        return np.ones(logits.shape, np.bool_)
    least = -np.partition(-logits, k - 1, axis=1)[:, k - 1 : k]
    above, level = logits > least, logits == least
    room = k - above.sum(1, keepdims=True)
    mask: npt.NDArray[np.bool_] = above | (level & (level.cumsum(1) <= room))
    return mask


def _probabilities(logits: Array) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore"):  # finite logits may lie further apart than the largest float: probability 0
        shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    shares: npt.NDArray[np.float64] = shifted / shifted.sum(1, keepdims=True)
    return shares
