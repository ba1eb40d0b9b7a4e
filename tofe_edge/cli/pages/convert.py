"""The page of ``tofe-edge convert``: what was made and why, its parity with the reference, and its latency here."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tofe_edge.budget.latency_model import block_ms, fits
from tofe_edge.cli.pages.charts import percentiles
from tofe_edge.cli.pages.rendering import render_template, write_html
from tofe_edge.cli.pages.sections import BlockLatency, block_latency, latency_histogram, layer_noise, overlap_gate
from tofe_edge.cli.pages.token_map import heat_legend, method_maps
from tofe_edge.evaluation.golden import GoldenSet, golden_path_of, read_golden
from tofe_edge.evaluation.parity import Parity
from tofe_edge.io.artifact import Artifact, Manifest
from tofe_edge.io.targets import target_of
from tofe_edge.model.backbones import Backbone
from tofe_edge.model.checkpoint import backbone_of
from tofe_edge.profiles import DeviceProfile
from tofe_edge.runtimes.bench import HostBench
from tofe_edge.runtimes.breakdown import TimeShare
from tofe_edge.runtimes.etdump import trace
from tofe_edge.runtimes.timing import TimingRequest
from tofe_edge.workflows.convert import Converted


@dataclass(frozen=True, kw_only=True)
class ConvertPage:
    """What the page shows; what is not known is left out of it."""

    manifest: Manifest
    golden: GoldenSet | None
    """The source of the token maps."""
    reason: str
    """Why this checkpoint and these counts."""
    parity: Mapping[str, Parity]
    """By method, the default first."""
    source: str
    """Names the images of the parity check."""
    measured_on: str = ""
    """The machine that the following were measured on, and with how many threads."""
    samples_ms: Sequence[float] = ()
    stages: Sequence[TimeShare] = ()
    operators: Sequence[TimeShare] = ()
    block_ms: Mapping[str, BlockLatency] = field(default_factory=dict)
    """The profile's latency table, by precision."""
    fitted_ms: Mapping[str, BlockLatency] = field(default_factory=dict)
    """The latency model's forecast for every number of tokens, by precision."""
    prefix_tokens: int = 1
    """CLS, and the distillation token if there is one."""


def render(content: ConvertPage) -> str:
    """Return the page; it loads nothing from anywhere else, and no name in it can be markup.

    Raises:
        InputError: the golden vectors do not belong to the manifest.
    """
    manifest = content.manifest
    counts = [manifest.patch_tokens, *manifest.token_counts] if manifest.token_counts else []
    waiver = (manifest.parity or {}).get("waiver")
    return render_template(
        "convert.html",
        page=content,
        manifest=manifest,
        passed=all(parity.passed for parity in content.parity.values()),
        waiver=str(waiver.get("text")) if isinstance(waiver, dict) else "",
        side=manifest.preprocessing.image_size,
        p50_ms=percentiles(content.samples_ms)[50] if content.samples_ms else None,
        histogram=latency_histogram(content.samples_ms),
        block_latency=block_latency(content.block_ms, content.fitted_ms, [content.prefix_tokens + n for n in counts]),
        maps=method_maps(manifest, content.golden, list(manifest.methods)),
        heat_legend=heat_legend(len(manifest.stage_blocks)),
        layer_noise=layer_noise(manifest),
        overlap_gate=overlap_gate(manifest),
    )


def write_convert_page(path: Path, converted: Converted) -> None:
    """Measure the model here if that can be done, and write the page. Raises :class:`InputError` if it cannot be written."""
    artifact, plan = converted.artifact, converted.plan
    backbone = backbone_of(plan.request.checkpoint).spec
    content = ConvertPage(
        manifest=artifact.manifest,
        golden=read_golden(golden_path_of(artifact.path), artifact),
        reason=converted.reason,
        parity=converted.parities,
        source=converted.source,
        prefix_tokens=backbone.prefix_tokens,
    )
    write_html(path, render(with_times(with_block_latency(content, backbone, plan.profile), artifact)))


def with_block_latency(content: ConvertPage, backbone: Backbone, profile: DeviceProfile | None) -> ConvertPage:
    """Add the latency of the model's blocks from the profile's tables; unchanged if no table fits the model."""
    tables = [table for table in profile.latency if fits(table, backbone)] if profile else []
    if content.manifest.patch_tokens != backbone.patch_tokens:
        # Made for another image size than the tables' model.
        return content
    return replace(
        content,
        block_ms={table.precision: table.block for table in tables},
        fitted_ms={table.precision: list(enumerate(block_ms(table, backbone).tolist()))[1:] for table in tables},
    )


def with_times(content: ConvertPage, artifact: Artifact) -> ConvertPage:
    """Add times of the default method on this machine; unchanged if the model does not run here."""
    if not target_of(artifact.manifest).native_runner:
        return content
    timing = HostBench().time(artifact.path, TimingRequest())
    breakdown = trace(artifact, threads=1)
    return replace(
        content,
        measured_on=f"this machine ({platform.machine()}) with 1 thread",
        samples_ms=timing.latency.samples_ms,
        stages=breakdown.stages if breakdown else (),
        operators=breakdown.operators if breakdown else (),
    )
