"""The page of ``tofe-edge convert --html``: what it takes besides the conversion itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tofe_edge.cli.pages.convert import ConvertPage
    from tofe_edge.evaluation.parity import Parity
    from tofe_edge.io.artifact import Artifact
    from tofe_edge.model.backbones import Backbone
    from tofe_edge.model.checkpoint import Checkpoint
    from tofe_edge.profiles import DeviceProfile


def write_convert_page(
    path: Path,
    artifact: Artifact,
    checkpoint: Checkpoint,
    reason: str,
    parity: Mapping[str, Parity],
    source: str,
    profile: DeviceProfile | None,
) -> None:
    """Measure the model here where that can be done, and write the page.

    Args:
        reason: why this checkpoint.
        parity: by method; ``source`` names its images.
        profile: of the device it is for; its latency tables are shown.

    Raises:
        InputError: the page cannot be written.
    """
    from tofe_edge.cli.pages.convert import ConvertPage, write_page
    from tofe_edge.evaluation.golden import golden_path_of, read_golden
    from tofe_edge.model.checkpoint import host_of

    backbone = host_of(checkpoint).spec
    content = ConvertPage(
        manifest=artifact.manifest,
        golden=read_golden(golden_path_of(artifact.path), artifact),
        reason=reason,
        parity=parity,
        source=source,
        prefix_tokens=backbone.prefix_tokens,
    )
    write_page(path, with_times(with_staircases(content, backbone, profile), artifact))


def with_staircases(content: ConvertPage, backbone: Backbone, profile: DeviceProfile | None) -> ConvertPage:
    """With what the profile's latency tables tell of this net's blocks on the device; unchanged where they tell nothing."""
    from tofe_edge.budget.latency_model import block_ms, fits

    tables = [table for table in profile.latency if fits(table, backbone)] if profile else []
    if content.manifest.patch_tokens != backbone.patch_tokens:
        # Made for another size of image than the tables' net.
        return content
    return replace(
        content,
        block_ms={table.precision: table.block for table in tables},
        fitted_ms={table.precision: list(enumerate(block_ms(table, backbone).tolist()))[1:] for table in tables},
    )


def with_times(content: ConvertPage, artifact: Artifact) -> ConvertPage:
    """With times of the default method on this machine; unchanged for what runs on Apple's systems alone."""
    if artifact.manifest.backend != "xnnpack":
        return content
    import platform

    from tofe_edge.runtimes.bench import HostBench
    from tofe_edge.runtimes.timing import TimingRequest
    from tofe_edge.workflows.profile import trace

    timing = HostBench().time(artifact.path, TimingRequest())
    breakdown = trace(artifact, threads=1)
    return replace(
        content,
        measured_on=f"this machine ({platform.machine()}) with 1 thread",
        samples_ms=timing.latency.samples_ms,
        stages=breakdown.stages if breakdown else (),
        operators=breakdown.operators if breakdown else (),
    )
