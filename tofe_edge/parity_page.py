"""A comparison as one self-contained HTML page: gates, statistics, and the worst images with thumbnails."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from tofe_edge.analysis import Analysis
from tofe_edge.artifact import Manifest
from tofe_edge.files import write_bytes
from tofe_edge.parity import Parity
from tofe_edge.statistics import Change, Interval

Thumbnail = Callable[[str], bytes | None]
"""The name of an image to a small JPEG of it, or ``None``."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd; }
th { font-weight: 600; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.passed { color: #11691f; } .failed { color: #b00020; font-weight: 600; }
.bar { background: #e8ecf3; height: .8rem; } .bar div { background: #3b6fb6; height: 100%; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: 1rem; }
figure { margin: 0; font-size: .8rem; overflow-wrap: anywhere; } figure img { display: block; margin-bottom: .3rem; }
"""


def write_page(
    path: Path, manifest: Manifest, parity: Parity, analysis: Analysis | None, source: str, thumbnail: Thumbnail
) -> None:
    """Write the page atomically. Raises :class:`InputError` where it cannot be written."""
    write_bytes(path, page(manifest, parity, analysis, source, thumbnail).encode("utf-8", "backslashreplace"))


def page(manifest: Manifest, parity: Parity, analysis: Analysis | None, source: str, thumbnail: Thumbnail) -> str:
    """The page; nothing in it is loaded from anywhere else, and no name in it can be markup."""
    verdict = '<span class="passed">passed</span>' if parity.passed else '<span class="failed">failed</span>'
    parts = [
        f"<h1>Parity of {escape(manifest.artifact)}: {verdict}</h1>",
        f"<p>{parity.images} images of {escape(source)}; {escape(manifest.precision)} for {escape(manifest.backend)}, made from "
        f"{escape(manifest.checkpoint)}.</p>",
        _gates(parity),
        _overlap(parity),
    ]
    if analysis is not None:
        parts += [_statistics(analysis), _worst(analysis, manifest.class_names, thumbnail)]
    parts.append(_layers(manifest))
    body = "\n".join(filter(None, parts))
    title = f"Parity of {escape(manifest.artifact)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _gates(parity: Parity) -> str:
    rows = "".join(
        f'<tr><td class="{_verdict(gate.passed)}">{_verdict(gate.passed)}</td><td>{escape(gate.message)}</td></tr>'
        for gate in parity.gates
    )
    return f"<h2>Gates</h2>\n<table>{rows}</table>"


def _verdict(passed: bool) -> str:
    return "passed" if passed else "failed"


def _overlap(parity: Parity) -> str:
    if not parity.kept_overlap:
        return ""
    bars = "".join(
        f"<tr><td>stage {stage}</td>{_bar(value)}<td class=number>{value:.2%}</td></tr>"
        for stage, value in enumerate(parity.kept_overlap, start=1)
    )
    return f"<h2>Kept tokens that the reference keeps too</h2>\n<table>{bars}</table>"


def _bar(share: float) -> str:
    return f'<td style="width:60%"><div class="bar"><div style="width:{100 * min(max(share, 0), 1):.1f}%"></div></div></td>'


def _statistics(analysis: Analysis) -> str:
    rows = [
        ("top-1 agreement", _interval(analysis.agreement.top1)),
        ("top-5 overlap", f"{analysis.agreement.top5_overlap:.2%}"),
    ]
    accuracy = analysis.accuracy
    if accuracy is not None:
        test, change = accuracy.mcnemar, accuracy.difference
        rows += [
            ("top-1 of the artifact", _interval(accuracy.top1_artifact)),
            ("top-1 of the reference", _interval(accuracy.top1_reference)),
            ("top-5 of the artifact", _interval(accuracy.top5_artifact)),
            ("top-5 of the reference", _interval(accuracy.top5_reference)),
            (
                "difference, paired bootstrap",
                f"{change.estimate:+.2f} points ({change.low:+.2f} to {change.high:+.2f})",
            ),
            ("McNemar, exact", f"{test.lost} images lost, {test.gained} gained, p = {test.p_value:.3g}"),
            (
                "expected calibration error",
                f"{accuracy.calibration_artifact.expected_error:.4f}, reference "
                f"{accuracy.calibration_reference.expected_error:.4f}",
            ),
        ]
        if accuracy.images_to_see_half_a_point is not None:
            rows.append(("images to see a drop of half a point", f"{accuracy.images_to_see_half_a_point}"))
    for stage, margins in enumerate(analysis.margins, start=1):
        quantiles = ", ".join(f"{name} {value:.3g}" for name, value in margins.quantiles.items())
        rows.append((f"margin at the cut, stage {stage}", quantiles))
    table = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<h2>Statistics</h2>\n<p>Intervals are at 95 %.</p>\n<table>{table}</table>"


def _interval(interval: Interval) -> str:
    return f"{interval.estimate:.2%} ({interval.low:.2%} to {interval.high:.2%})"


def _worst(analysis: Analysis, names: Sequence[str], thumbnail: Thumbnail) -> str:
    figures = "".join(
        _figure(name, change, names, thumbnail(name)) for name, change in zip(analysis.worst_names, analysis.worst)
    )
    return f'<h2>Images that changed the most</h2>\n<div class="images">{figures}</div>'


def _figure(name: str, change: Change, names: Sequence[str], picture: bytes | None) -> str:
    image = "" if picture is None else f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
    label = "" if change.label is None else f"<br>label: {escape(names[change.label])}"
    return (
        f"<figure>{image}<figcaption>{escape(name)}<br>{escape(names[change.reference_class])} "
        f"{change.reference_probability:.0%} &rarr; {change.remaining_probability:.0%}<br>now "
        f"{escape(names[change.artifact_class])} {change.artifact_probability:.0%}{label}</figcaption></figure>"
    )


def _in_number_order(item: tuple[str, object]) -> list[tuple[int, str]]:
    """Block 2 before block 10: a manifest's keys are in the order of their letters."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in item[0].split(".")]


def _layers(manifest: Manifest) -> str:
    layers = (manifest.quantization or {}).get("layers") or {}
    if not layers:
        return ""
    quietest = min(layer["own_snr_db"] for layer in layers.values())
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{_bar(quietest / max(layer['own_snr_db'], 1e-9))}"
        f"<td class=number>{layer['own_snr_db']:.1f} dB</td><td class=number>{layer['reached_snr_db']:.1f} dB</td></tr>"
        for name, layer in sorted(layers.items(), key=_in_number_order)
    )
    return (
        "<h2>Where rounding comes from</h2>\n<p>Output of each quantized layer against fp32, measured at conversion: by its own "
        "rounding, and with that of all layers before it (tokens as in fp32). A longer bar is more noise.</p>\n"
        f"<table><tr><th>layer</th><th></th><th>own</th><th>reached</th></tr>{rows}</table>"
    )
