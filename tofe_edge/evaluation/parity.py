"""An artifact against its reference, by the gates of its precision (:mod:`tofe_edge.io.targets`). Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_edge.errors import InputError
from tofe_edge.evaluation.prediction import Prediction, probabilities
from tofe_edge.io.targets import Gates

NEAR_TIE = 1e-5
"""For scores of order 1: fp32 in another order moves them by up to some 1e-6, and then either token is the right one. Of
64 validation images one has a gap of 2e-8 at a cut."""

DECIDED_MARGIN = 0.1
"""Closer than 10 points of probability, rounding may turn the top class: of 15 int8 changes seen on 232 images of
a half-trained net, 13 were closer."""


@dataclass(frozen=True)
class GateResult:
    """One gate: what was asked, and whether it was reached."""

    name: str
    message: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Parity:
    """An artifact against its reference over ``images`` images, whatever it gives. Rates are shares in [0, 1]."""

    images: int
    snr_db: float
    """Power of the reference outputs over that of the difference, all images together."""
    psnr_db: float
    """The same with the square of the largest reference number in place of their power."""
    kept_overlap: tuple[float, ...]
    """Per stage: mean share of the reference's kept tokens that the artifact keeps too."""
    gates: tuple[GateResult, ...] = ()
    near_ties: int = 0
    """Images left out of the gated figures because either of two tokens may be kept."""

    @property
    def passed(self) -> bool:
        """Whether every gate was reached."""
        return all(gate.passed for gate in self.gates)

    @property
    def finite(self) -> bool:
        """Whether all that the artifact gives are numbers."""
        return self.snr_db > -math.inf

    @property
    def failures(self) -> tuple[str, ...]:
        """What was not reached, in words."""
        return tuple(gate.message for gate in self.gates if not gate.passed)

    @property
    def figures(self) -> tuple[tuple[str, str], ...]:
        """What it was compared by, for people: a name and a figure each."""
        return (("SNR", f"{self.snr_db:.1f} dB"), ("PSNR", f"{self.psnr_db:.1f} dB"))

    def to_json(self) -> dict[str, Any]:
        """The stable keys of ``tofe-edge parity --json``; an infinite SNR becomes ``null``."""
        return {
            "images": self.images,
            "snr_db": finite_or_none(self.snr_db),
            "psnr_db": finite_or_none(self.psnr_db),
            "kept_overlap": list(self.kept_overlap),
            "near_ties": self.near_ties,
            "passed": self.passed,
            "failures": list(self.failures),
        }


@dataclass(frozen=True, kw_only=True)
class ClassParity(Parity):
    """Of a classifier."""

    top1_agreement: float
    top1_reference: float | None
    """Share of labels hit; ``None`` if the images have no labels."""
    top1_artifact: float | None
    decided_images: int
    """Images whose two likeliest classes the reference holds at least ``DECIDED_MARGIN`` apart."""
    decided_agreement: float
    """Top-1 agreement among those; 1 if there are none."""

    @property
    def figures(self) -> tuple[tuple[str, str], ...]:
        return (
            ("top-1 agreement", f"{self.top1_agreement:.1%}"),
            ("decided images", on_decided(self.decided_images, self.decided_agreement)),
            ("SNR of the logits", f"{self.snr_db:.1f} dB"),
            ("PSNR of the logits", f"{self.psnr_db:.1f} dB"),
        )

    def to_json(self) -> dict[str, Any]:
        rates = {
            "top1_agreement": self.top1_agreement,
            "top1_reference": self.top1_reference,
            "top1_artifact": self.top1_artifact,
            "decided_images": self.decided_images,
            "decided_agreement": self.decided_agreement,
        }
        return {**rates, **super().to_json()}


