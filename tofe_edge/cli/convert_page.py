"""The page of ``tofe-edge convert --html``: what it takes besides the conversion itself."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

from tofe_edge.budget.latency_model import block_ms, fits
from tofe_edge.cli.pages.convert import ConvertPage, render
from tofe_edge.cli.pages.rendering import write_html
from tofe_edge.evaluation.golden import golden_path_of, read_golden
from tofe_edge.io.artifact import Artifact
from tofe_edge.io.targets import target_of
from tofe_edge.model.backbones import Backbone
from tofe_edge.model.checkpoint import backbone_of
from tofe_edge.profiles import DeviceProfile
from tofe_edge.runtimes.bench import HostBench
from tofe_edge.runtimes.timing import TimingRequest
from tofe_edge.workflows.convert import Converted
from tofe_edge.workflows.profile import trace


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
