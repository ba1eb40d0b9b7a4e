"""The page of ``tofe-edge convert``: what was made and why, that it predicts what it should, and how fast it is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tofe_edge.cli.pages.charts import gauge
from tofe_edge.cli.pages.checks import gates, layer_noise, overlap, verdict
from tofe_edge.cli.pages.html import (
    NOTHING,
    Html,
    facts,
    join,
    key_figures,
    name,
    page,
    paragraph,
    section,
    table,
    text,
    write,
)
from tofe_edge.cli.pages.times import Share, Staircase, breakdown, distribution, on_the_device, percentiles, staircases
from tofe_edge.cli.pages.token_map import kept_tokens
from tofe_edge.evaluation.golden import GoldenSet
from tofe_edge.evaluation.parity import Parity
from tofe_edge.io.artifact import Manifest, Method


@dataclass(frozen=True, kw_only=True)
class ConvertPage:
    """What the page shows; what is not known is left out of it."""

    manifest: Manifest
    golden: GoldenSet | None
    """For the token maps."""
    reason: str
    """Why this checkpoint and these counts."""
    parity: Mapping[str, Parity]
    """By method, the default first."""
    source: str
    """Names the images of the parity check."""
    measured_on: str = ""
    """Where the following were measured, and with how many threads."""
    samples_ms: Sequence[float] = ()
    stages: Sequence[Share] = ()
    operators: Sequence[Share] = ()
    block_ms: Mapping[str, Staircase] = field(default_factory=dict)
    """The profile's latency table, by precision."""
    fitted_ms: Mapping[str, Staircase] = field(default_factory=dict)
    """What the latency model makes of it for every count, by precision."""
    prefix_tokens: int = 1
    """CLS, and the distillation token where there is one."""


def write_page(path: Path, content: ConvertPage) -> None:
    """Write the page atomically. Raises :class:`InputError` where it cannot be written."""
    write(path, render(content))


def render(content: ConvertPage) -> str:
    """The page; nothing in it is loaded from anywhere else, and no name in it can be markup.

    Raises:
        InputError: the golden vectors are not the manifest's.
    """
    manifest, counts = content.manifest, content.manifest.token_counts or []
    tokens = [content.prefix_tokens + count for count in (manifest.patch_tokens, *counts)]
    passed = all(parity.passed for parity in content.parity.values())
    title = f"{manifest.artifact}: parity {'passed' if passed else 'failed and waived'}"
    return page(
        title,
        (
            Html(f"<h1>{name(manifest.artifact)}</h1>"),
            paragraph(join((text("Made from "), name(manifest.checkpoint), _for(manifest), text(": "), name(content.reason),
                            text(".")))),
            _key(content),
            section("The model", _model(manifest)),
            section("Latency on the device", on_the_device(manifest.latency)),
            section("Budgets", _budgets(manifest)),
            section("Tokens a block computes", _tokens(manifest)),
            section("What is computed", kept_tokens(manifest, content.golden, list(manifest.methods))),
            section("Parity with the reference", *(_parity(content, method) for method in content.parity)),
            section("Latency where it was converted", _measured(content)),
            section("Latency against tokens", staircases(content.block_ms, tokens if counts else (), content.fitted_ms)),
            layer_noise(manifest),
            section("Made with", facts((library, text(version)) for library, version in sorted(manifest.versions.items()))),
        ),
    )  # fmt: skip


def _for(manifest: Manifest) -> Html:
    return NOTHING if manifest.profile is None else join((text(" for "), name(manifest.profile)))


def _key(content: ConvertPage) -> Html:
    manifest, (parity, *_) = content.manifest, content.parity.values()
    figures = [
        ("compute", f"{manifest.gmacs:.3f} GMACs"),
        ("size", f"{manifest.size_bytes / 1e6:.2f} MB"),
        ("SNR of the logits", f"{parity.snr_db:.1f} dB"),
    ]
    if content.samples_ms:
        figures.append(("p50 where it was converted", f"{percentiles(content.samples_ms)[50]:.2f} ms"))
    return key_figures(figures)