def finite_or_none(value: float) -> float | None:
    """A number that JSON has."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Compared:
    """Two sides of a comparison that fit each other, without the images that either of two tokens may be kept of."""

    expected: npt.NDArray[np.float32]
    """What the reference gives, ``(images, …)``."""
    actual: npt.NDArray[np.float32]
    snr_db: float
    psnr_db: float
    kept_overlap: tuple[float, ...]
    images: int
    """Those left out too."""

    def common(self) -> dict[str, Any]:
        """The figures that a :class:`Parity` of any output has."""
        return {
            "images": self.images,
            "snr_db": self.snr_db,
            "psnr_db": self.psnr_db,
            "kept_overlap": self.kept_overlap,
            "near_ties": self.images - len(self.expected),
        }


def paired(reference: Sequence[Prediction], artifact: Sequence[Prediction], what: str, gates: Gates) -> Compared:
    """Bring predictions of the same inputs together.

    Args:
        what: what there is another number of if their shapes differ.

    Raises:
        InputError: there are none, or they differ in number, shape or stages.
    """
    if not reference or len(reference) != len(artifact):
        raise InputError(f"parity needs the same images on both sides, not {len(reference)} and {len(artifact)}")
    stages, images = len(reference[0].kept), len(reference)
    differing = ""
    if any(len(prediction.kept) != stages for prediction in (*reference, *artifact)):
        differing = "stages"
    elif reference[0].output.shape != artifact[0].output.shape:
        differing = what
    if differing:
        raise InputError(
            f"parity: reference and artifact differ in their number of {differing}; is it another checkpoint's artifact?"
        )
    if gates.skips_near_ties and any(one.margin >= NEAR_TIE for one in reference):
        clear = [pair for pair in zip(reference, artifact) if pair[0].margin >= NEAR_TIE]
        reference, artifact = zip(*clear)
    overlap = tuple(
        float(np.mean([kept_overlap(a.kept[stage], b.kept[stage]) for a, b in zip(reference, artifact)]))
        for stage in range(stages)
    )
    expected, actual = (np.stack([prediction.output for prediction in side]) for side in (reference, artifact))
    return Compared(expected, actual, snr_db(expected, actual), psnr_db(expected, actual), overlap, images)


def compare(
    reference: Sequence[Prediction], artifact: Sequence[Prediction], labels: Sequence[int] | None, gates: Gates
) -> ClassParity:
    """Compare a classifier's predictions of the same inputs, image by image.

    Raises:
        InputError: there are none, or they differ in number, classes or stages.
    """
    both = paired(reference, artifact, "classes", gates)
    accuracy = [_accuracy(np.stack([one.logits for one in side]), labels) for side in (reference, artifact)]
    same = both.expected.argmax(1) == both.actual.argmax(1)
    decided = top2_margin(both.expected) >= DECIDED_MARGIN
    drop = None if accuracy[0] is None or accuracy[1] is None else 100 * (accuracy[0] - accuracy[1])
    return ClassParity(
        **both.common(),
        top1_agreement=float(same.mean()),
        top1_reference=accuracy[0],
        top1_artifact=accuracy[1],
        decided_images=int(decided.sum()),
        decided_agreement=float(same[decided].mean()) if decided.any() else 1.0,
        gates=(
            *_rate_gates(same, decided, gates),
            *distance_gates("logits", both, gates),
            *_drop_gate(drop, gates),
        ),
    )


def top2_margin(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probability of the likeliest class less that of the second, for logits ``(images, classes)``: ``(images,)``."""
    ranked = np.sort(probabilities(logits), axis=1)
    margin: npt.NDArray[np.float64] = ranked[:, -1] - ranked[:, -2]
    return margin


