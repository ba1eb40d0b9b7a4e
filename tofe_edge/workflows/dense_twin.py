"""The dense net of an artifact, converted as the artifact was: what ``profile --against dense`` compares it with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tofe_edge.errors import InputError
from tofe_edge.io.progress import warn

if TYPE_CHECKING:
    import torch

    from tofe_edge.converters.quantize import Int8Mode
    from tofe_edge.converters.request import Calibration
    from tofe_edge.io.artifact import Artifact, Manifest
    from tofe_edge.io.preprocessing import Preprocessing
    from tofe_edge.model.checkpoint import Checkpoint


def make_dense_twin(artifact: Artifact, checkpoint: Checkpoint, folder: Path) -> Artifact:
    """Convert the dense form of ``checkpoint`` in the precision, batch and size of ``artifact``.

    Args:
        checkpoint: what the artifact was made from.
        folder: where the model and its manifest are written.

    Raises:
        InputError: the artifact is dense itself, or the net cannot be converted.
    """
    from tofe_edge.converters.pipeline import convert
    from tofe_edge.converters.request import ConvertRequest
    from tofe_edge.io.artifact import open_artifact, write_manifest
    from tofe_edge.io.files import write_content
    from tofe_edge.io.targets import find_target
    from tofe_edge.model.checkpoint import dense_form

    manifest = artifact.manifest
    if manifest.token_counts is None:
        raise InputError(f"{artifact.path}: is a dense model itself; give a model with token reduction")
    request = ConvertRequest(
        checkpoint=dense_form(checkpoint),
        target=find_target("executorch"),
        precision=manifest.precision,
        profile=manifest.profile,
        file_name="dense.pte",
        int8_mode=_mode(manifest),
        calibration=_calibration(manifest),
        batch=manifest.batch,
        image_size=manifest.preprocessing.image_size,
        reproducible=manifest.reproducible,
    )
    # Selectors always are, and the dense net has none.
    returned = [layer for layer in manifest.fp32_layers if not layer.startswith("selectors.")]
    if returned:
        warn(
            f"{len(returned)} layers of {artifact.path} were left in float; the dense net's are not, and it gains by that"
        )
    path, conversion = folder / request.file_name, convert(request)
    write_content(path, conversion.content)
    write_manifest(path, conversion.manifest)
    return open_artifact(path)


def _mode(manifest: Manifest) -> Int8Mode:
    return "static" if manifest.int8_mode == "static" else "dynamic"


def _calibration(manifest: Manifest) -> Calibration | None:
    """Static ranges have to come from some image; which one does not change a latency."""
    from tofe_edge.converters.request import Calibration

    return Calibration(_photographs(manifest.preprocessing), None) if manifest.int8_mode == "static" else None


def _photographs(spec: Preprocessing) -> tuple[torch.Tensor, ...]:
    import torch

    from tofe_edge.io.inputs import load_photographs

    return tuple(torch.from_numpy(pixels.copy()) for pixels in load_photographs(spec).pixels)
