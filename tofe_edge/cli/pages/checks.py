"""What parity found, and where rounding comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tofe_edge.cli.pages.charts import gauge
from tofe_edge.cli.pages.html import NOTHING, Html, facts, join, name, paragraph, section, table, text
from tofe_edge.evaluation.parity import GateResult
from tofe_edge.io.artifact import Manifest

_LARGEST_COUNT = 10**15
_MOST_DIGITS = 10
"""A manifest may hold longer numbers, which mean nothing and which Python would refuse to convert."""


def gates(found: Sequence[GateResult]) -> Html:
    """A row a gate: whether it was reached, and what was asked."""
    rows = table([(verdict(gate.passed), text(gate.message)) for gate in found])
    return Html(rows.replace("<table>", '<table class="facts">', 1))


def verdict(passed: bool) -> Html:
    """``passed`` or ``failed``, in its colour and in words."""
    word = "passed" if passed else "failed"
    return Html(f'<span class="{word}">{word}</span>')


def overlap(shares: Sequence[float]) -> Html:
    """A bar a stage: how many of the reference's kept tokens the artifact keeps too; nothing for a dense model."""
    rows = [(text(f"stage {stage}"), gauge(share), text(f"{share:.2%}")) for stage, share in enumerate(shares, start=1)]
    return section("Kept tokens that the reference keeps too", table(rows, ("stage", "", "share"), (2,)), level=3)


def layer_noise(manifest: Manifest) -> Html:
    """The rounding of every quantized layer as the manifest holds it; nothing where nothing is quantized."""
    layers = (manifest.quantization or {}).get("layers")
    found = {} if not isinstance(layers, dict) else {layer: _noise(figures) for layer, figures in layers.items()}
    loudest = min((own for own, _ in found.values() if own is not None), default=0.0)
    rows = [
        (name(layer), gauge(0.0 if own is None else 10 ** ((loudest - own) / 20)), _decibels(own), _decibels(reached))
        for layer, (own, reached) in sorted(found.items(), key=lambda item: _in_number_order(item[0]))
    ]
    return section(
        "Where rounding comes from",
        paragraph(text("Output of each quantized layer against fp32, measured at conversion: by its own rounding, and with "
                       "that of all layers before it (tokens as in fp32). Bars compare the "
                       "amplitude of their own noise with that of the noisiest layer."))
        if rows else NOTHING,
        table(rows, ("layer", "", "own", "reached"), (2, 3)),
    )  # fmt: skip


def record(found: Mapping[str, Any] | None) -> Html:
    """The manifest's record of the check at conversion; its free form is read with care."""
    if not found:
        return NOTHING
    waiver, images = found.get("waiver"), number(found.get("images"))
    agreement, snr = number(found.get("top1_agreement")), number(found.get("snr_db"))
    shares = found.get("kept_overlap")
    shares = [number(share) for share in shares] if isinstance(shares, list) else []
    return join(
        (
            facts(
                [
                    ("gates", verdict(found.get("passed") is True)),
                    ("waived", name(str(waiver.get("text"))) if isinstance(waiver, dict) else NOTHING),
                    ("images compared", text(f"{images:.0f}") if images is not None else NOTHING),
                    ("their source", name(str(found["source"])) if found.get("source") else NOTHING),
                    ("top-1 agreement", text(f"{agreement:.1%}") if agreement is not None else NOTHING),
                    ("SNR of the logits", _decibels(snr) if snr is not None else text("without end, or not finite")),
                ]
            ),
            overlap([share for share in shares if share is not None]),
        )
    )  # fmt: skip


def _noise(figures: Any) -> tuple[float | None, float | None]:
    known = figures if isinstance(figures, dict) else {}
    return number(known.get("own_snr_db")), number(known.get("reached_snr_db"))


def number(value: Any) -> float | None:
    """A finite figure of a manifest's free parts; ``None`` where there is none."""
    counts = type(value) is int and abs(value) < _LARGEST_COUNT
    return float(value) if counts or (type(value) is float and math.isfinite(value)) else None


def _decibels(value: float | None) -> Html:
    """A ratio; one without noise has no figure."""
    return text("not known" if value is None else f"{value:.1f} dB")


def _in_number_order(layer: str) -> list[tuple[int, str]]:
    """Block 2 before block 10: a manifest's keys are in the order of their letters."""
    return [
        (int(part), "") if part.isdecimal() and len(part) < _MOST_DIGITS else (-1, part) for part in layer.split(".")
    ]
