"""Packaging a model for a platform, and checking such a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tofe_edge.errors import InputError
from tofe_edge.evaluation.golden import GoldenSet, replay
from tofe_edge.evaluation.parity import Parity
from tofe_edge.io.artifact import Artifact, Manifest
from tofe_edge.io.files import fingerprint_of
from tofe_edge.io.progress import warn
from tofe_edge.model.checkpoint import Checkpoint, dense_form
from tofe_edge.model.zoo import find_by_checksum, find_checkpoint
from tofe_edge.packaging import check
from tofe_edge.packaging.check import BundleCheck
from tofe_edge.packaging.contents import load_packaged_model
from tofe_edge.packaging.licences import SHIPPED_LICENCE, UNKNOWN, Weights
from tofe_edge.packaging.linux import runner_test
from tofe_edge.packaging.place import check_free, place
from tofe_edge.packaging.platform import Options, find_platform
from tofe_edge.profiles import load_profile, profile_names
from tofe_edge.runtimes.loading import open_model
from tofe_edge.workflows.run import Model, artifact_of
from tofe_edge.workflows.sources import StrPath


@dataclass(frozen=True)
class Packaged:
    """A bundle on the disk."""

    path: Path
    platform: str
    form: str
    """``folder``, ``zip`` or ``tar.gz``."""
    size_bytes: int
    sha256: str
    files: tuple[str, ...]
    weights_licence: str | None
    """An SPDX expression; ``None``: not known."""

    def to_json(self) -> dict[str, Any]:
        """Return the keys of ``tofe-edge package --json``."""
        return {
            "bundle": str(self.path),
            "platform": self.platform,
            "form": self.form,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "files": list(self.files),
            "weights_licence": self.weights_licence,
            "written": [str(self.path)],
        }


def package(
    model: StrPath | Model | Artifact,
    platform: str,
    out: StrPath = "out",
    *,
    name: str | None = None,
    checkpoint: str | None = None,
    weights_licence: str | None = None,
    force: bool = False,
    **options: Any,
) -> Packaged:
    """Make a model into what an app's build takes.

    Args:
        platform: ``android``, ``apple`` or ``linux``.
        out: the folder for the bundle.
        name: what the model is called there; its file's name if not given.
        checkpoint: what the model was made from, whose record goes along; a shipped one is found by checksum.
        weights_licence: terms of the weights, an SPDX expression; those of a shipped checkpoint if not given.
        force: replace an earlier, untouched bundle.
        options: fields of :class:`tofe_edge.packaging.platform.Options`, such as ``source=True``.

    Raises:
        InputError: the platform cannot run the model, an option does not fit, or the place is taken.
        DeviceError: a compiler fails.

    Example:
        >>> import tofe_edge as te
        >>> bundle = te.package(artifact, "android", "bundles", source=True, weights_licence="Apache-2.0")
        >>> bundle.platform, bundle.path.exists()
        ('android', True)
    """
    artifact, kind, choices, folder = artifact_of(model), find_platform(platform), Options(**options), Path(out)
    kind.check(choices)
    _warn_of_profile(artifact.manifest, platform, choices.arch or "aarch64")
    packaged = load_packaged_model(artifact, weights_of(artifact.manifest, checkpoint, weights_licence), name)
    # Building can take a compiler's time: a place that is taken is found before.
    check_free(folder / kind.bundle_name(packaged, choices), force)
    bundle = kind.build(packaged, choices)
    path = place(bundle, folder, force)
    written, licence = fingerprint_of(path), packaged.weights.licence
    return Packaged(
        path,
        platform,
        bundle.form,
        written.size_bytes,
        written.sha256,
        tuple(sorted(bundle.files)),
        None if licence == UNKNOWN else licence,
    )


def _warn_of_profile(manifest: Manifest, platform: str, arch: str) -> None:
    """Say that a bundle is for another kind of device than its model, as far as profiles tell that."""
    if manifest.profile not in profile_names():
        return
    profile = load_profile(manifest.profile)
    if not profile.is_of(arch) or (platform == "apple") != (profile.defaults.target == "coreml"):
        warn(
            f"{manifest.artifact} was made for {manifest.profile} ({profile.title}), and the bundle is for {platform} on {arch}: "
            "budget and precision are those of the other device; convert with that of this one"
        )


def weights_of(manifest: Manifest, checkpoint: str | None, licence: str | None) -> Weights:
    """Return what is known of the weights: stated, or from the checkpoint given or shipped that they came from.

    Raises:
        InputError: the checkpoint is not the manifest's.
    """
    weights = Weights()
    shipped = find_by_checksum(manifest.checkpoint_sha256)
    if shipped is not None:
        weights = Weights(SHIPPED_LICENCE, shipped.training, _as_converted(shipped, manifest).accuracy)
    if checkpoint is not None:
        origin = find_checkpoint(checkpoint)
        if origin.sha256() != manifest.checkpoint_sha256:
            raise InputError(f"--checkpoint {checkpoint}: the model was not made from it, their checksums differ")
        weights = replace(weights, training=origin.training, accuracy=_as_converted(origin, manifest).accuracy)
    return weights if licence is None else replace(weights, licence=licence)


def _as_converted(checkpoint: Checkpoint, manifest: Manifest) -> Checkpoint:
    """The checkpoint, or its dense form if that is what was converted: the accuracy in its header is not of that."""
    return dense_form(checkpoint) if manifest.token_counts is None else checkpoint


def check_bundle(path: Path, run_program: bool = False) -> BundleCheck:
    """Check structure, sums and metadata of a bundle, and run its model on its golden vectors.

    Args:
        run_program: run the program that a Linux bundle brings, in place of this machine's runtime; only for bundles you
            trust.

    Raises:
        InputError: there is no bundle, it has no program to run, or no temporary folder can be written.
    """
    return check.check_bundle(path, _self_test, runner_test if run_program else None)


def _self_test(artifact: Artifact, golden: GoldenSet) -> Mapping[str, Parity]:
    return {name: replay(golden, open_model(artifact, 1, name), name) for name in artifact.manifest.methods}
