"""The page of ``tofe-edge convert --html``: what it takes besides the conversion itself."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.files import check_place

if TYPE_CHECKING:
    from profiles import DeviceProfile
    from tofe_edge.artifact import Artifact
    from tofe_edge.backbones import Backbone
    from tofe_edge.checkpoint import Checkpoint
    from tofe_edge.pages.convert import ConvertPage
    from tofe_edge.parity import Parity

_RUNS = 50


def check_html_place(path: Path, places: Iterable[Path]) -> None:
    """Refuse a place for the page that is a folder or belongs to the model, before minutes are spent on it.

    Raises:
        InputError: it is one.
    """
    check_place(path, folder=False)
    taken = path.resolve()
    if any(taken == place.resolve() or place.resolve() in taken.parents for place in places):
        raise InputError(f"{path}: is where the model itself goes; choose another file for --html")


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
    from tofe_edge.backbones import create_host
    from tofe_edge.golden import golden_path_of, read_golden
    from tofe_edge.pages.convert import ConvertPage, write_page

    backbone = create_host(checkpoint.backbone_name, checkpoint.overrides).spec
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
    from tofe_edge.latency_model import block_ms, fits

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

    import torch

    from runtimes.etdump import Breakdown, break_down
    from runtimes.executorch import load
    from runtimes.latency import measure

    manifest = artifact.manifest
    size = manifest.preprocessing.image_size
    model = load(artifact, threads=1)
    pixels = torch.rand(manifest.batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    latency = measure(lambda: model.execute(pixels), _RUNS)
    try:
        breakdown = break_down(artifact, threads=1)
    except DeviceError as error:
        # The latency has been measured; a trace of an unknown shape must not throw it away.
        print(f"tofe-edge: warning: no breakdown: {error}", file=sys.stderr)
        breakdown = Breakdown((), ())
    return replace(
        content,
        measured_on=f"this machine ({platform.machine()}) with 1 thread",
        samples_ms=latency.samples_ms,
        stages=breakdown.stages,
        operators=breakdown.operators,
    )
