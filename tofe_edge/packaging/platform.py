"""What a platform has to say to be packaged for: one value of :class:`Platform` a file, listed in ``registry``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tofe_edge.errors import InputError, shown
from tofe_edge.io.artifact import Manifest
from tofe_edge.io.targets import runs_on, targets_for
from tofe_edge.packaging.bundle import Bundle, BundleFile
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.provenance import Provenance
from tofe_edge.packaging.unpack import Unpacked

_PACKAGE = "executorch"
"""The Python package, whose version is that of the libraries for devices."""
_RELEASE = re.compile(r"([0-9]+\.[0-9]+\.[0-9]+)(\+[a-z0-9.]+)?", re.ASCII)


@dataclass(frozen=True)
class Options:
    """What the user chose beside model and platform. Every platform refuses what it has no use for."""

    source: bool = False
    """Sources for the platform's own build, in place of something built."""
    package_name: str | None = None
    """The package or module that the code is in."""
    kotlinc: Path | None = None
    """The Kotlin compiler; ``None`` looks on PATH."""
    arch: str | None = None
    """The processor, such as ``aarch64``; ``None``: the platform's usual one."""
    extra: Mapping[str, BundleFile] = field(default_factory=dict)
    """Files that only the command line can make, such as a native runner."""


class Replay(Protocol):
    """What golden vectors told of one method."""

    @property
    def passed(self) -> bool:
        """Whether every gate was reached."""

    @property
    def failures(self) -> tuple[str, ...]:
        """What was not reached, in words."""

    @property
    def snr_db(self) -> float:
        """Of the logits; infinite where they are the same to the bit."""

    def to_json(self) -> dict[str, Any]:
        """All figures."""


@dataclass(frozen=True)
class Platform:
    """How to make a bundle, and how to look at one.

    Attributes:
        bundle_name: what the bundle will be called, with its suffix.
        build: the bundle of a model. Raises :class:`InputError` for a model that cannot run there.
        problems: what is wrong with the structure or the platform's own metadata of an unpacked bundle whose sums are right.
        model_files: of such a bundle, the files of :meth:`PackagedModel.files` by their names there.
        runner: the program in its bundles that replays golden vectors; ``None``: there is none. The architecture that it is
            for is the bundle's variant.
    """

    name: str
    bundle_name: Callable[[PackagedModel, Options], str]
    build: Callable[[PackagedModel, Options], Bundle]
    problems: Callable[[Unpacked, Provenance], list[str]]
    model_files: Callable[[Unpacked, Provenance], Mapping[str, BundleFile]]
    runner: str | None = None


def require_executorch(model: PackagedModel, platform: str) -> None:
    """Refuse a model that no ExecuTorch with XNNPACK runs. Raises :class:`InputError`."""
    manifest = model.manifest
    if not runs_on(manifest, platform.lower()):
        raise InputError(
            f"{model.file_name}: is a model for {manifest.target} with {manifest.backend}, which does not run on {platform}; "
            f"convert it with --target {', '.join(targets_for(platform.lower()))} for a profile of {platform}"
        )


def executorch_release(manifest: Manifest, platform: str) -> str:
    """The release of ExecuTorch for a platform that fits: the one whose Python package made the program.

    Raises:
        InputError: the manifest does not name a release.
    """
    stated = manifest.versions.get(_PACKAGE, "")
    release = _RELEASE.fullmatch(stated)
    if release is None:
        raise InputError(
            f"{manifest.artifact}: was made with executorch {shown(stated or 'of an unknown version')}, for which there is no "
            f"release for {platform}; convert it with a released version"
        )
    return release[1]


def files_below(files: Mapping[str, BundleFile], folder: str) -> dict[str, BundleFile]:
    """The files below ``folder`` (which ends in ``/``), by their path in it."""
    return {name.removeprefix(folder): file for name, file in files.items() if name.startswith(folder)}
