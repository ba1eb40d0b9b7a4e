"""What ``tofe-edge convert`` says about the artifact that it made."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tofe_edge.cli.output import facts

if TYPE_CHECKING:
    from tofe_edge.evaluation.parity import Parity
    from tofe_edge.io.artifact import Artifact, Manifest


def to_json(artifact: Artifact, reason: str, parity: Parity) -> dict[str, Any]:
    """The document of ``tofe-edge convert --json``; ``reason`` says why this checkpoint."""
    manifest = artifact.manifest
    return {
        "artifact": str(artifact.path),
        "manifest": str(artifact.manifest_path),
        "checkpoint": manifest.checkpoint,
        "token_counts": manifest.token_counts,
        "gmacs": manifest.gmacs,
        "size_bytes": manifest.size_bytes,
        "delegates": manifest.delegates,
        "fallback_ops": manifest.fallback_ops,
        "target": manifest.target,
        "precision": manifest.precision,
        "int8_mode": manifest.int8_mode,
        "fp32_layers": manifest.fp32_layers,
        "reproducible": manifest.reproducible,
        "methods": {name: asdict(method) for name, method in manifest.methods.items()},
        "batch": manifest.batch,
        "selection": manifest.selection,
        "quantization": manifest.quantization,
        "profile": manifest.profile,
        "predicted_ms": manifest.latency and manifest.latency["predicted_ms"],
        "latency": manifest.latency,
        "reason": reason,
        "parity": parity.to_json(),
    }


def describe(artifact: Artifact, reason: str, parity: Parity, source: str) -> str:
    """The same for people; ``source`` names the images of the parity check."""
    manifest = artifact.manifest
    fallback = ", ".join(f"{count} {name}" for name, count in manifest.fallback_ops.items()) or "none"
    tokens = ", ".join(map(str, manifest.token_counts)) if manifest.token_counts else "all (dense)"
    modes = ", ".join(filter(None, (manifest.int8_mode, "reproducible" if manifest.reproducible else None)))
    mode = f" ({modes})" if modes else ""
    overlap = ", ".join(f"{value:.1%}" for value in parity.kept_overlap)
    return facts(
        [
            ("checkpoint", f"{manifest.checkpoint}: {reason}"),
            ("tokens kept", f"{tokens} of {manifest.patch_tokens} per stage, {manifest.gmacs:.3f} GMACs"),
            ("precision", f"{manifest.precision}{mode}, {manifest.size_bytes / 1e6:.2f} MB"),
            *_describe_latency(manifest),
            ("delegates", f"{manifest.delegates}; operators outside: {fallback}"),
            (
                "parity",
                f"agreement on {parity.decided_images} decided images {parity.decided_agreement:.1%}, SNR {parity.snr_db:.1f} dB "
                f"({parity.images} {source})",
            ),
            *([("kept overlap", f"{overlap} a stage")] if overlap else []),
            *([] if parity.passed else [("waived", "; ".join(parity.failures))]),
            *_describe_int8(manifest),
            *(
                ("method", f"{method.name}: {method.gmacs:.3f} GMACs")
                for method in (manifest.methods.values() if manifest.further_methods else ())
            ),
            ("wrote", artifact.path),
            ("", artifact.manifest_path),
        ]
    )


def _describe_latency(manifest: Manifest) -> list[tuple[str, str]]:
    found = manifest.latency
    if found is None:
        return []
    predicted, measured = found["predicted_ms"], found["measured_ms"]
    words = [f"predicted {predicted:.2f} ms"] if predicted is not None else []
    if measured is not None:
        words.append(
            f"measured {measured:.2f} ms on {found['device']}, half of the runs {found['measured_p50_ms']:.2f} ms or less"
        )
    if found["limit_ms"] is not None:
        words.append(f"{found['limit_ms']:g} ms allowed")
    return [("latency", f"{'; '.join(words)} ({found['threads']} thread{'s' if found['threads'] > 1 else ''})")]


def _describe_int8(manifest: Manifest) -> list[tuple[str, str]]:
    if manifest.quantization is None:
        return []
    cost, reasons = manifest.quantization["cost"], manifest.quantization["fp32_because"]
    drop = "" if cost["drop"] is None else f"{cost['drop']:.2f} points, "
    return [
        (
            f"{manifest.precision} cost",
            f"{drop}SNR {_decibels(cost['snr_db'])}; with the tokens of fp32 {_decibels(cost['snr_db_same_tokens'])} "
            f"({cost['images']} calibration images)",
        ),
        *(("stays in float", f"{name}: {reason}") for name, reason in reasons.items()),
    ]


def _decibels(value: float | None) -> str:
    return "without end" if value is None else f"{value:.1f} dB"
