"""Tracing which tokens of images each stage keeps, freezes and reuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tofe_edge.errors import require
from tofe_edge.evaluation.image_tokens import ImageTokens, Traced, trace
from tofe_edge.evaluation.prediction import MeanUsage
from tofe_edge.evaluation.reference import Mode, load_reference
from tofe_edge.io.dataset import UNLABELLED, Sample, find_samples, refuse_lost, sample_evenly
from tofe_edge.io.listing import EVERYTHING, Coverage, Found, list_images, why_left_out
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.workflows.sources import resized


@dataclass(frozen=True)
class TokenReport:
    """The tokens of images.

    Attributes:
        traced: image by image; those to be drawn have pixels.
        usage: means over all images.
        coverage: how much of the data was used.
    """

    checkpoint: Checkpoint
    mode: str
    device: str
    traced: Traced
    usage: MeanUsage
    coverage: Coverage

    @property
    def drawn(self) -> list[ImageTokens]:
        """The images to be drawn."""
        return [image for image in self.traced.images if image.pixels is not None]


def trace_tokens(
    checkpoint: Checkpoint,
    *,
    images: Sequence[Path] | None = None,
    data: Path | None = None,
    limit: int | None = None,
    draw: int | None = None,
    resize: str | None = None,
    mode: Mode = "batch",
    device: str = "auto",
    allow_empty: bool = False,
) -> TokenReport:
    """Trace the tokens of ``images``, or of at most ``limit`` images of ``data``, of which ``draw`` are to be drawn.

    Raises:
        InputError: the checkpoint is dense, or images cannot be used. A file of ``images`` that cannot be read was meant;
            those of ``data`` are left out and counted, and a class of which none can be read is an error unless allowed.
    """
    require(
        checkpoint.token_counts is not None,
        f"{checkpoint.name}: is a dense model, which computes every token in every stage; give a ToFe checkpoint "
        "(tofe-edge checkpoints)",
    )
    if images is not None:
        samples = drawn = [Sample(path, UNLABELLED) for path in images]
        source, coverage = images[0].parent, EVERYTHING
        for sample in samples:
            sample.read()
    else:
        assert data is not None
        found = _samples(data, checkpoint, allow_empty)
        source, samples, coverage = data, sample_evenly(found, limit), found.coverage
        drawn = sample_evenly(samples, draw)
    reference = load_reference(checkpoint, mode, device)
    spec = resized(checkpoint.preprocessing, resize)
    traced = trace(reference, source, samples, spec, checkpoint.classes.names, drawn)
    coverage = coverage.without(traced.left_out)
    if data is not None and limit is None and not allow_empty:
        lost = {sample.label for sample in samples} - {image.label for image in traced.images} - {UNLABELLED}
        refuse_lost(data, sorted(lost), checkpoint.classes.ids, coverage.left_out)
    return TokenReport(checkpoint, reference.mode, reference.device.type, traced, traced.mean_usage(), coverage)


def _samples(data: Path, checkpoint: Checkpoint, allow_empty: bool) -> Found[Sample]:
    """The images of a folder without classes, or labelled ones."""
    flat = data.is_dir() and any(why_left_out(path) is None for path in data.iterdir())
    if flat:
        found = list_images(data)
        return Found((Sample(path, UNLABELLED) for path in found), found.coverage)
    return find_samples(data, checkpoint.classes.ids, allow_empty)
