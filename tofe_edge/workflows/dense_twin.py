"""The dense net of an artifact, converted as the artifact was: what ``profile --against dense`` compares it with."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from tofe_edge.converters.quantize import SELECTORS, Int8Mode
from tofe_edge.converters.request import Calibration, ConvertRequest
from tofe_edge.errors import require
from tofe_edge.io.artifact import Artifact
from tofe_edge.io.inputs import load_photographs
from tofe_edge.io.progress import warn
from tofe_edge.io.targets import target_of
from tofe_edge.model.checkpoint import Checkpoint, dense_form
from tofe_edge.workflows.convert import write_conversion


def make_dense_twin(artifact: Artifact, checkpoint: Checkpoint, folder: Path) -> Artifact:
    """Convert the dense form of ``checkpoint`` in the precision, batch and size of ``artifact``.

    Args:
        checkpoint: what the artifact was made from.
        folder: where the model and its manifest are written.

    Raises:
        InputError: the artifact is dense itself, or the net cannot be converted.
    """
    manifest, target = artifact.manifest, target_of(artifact.manifest)
    require(
        manifest.token_counts is not None,
        f"{artifact.path}: is a dense model itself; give a model with token reduction",
    )
    calibration = None
    if manifest.int8_mode == "static":
        # Static ranges have to come from some image; which one does not change a latency.
        photographs = load_photographs(manifest.preprocessing).pixels
        calibration = Calibration(tuple(torch.from_numpy(pixels.copy()) for pixels in photographs), None)
    # Selectors always are in float, and the dense net has none.
    returned = [layer for layer in manifest.fp32_layers if not layer.startswith(SELECTORS)]
    if returned:
        warn(
            f"{len(returned)} layers of {artifact.path} were left in float; the dense net's are not, and it gains by that"
        )
    request = ConvertRequest(
        checkpoint=dense_form(checkpoint),
        target=target,
        precision=manifest.precision,
        profile=manifest.profile,
        file_name=f"dense{target.suffix}",
        int8_mode=cast(Int8Mode, manifest.int8_mode or "dynamic"),
        calibration=calibration,
        batch=manifest.batch,
        image_size=manifest.preprocessing.image_size,
        reproducible=manifest.reproducible,
        options=target.options_from({}),
    )
    return write_conversion(request, folder / request.file_name)
