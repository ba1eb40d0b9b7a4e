"""What ``tofe-edge parity`` says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.output import facts

if TYPE_CHECKING:
    from tofe_edge.evaluation.analysis import Accuracy, Analysis
    from tofe_edge.evaluation.statistics import Interval
    from tofe_edge.io.artifact import Manifest
    from tofe_edge.workflows.checking import Checked

_WORST_SHOWN = 3
_LAYERS_SHOWN = 3


def to_json(
    model: str,
    source: str,
    unreadable: Sequence[Path],
    checked: Checked,
    analysis: Analysis | None,
    manifest: Manifest,
) -> dict[str, Any]:
    """The document of ``tofe-edge parity --json``."""
    return {
        **checked.parity.to_json(),
        "model": model,
        "source": source,
        "reference_device": checked.device,
        "unreadable": [str(path) for path in unreadable],
        "gates": [{"name": gate.name, "message": gate.message, "passed": gate.passed} for gate in checked.parity.gates],
        "waiver": (manifest.parity or {}).get("waiver"),
        "analysis": None if analysis is None else analysis.to_json(),
    }


def describe(
    source: str, unreadable: Sequence[Path], checked: Checked, analysis: Analysis | None, manifest: Manifest
) -> str:
    """Facts for people, the verdict last."""
    result = checked.parity
    left_out = f" ({len(unreadable)} unreadable left out, first: {unreadable[0]})" if unreadable else ""
    ties = f", {result.near_ties} with tied tokens not gated" if result.near_ties else ""
    rows = [
        ("images", f"{result.images} from {source}{left_out}{ties}"),
        (
            "top-1 agreement",
            f"{result.top1_agreement:.1%} (on {result.decided_images} decided images {result.decided_agreement:.1%})",
        ),
        ("logits", f"SNR {result.snr_db:.1f} dB, PSNR {result.psnr_db:.1f} dB"),
    ]
    if result.kept_overlap:
        rows.append(("kept tokens", "overlap a stage: " + ", ".join(f"{value:.1%}" for value in result.kept_overlap)))
    if analysis is not None:
        rows += _describe_accuracy(analysis.accuracy)
        rows += _describe_worst(analysis)
    rows += _describe_layers(manifest)
    waiver = (manifest.parity or {}).get("waiver")
    if waiver:
        rows.append(("waived at conversion", f"{waiver['text']} ({'; '.join(waiver['failures'])})"))
    rows.append(("gates", "passed" if result.passed else "FAILED: " + "; ".join(result.failures)))
    return facts(rows)


def _describe_accuracy(accuracy: Accuracy | None) -> list[tuple[str, str]]:
    if accuracy is None:
        return []
    test, difference = accuracy.mcnemar, accuracy.difference
    enough = accuracy.images_to_see_half_a_point
    power = "" if enough is None or enough <= test.images else f"; half a point takes {enough} images to see"
    return [
        ("top-1", f"{_share(accuracy.top1_artifact)}, reference {_share(accuracy.top1_reference)}"),
        ("top-5", f"{_share(accuracy.top5_artifact)}, reference {_share(accuracy.top5_reference)}"),
        (
            "difference",
            f"{difference.estimate:+.2f} points ({difference.low:+.2f} to {difference.high:+.2f}); {test.lost} lost, "
            f"{test.gained} gained, McNemar p {test.p_value:.2g}{power}",
        ),
        (
            "calibration error",
            f"{accuracy.calibration_artifact.expected_error:.3f}, reference "
            f"{accuracy.calibration_reference.expected_error:.3f}",
        ),
    ]


def _share(interval: Interval) -> str:
    return f"{interval.estimate:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def _describe_worst(analysis: Analysis) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, change in list(zip(analysis.worst_names, analysis.worst))[:_WORST_SHOWN]:
        lost = change.reference_probability - change.remaining_probability
        if lost > 0:
            rows.append(
                (
                    "" if rows else "worst images",
                    f"{name}: class {change.reference_class} {change.reference_probability:.0%} -> "
                    f"{change.remaining_probability:.0%}, now class {change.artifact_class}",
                )
            )
    return rows


def _describe_layers(manifest: Manifest) -> list[tuple[str, str]]:
    """The layers whose own rounding is largest, as conversion measured it."""
    layers = (manifest.quantization or {}).get("layers") or {}
    noisiest = sorted(layers.items(), key=lambda item: item[1]["own_snr_db"])[:_LAYERS_SHOWN]
    return [
        ("" if index else "noisiest layers", f"{name}: {layer['own_snr_db']:.1f} dB by its own rounding")
        for index, (name, layer) in enumerate(noisiest)
    ]