def _model(manifest: Manifest) -> Html:
    planned = manifest.planned_memory_bytes
    return facts(
        [
            ("backbone", name(manifest.backbone)),
            ("precision", text(f"{manifest.precision}, {manifest.int8_mode}" if manifest.int8_mode else manifest.precision)),
            ("layers in float", join(map(name, manifest.fp32_layers), ", ")),
            ("runs on", name(f"{manifest.target}, {manifest.backend}")),
            ("input", text(_input(manifest))),
            ("delegates", text(str(manifest.delegates))),
            ("operators outside", join((name(f"{count} {kind}") for kind, count in manifest.fallback_ops.items()), ", ")),
            ("memory for activations", NOTHING if planned is None else text(f"{planned / 1e6:.2f} MB")),
            ("SHA-256", text(manifest.sha256)),
            ("checkpoint's SHA-256", text(manifest.checkpoint_sha256)),
        ]
    )  # fmt: skip


def _input(manifest: Manifest) -> str:
    side, batch = manifest.preprocessing.image_size, manifest.batch
    return f"{'1 image' if batch == 1 else f'{batch} images'} of {side} x {side} pixels, as {manifest.io}"


def _budgets(manifest: Manifest) -> Html:
    if not manifest.further_methods:
        return NOTHING
    most = max((method.gmacs for method in manifest.methods.values()), default=0.0)
    rows = [
        (
            name(method.name),
            gauge(method.gmacs / most if most > 0 else 0.0),
            text(f"{method.gmacs:.3f}"),
            _counts(method),
        )
        for method in manifest.methods.values()
    ]
    return table(rows, ("method", "", "GMACs", "tokens kept"), (2,))


def _counts(method: Method) -> Html:
    return text(", ".join(map(str, method.token_counts)) if method.token_counts else "all (dense)")


def _tokens(manifest: Manifest) -> Html:
    """A bar a stage of the default method; nothing for a dense model, where they would all be full."""
    if not manifest.token_counts or not manifest.patch_tokens:
        return NOTHING
    counts = (manifest.patch_tokens, *manifest.token_counts)
    rows = [
        (
            text("before selection" if stage == 0 else f"stage {stage}"),
            gauge(count / manifest.patch_tokens),
            text(f"{count}"),
            text(f"{count / manifest.patch_tokens:.1%}"),
            text(f"{blocks}"),
        )
        for stage, (count, blocks) in enumerate(zip(counts, manifest.stage_blocks))
    ]
    return table(rows, ("", "", "patches", "share", "blocks"), (2, 3, 4))


def _parity(content: ConvertPage, method: str) -> Html:
    parity, waiver = content.parity[method], (content.manifest.parity or {}).get("waiver")
    said = paragraph(
        join((text(f"{parity.images} images: "), name(content.source), text("; gates "), verdict(parity.passed)))
    )
    waived = NOTHING
    if not parity.passed and isinstance(waiver, dict):
        waived = paragraph(join((text("Written nevertheless, because: "), name(str(waiver.get("text"))))))
    found = facts(
        [
            ("top-1 agreement", text(f"{parity.top1_agreement:.1%}")),
            ("of decided images", text(f"{parity.decided_agreement:.1%} of {parity.decided_images}")),
            ("SNR of the logits", text(f"{parity.snr_db:.1f} dB")),
            ("PSNR of the logits", text(f"{parity.psnr_db:.1f} dB")),
        ]
    )
    parts = (said, waived, gates(parity.gates), found, overlap(parity.kept_overlap))
    return section(f"Method {method}", *parts, level=3) if len(content.parity) > 1 else join(parts, "\n")


def _measured(content: ConvertPage) -> Html:
    if not (content.samples_ms or content.stages or content.operators):
        return NOTHING
    histogram = distribution(content.samples_ms)
    return join(
        (
            paragraph(text(f"Measured on {content.measured_on}, which need not be the device that it is for.")),
            Html(f'<div class="charts">{histogram}</div>') if histogram else NOTHING,
            breakdown(content.stages, content.operators),
        )
    )
