"""How fast a converted model runs, here or on another device, and where the time goes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import torch

from tofe_edge.converters.quantize import SELECTORS, Int8Mode
from tofe_edge.converters.request import Calibration, ConvertRequest
from tofe_edge.errors import require
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, open_artifact
from tofe_edge.io.inputs import load_photographs
from tofe_edge.io.progress import progress_bar, warn
from tofe_edge.io.targets import target_of
from tofe_edge.model.backbones.spec import Output
from tofe_edge.model.checkpoint import Checkpoint, dense_form
from tofe_edge.runtimes.reports import DENSE, LatencyReport, PackageReport, ProfileRequest
from tofe_edge.runtimes.timing import DEFAULT_RUNS
from tofe_edge.workflows.convert import write_conversion
from tofe_edge.workflows.parity import find_reference
from tofe_edge.workflows.run import Model, artifact_of
from tofe_edge.workflows.sources import StrPath


def profile(
    model: StrPath | Model | Artifact,
    *,
    on: str = "host",
    runner: Path | None = None,
    cpus: str = "",
    threads: int | None = None,
    runs: int | None = None,
    sustained: float | None = None,
    against: StrPath | None = None,
    compute_units: str | None = None,
    provider: str | None = None,
    engine: str | None = None,
    method: str = DEFAULT_METHOD,
    checkpoint: StrPath | Checkpoint | None = None,
    backbone: str | None = None,
) -> LatencyReport | PackageReport:
    """Measure the latency of a converted model.

    Args:
        on: where: ``host``, ``ssh://[user@]host[:port]``, ``adb`` or ``adb://SERIAL``.
        runner: folder of a native runner built for the device.
        cpus: cores to run on, as ``0,2-3``; any if empty.
        threads: of the runtime (1 if not given).
        runs: timed runs (50 if not given).
        sustained: run for so many seconds and compare the last quarter with the first.
        against: another model to time in turn with this one; ``dense`` for the same net without token reduction.
        compute_units: where Core ML may run a package, on a Mac; every choice if not given.
        provider: ONNX Runtime's execution provider, of those that are installed (its CPU if not given).
        engine: ``tensorrt``: build and time an engine from an ONNX file on the board that ``on`` names.
        method: which budget of an elastic model.
        checkpoint: what the model was made from, for ``against="dense"``; found by checksum if it is a shipped one.
        backbone: the net, if the checkpoint has plain dense weights.

    Returns:
        What the model's target reports: a :class:`LatencyReport`, or a :class:`PackageReport` for a folder.

    Raises:
        InputError: the options do not go together, or the model or the device is not there.
        DeviceError: the device or the runtime fails.

    Example:
        >>> import tofe_edge as te
        >>> report = te.profile(artifact, runs=5)
        >>> report.where, len(report.timing.latency.samples_ms), len(report.breakdown.stages)
        ('host', 5, 7)
    """
    require(against is None or sustained is None, "--against and --sustained: one at a time")
    require(runs is None or sustained is None, "--runs and --sustained: one at a time")
    for name, value in (("checkpoint", checkpoint), ("backbone", backbone)):
        require(value is None or against == DENSE, f"--{name} is for --against dense")
    artifact = artifact_of(model)
    artifact.manifest.method(method)
    target = target_of(artifact.manifest)
    options = {
        "on": None if on == "host" else on,
        "runner": runner,
        "cpus": cpus or None,
        "threads": threads,
        "sustained": sustained,
        "against": against,
        "compute_units": compute_units,
        "provider": provider,
        "engine": engine,
    }
    for name in (name for name, value in options.items() if value is not None):
        target.check_runtime_option(name, artifact.path)
    request = ProfileRequest(
        method=method,
        on=on,
        runner=runner,
        cpus=cpus,
        threads=threads,
        runs=runs or DEFAULT_RUNS,
        sustained=sustained,
        rival=None if against is None else str(against),
        open_rival=None if against is None else partial(_rival, artifact, against, checkpoint, backbone),
        compute_units=compute_units,
        provider=provider,
        engine=engine,
    )
    report: LatencyReport | PackageReport = target.time(artifact, request)
    return report


@contextmanager
def _rival(
    artifact: Artifact, against: StrPath, checkpoint: StrPath | Checkpoint | None, backbone: str | None
) -> Iterator[Artifact]:
    """The other model: opened, or made of the same checkpoint and removed in the end."""
    if against != DENSE:
        yield open_artifact(Path(against))
        return
    reference = find_reference(artifact, checkpoint, backbone)
    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as folder:
        with progress_bar("converting the dense net (half a minute)", total=1, unit="net") as bar:
            twin = make_dense_twin(artifact, reference, Path(folder))
            bar.update(1)
        yield twin


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
        output=cast(Output, manifest.output),
        normalize=manifest.normalized,
        options=target.options_from({}),
    )
    return write_conversion(request, folder / request.file_name)
