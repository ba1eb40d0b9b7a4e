"""The public form of ``convert``, whose workflow takes one value with many fields: keywords in, a model out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.profiles import DeviceProfile
from tofe_edge.workflows import convert as conversion
from tofe_edge.workflows.conversion_plan import ConvertOptions
from tofe_edge.workflows.run import Model
from tofe_edge.workflows.sources import StrPath


def convert(
    checkpoint: StrPath | Checkpoint | None = None,
    *,
    profile: StrPath | DeviceProfile | None = None,
    max_gmacs: float | None = None,
    max_latency_ms: float | None = None,
    target: str | None = None,
    precision: str | None = None,
    options: Mapping[str, str] | None = None,
    calibration: Path | None = None,
    elastic: Sequence[float] = (),
    output: str | None = None,
    normalize: bool = False,
    out: StrPath = "out",
    **rare: Any,
) -> Model:
    """Make a checked model file for a device. It is written only if it passes its parity gates.

    Args:
        checkpoint: a shipped checkpoint's name, a file, or an opened one; chosen by budget if not given.
        profile: a shipped device profile's name or a YAML file: budget, target, precision and threads.
        max_gmacs: budget in 1e9 multiply-accumulates per image, in place of the profile's.
        max_latency_ms: what one image may take on the profile's device, by its latency tables.
        target: ``executorch``, ``coreml`` or ``onnx``; the profile's if not given.
        precision: ``int8`` or ``fp32``; for ONNX ``fp16``, for Core ML ``fp16``, ``pal6``, ``pal4`` too; the profile's if not given.
        options: the target's own, by name.
        calibration: a folder of images for int8 and palettes; crops of two photographs if not given.
        elastic: further budgets in GMACs, as methods of the same model.
        output: ``logits``, ``embedding`` or ``features``; logits, or the embedding of a net without head, if not given.
        normalize: give an embedding the length 1.
        out: the folder for the model, its manifest and its golden vectors.
        rare: other fields of :class:`tofe_edge.workflows.conversion_plan.ConvertOptions`.

    Raises:
        InputError: the options do not go together, or a file cannot be read or written.
        GateError: nothing fits the budget, or the model does not predict what the reference predicts.
        DeviceError: the model cannot be run here.

    Example:
        >>> import tofe_edge as te
        >>> model = te.convert(checkpoint, precision="fp32", out="models")
        >>> model.path.name, model.manifest.parity["passed"]
        ('tiny-fp32.pte', True)
    """
    asked = ConvertOptions(
        checkpoint=checkpoint,
        profile=profile,
        max_gmacs=max_gmacs,
        max_latency_ms=max_latency_ms,
        target=target,
        precision=precision,
        options=options or {},
        calibration=calibration,
        elastic=elastic,
        output=output,
        normalize=normalize,
        out=out,
        **rare,
    )
    return Model(conversion.convert(asked).artifact)
