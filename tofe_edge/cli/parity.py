"""``tofe-edge parity``: does a converted model predict what the reference predicts?"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tofe_edge import __version__
from tofe_edge.cli.junit import Case, Suite, junit_xml
from tofe_edge.cli.options import (
    add_checkpoint,
    add_data,
    add_device,
    add_method,
    add_naming,
    add_provider,
    add_threads,
    keywords,
    positive_float,
)
from tofe_edge.cli.output import emit, facts
from tofe_edge.cli.pages.parity import render
from tofe_edge.cli.pages.rendering import write_html
from tofe_edge.errors import require
from tofe_edge.evaluation.parity import ClassParity, Parity, on_decided
from tofe_edge.evaluation.statistics import Accuracy, Analysis, Interval
from tofe_edge.io.artifact import Manifest
from tofe_edge.io.files import write_bytes
from tofe_edge.workflows.parity import ParityReport, parity

_WORST_SHOWN = 3
_LAYERS_SHOWN = 3


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "models", type=Path, nargs="+", metavar="MODEL", help="a .pte or .mlpackage with its manifest beside it"
    )
    add_device(parser, "where the reference runs")
    add_threads(parser)
    add_provider(parser)
    add_method(parser)
    add_checkpoint(parser)
    add_naming(parser)
    add_data(
        parser,
        "labelled images: DIR/<class id>/<image>, a CSV file or tar shards; of a model that gives no classes any folder of "
        "images (default: crops of two photographs)",
    )
    parser.add_argument("--max-drop", type=_points, metavar="POINTS", help="fail if top-1 falls by more; needs --data")
    parser.add_argument(
        "--confidence",
        type=_per_cent,
        metavar="PERCENT",
        help="with --max-drop: fail unless the drop is within it with this confidence, which takes enough images "
        "(default: the measured drop alone is gated)",
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="--json of an earlier model on the same images: fail if top-1 (0.5 points), agreement (1 point) or SNR (1 dB) is "
        "worse by more",
    )
    parser.add_argument(
        "--min-agreement",
        type=_per_cent,
        metavar="PERCENT",
        help="fail if fewer top-1 classes, or nearest neighbours by an embedding, agree, on however few images "
        "(default: by precision, from 100 images on)",
    )
    parser.add_argument(
        "--junit", type=Path, metavar="FILE", help="write the gates as JUnit XML, also if the comparison itself fails"
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with the statistics and the worst images"
    )


def _points(text: str) -> float:
    """Convert an argument to a number of points of accuracy, zero allowed."""
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not a number of points from 0 to 100")
    return value


def _per_cent(text: str) -> float:
    """Convert an argument, 0 < per cent <= 100, to a share."""
    value = positive_float(text) / 100
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is not a percentage of at most 100")
    return value


def run(args: argparse.Namespace) -> int:
    """Compare and print; exit code 1 if a gate fails."""
    several = len(args.models) > 1
    require(not several or (args.html is None and args.baseline is None), "--html and --baseline are of one model")
    reports: list[ParityReport] = []
    suites: list[Suite] = []
    try:
        for model in args.models:
            begun = time.perf_counter()
            try:
                reports.append(parity(model, args.data, **keywords(parity, args)))
            except BaseException as error:  # Ctrl-C, too: a report that ends before this model would look complete
                # A message that holds a path of the machine would be another one on the next.
                reason = str(error).replace(str(model), model.name)
                suites.append(Suite(f"parity of {model.name}", [Case("parity", False, reason, error=True)]))
                raise
            suites.append(_suite(reports[-1], time.perf_counter() - begun))
    finally:
        if args.junit is not None:
            write_bytes(args.junit, junit_xml(suites).encode())
    if args.html is not None:
        (report,) = reports
        pictures = report.pictures
        page = render(report.artifact.manifest, report.parity, report.analysis, pictures.source, pictures.thumbnail)
        write_html(args.html, page)
    documents = [_json(model, report) for model, report in zip(args.models, reports)]
    texts = [f"{model}\n{_text(report)}" if several else _text(report) for model, report in zip(args.models, reports)]
    emit(args.json, documents if several else documents[0], "\n\n".join(texts))
    return 0 if all(report.passed for report in reports) else 1


def _suite(report: ParityReport, seconds: float) -> Suite:
    """The gates, and what a reader of the test report wants to know of the model."""
    manifest, result = report.artifact.manifest, report.parity
    cases = [Case(gate.name, gate.passed, gate.message) for gate in result.gates]
    properties = {
        "tofe-edge": __version__,
        "model sha256": manifest.sha256,
        "checkpoint": manifest.checkpoint,
        "checkpoint sha256": manifest.checkpoint_sha256,
        "precision": manifest.precision,
        **{f"{name} at conversion": str(version) for name, version in manifest.versions.items()},
        "images": str(result.images),
        **dict(result.figures),
    }
    return Suite(
        f"parity of {report.artifact.path.name}",
        [replace(cases[0], seconds=seconds), *cases[1:]] if cases else [],
        properties,
    )


def _json(model: Path, report: ParityReport) -> dict[str, Any]:
    return {
        **report.parity.to_json(),
        "model": str(model),
        "source": report.pictures.source,
        "reference_device": report.checked.device,
        "unreadable": [str(path) for path in report.pictures.unreadable],
        "left_out": report.pictures.coverage.to_json(),
        "warnings": list(report.pictures.coverage.remarks),
        "gates": [{"name": gate.name, "message": gate.message, "passed": gate.passed} for gate in report.parity.gates],
        "waiver": (report.artifact.manifest.parity or {}).get("waiver"),
        "analysis": None if report.analysis is None else _named(report.analysis, report.artifact.manifest.class_names),
    }


def _named(analysis: Analysis, names: Sequence[str]) -> dict[str, Any]:
    """Statistics, with the names of classes beside their numbers."""
    document = analysis.to_json()
    for entry in document["worst"]:
        entry |= {f"{side}_name": names[entry[f"{side}_class"]] for side in ("reference", "artifact")}
    return document


def _text(report: ParityReport) -> str:
    """Facts for people, the verdict last."""
    result, manifest, unreadable = report.parity, report.artifact.manifest, report.pictures.unreadable
    left_out = f" ({len(unreadable)} unreadable left out, first: {unreadable[0]})" if unreadable else ""
    ties = f", {result.near_ties} with tied tokens not gated" if result.near_ties else ""
    rows = [("images", f"{result.images} from {report.pictures.source}{left_out}{ties}"), *_describe_figures(result)]
    if result.kept_overlap:
        rows.append(("kept tokens", "overlap per stage: " + ", ".join(f"{value:.1%}" for value in result.kept_overlap)))
    if report.analysis is not None:
        rows += _describe_accuracy(report.analysis.accuracy)
        rows += _describe_worst(report.analysis, manifest.class_names)
    rows += _describe_layers(manifest)
    rows += [("warning", remark) for remark in report.pictures.coverage.remarks]
    waiver = (manifest.parity or {}).get("waiver")
    if waiver:
        rows.append(("waived at conversion", f"{waiver['text']} ({'; '.join(waiver['failures'])})"))
    rows.append(("gates", "passed" if result.passed else "FAILED: " + "; ".join(result.failures)))
    return facts(rows)


def _describe_figures(result: Parity) -> list[tuple[str, str]]:
    if not isinstance(result, ClassParity):
        return list(result.figures)
    decided = on_decided(result.decided_images, result.decided_agreement)
    return [
        ("top-1 agreement", f"{result.top1_agreement:.1%} ({decided})"),
        ("logits", f"SNR {result.snr_db:.1f} dB, PSNR {result.psnr_db:.1f} dB"),
    ]


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
            f"{difference.estimate:+.2f} points ({difference.low:+.2f} to {difference.high:+.2f} with "
            f"{difference.confidence:.0%}); {test.lost} lost, "
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


def _describe_worst(analysis: Analysis, names: Sequence[str]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for image, change in list(zip(analysis.worst_names, analysis.worst))[:_WORST_SHOWN]:
        lost = change.reference_probability - change.remaining_probability
        if lost > 0:
            rows.append(
                (
                    "" if rows else "worst images",
                    f"{image}: {names[change.reference_class]} {change.reference_probability:.0%} -> "
                    f"{change.remaining_probability:.0%}, "
                    + ("still the best" if change.same else f"now {names[change.artifact_class]}"),
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