def snr_db(expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> float:
    """Signal-to-noise ratio in decibels; infinite if both are equal, minus infinite if ``actual`` is not finite."""
    if not np.isfinite(actual).all():
        return -math.inf
    noise = float(np.square(expected.astype(np.float64) - actual).sum())
    return snr_of_powers(float(np.square(expected.astype(np.float64)).sum()), noise)


def snr_of_powers(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)``; infinite without noise, minus infinite without signal."""
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def psnr_db(expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio in decibels, the peak being the largest magnitude in ``expected``."""
    power = float(np.square(expected.astype(np.float64)).mean())
    peak = float(np.abs(expected).max(initial=0.0))
    return snr_db(expected, actual) + (20 * math.log10(peak) - 10 * math.log10(power) if power else 0.0)


def on_decided(images: int, agreement: float) -> str:
    """Agreement on decided images in words, and what those are."""
    found = f"{agreement:.1%} on {images} decided images" if images else "no image is decided"
    return f"{found}: best two classes at least {100 * DECIDED_MARGIN:g} points apart"


def kept_overlap(expected: npt.NDArray[np.int64], actual: npt.NDArray[np.int64]) -> float:
    """Share of the tokens in ``expected`` that are in ``actual`` too; both are sets of positions."""
    return len(np.intersect1d(expected, actual)) / max(1, len(expected))


def _accuracy(logits: npt.NDArray[np.float32], labels: Sequence[int] | None) -> float | None:
    return None if labels is None else float((logits.argmax(1) == np.asarray(labels)).mean())


def _rate_gates(same: npt.NDArray[np.bool_], decided: npt.NDArray[np.bool_], gates: Gates) -> list[GateResult]:
    results = []
    for name, group in (("all images", same), ("decided images", same[decided])):
        if len(group) >= gates.min_images_for_rate:
            rate, threshold = float(group.mean()), gates.min_top1_agreement
            message = f"top-1 agreement on {name} {rate:.1%} {side(rate >= threshold)} {100 * threshold:g}%"
            results.append(GateResult(f"top-1 agreement on {name}", message, rate >= threshold))
    return results


def distance_gates(what: str, both: Compared, gates: Gates) -> list[GateResult]:
    """The gates of every artifact; ``what`` it gives."""
    results = []
    for name, value, threshold in (("SNR", both.snr_db, gates.min_snr_db), ("PSNR", both.psnr_db, gates.min_psnr_db)):
        if math.isfinite(threshold):
            passed = value >= threshold
            results.append(
                GateResult(f"{what} {name}", f"{what} {name} {value:.1f} dB {side(passed)} {threshold:.0f} dB", passed)
            )
    for stage, value in enumerate(both.kept_overlap, start=1):
        passed = value >= gates.min_kept_overlap - 1e-9
        name = f"kept-token overlap of stage {stage}"
        results.append(GateResult(name, f"{name} {value:.1%} {side(passed)} {gates.min_kept_overlap:.0%}", passed))
    return results


def _drop_gate(drop: float | None, gates: Gates) -> list[GateResult]:
    if gates.max_drop is None:
        return []
    if drop is None:
        raise InputError("a drop of accuracy can be gated on labelled images alone; give some with --data")
    passed = drop <= gates.max_drop + 1e-9
    word = "within" if passed else "over"
    return [GateResult("top-1 drop", f"top-1 drop {drop:.2f} points is {word} {gates.max_drop:g}", passed)]


_LESS_THAN_BEFORE = (
    ("top1_artifact", "top-1", 100, "points", 0.5),
    ("top1_agreement", "top-1 agreement", 100, "points", 1.0),
    ("neighbour_agreement", "same nearest neighbour", 100, "points", 1.0),
    ("snr_db", "SNR", 1, "dB", 1.0),
)
"""Key of ``parity --json``, name, factor to the unit, unit, and how much less is still called the same."""


def gates_against(baseline: Any, parity: Parity) -> list[GateResult]:
    """Whether a model is as good as one was, by the document of ``parity --json`` of then, on the same images.

    Raises:
        InputError: it is not such a document, or of other images.
    """
    now = parity.to_json()
    images = baseline.get("images") if isinstance(baseline, dict) else None
    if images != now["images"]:
        raise InputError(
            f"is not `parity --json` of the same {now['images']} images (it has {images or 'none'}); make it again"
        )
    gates = []
    for key, name, factor, unit, allowed in _LESS_THAN_BEFORE:
        before, after = baseline.get(key), now.get(key)
        if not isinstance(before, (int, float)) or after is None:  # an infinite SNR is null
            continue
        less = factor * (before - after)
        passed = less <= allowed + 1e-9
        figures = f"{name} {factor * after:.2f} against {factor * before:.2f} {unit} in the baseline"
        message = f"{figures}, {'within' if passed else 'over'} the {allowed:g} that may be lost"
        gates.append(GateResult(f"{name} against the baseline", message, passed))
    return gates


def side(passed: bool) -> str:
    """On which side of a threshold a figure is, in words."""
    return "reaches" if passed else "is under"
