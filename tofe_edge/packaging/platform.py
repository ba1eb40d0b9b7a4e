"""What a platform has to provide to be packaged for: one :class:`Platform` value per module, listed here by module."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tofe_edge.errors import InputError, quoted
from tofe_edge.evaluation.parity import Parity
from tofe_edge.io.artifact import Manifest
from tofe_edge.io.targets import runs_on, targets_for
from tofe_edge.packaging.archive import Unpacked
from tofe_edge.packaging.bundle import Bundle, BundleFile
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.provenance import Provenance
from tofe_edge.runtimes.native_runner import MethodVerdict

_MODULES = {name: f"tofe_edge.packaging.{name}" for name in ("android", "apple", "linux")}
_PACKAGE = "executorch"
"""The Python package, whose version is that of the libraries for devices."""
_RELEASE = re.compile(r"([0-9]+\.[0-9]+\.[0-9]+)(\+[a-z0-9.]+)?", re.ASCII)


@dataclass(frozen=True)
class Options:
    """What the user chose beside model and platform. A platform refuses what it does not use, see :meth:`Platform.check`."""

    source: bool = False
    """Sources for the platform's own build, in place of something built."""
    package_name: str | None = None
    """The package or module that the code is in."""
    kotlinc: Path | None = None
    """The Kotlin compiler; ``None`` looks on PATH."""
    arch: str | None = None
    """The processor, such as ``aarch64``; ``None``: the platform's usual one."""
    runner: Path | None = None
    """Folder with the user's own build of the native runner; ``None``: built on this machine and kept."""


Replay = Parity | MethodVerdict
"""The result of replaying the golden vectors of one method: on this machine's runtime, or by the program in a bundle."""


@dataclass(frozen=True)
class Platform:
    """A platform: how to make its bundles, and how to check one.

    Attributes:
        options: fields of :class:`Options` that it uses.
        bundle_name: returns the name of the bundle, with its suffix.
        build: returns the bundle of a model. Raises :class:`InputError` for a model that cannot run there.
        problems: returns what is wrong with the structure or the platform's own metadata of an unpacked bundle whose sums
            are right.
        model_files: returns the files of :meth:`PackagedModel.files` in such a bundle, by their names there.
        runner: the program in its bundles that replays golden vectors; ``None``: there is none. The architecture that it is
            for is the bundle's variant.
    """

    name: str
    options: tuple[str, ...]
    bundle_name: Callable[[PackagedModel, Options], str]
    build: Callable[[PackagedModel, Options], Bundle]
    problems: Callable[[Unpacked, Provenance], list[str]]
    model_files: Callable[[Unpacked, Provenance], Mapping[str, BundleFile]]
    runner: str | None = None

    def check(self, options: Options) -> None:
        """Refuse options of other platforms. Raises :class:`InputError`."""
        for name, value in vars(options).items():
            if name not in self.options and value not in (None, False):
                raise InputError(f"--{name.replace('_', '-')}: is not used with --platform {self.name}; leave it out")


def platform_names() -> tuple[str, ...]:
    """Return the platforms that can be packaged for."""
    return tuple(_MODULES)


def find_platform(name: str) -> Platform:
    """Return a platform by its name.

    Raises:
        InputError: there is no such platform.
    """
    if name not in _MODULES:
        raise InputError(f"platform {quoted(name)} is not one of {', '.join(_MODULES)}")
    platform: Platform = import_module(_MODULES[name]).PLATFORM
    return platform


def require_target(model: PackagedModel, platform: str) -> None:
    """Refuse a model of a target that the platform does not run. Raises :class:`InputError`."""
    manifest = model.manifest
    if not runs_on(manifest, platform.lower()):
        raise InputError(
            f"{model.file_name}: is a model for {manifest.target} with {manifest.backend}, which does not run on {platform}; "
            f"convert it with --target {', '.join(targets_for(platform.lower()))} for a profile of {platform}"
        )


def check_method_names(manifest: Manifest, good: Callable[[str], object], what: str) -> None:
    """Refuse methods that cannot name a constant of their own in the platform's language.

    Args:
        good: whether a name can; two that differ in case alone cannot.
        what: the constant, in words.

    Raises:
        InputError: one cannot.
    """
    for name in manifest.methods:
        if not good(name):
            raise InputError(
                f"{manifest.artifact}: method {quoted(name)} cannot name a {what}; convert the model again"
            )
    if len({name.lower() for name in manifest.methods}) < len(manifest.methods):
        raise InputError(f"{manifest.artifact}: two methods differ in case alone; convert the model again")


def executorch_release(manifest: Manifest, platform: str) -> str:
    """Return the release of ExecuTorch for a platform that fits: the one whose Python package made the program.

    Raises:
        InputError: the manifest does not name a release.
    """
    stated = manifest.versions.get(_PACKAGE, "")
    release = _RELEASE.fullmatch(stated)
    if release is None:
        raise InputError(
            f"{manifest.artifact}: was made with executorch {quoted(stated or 'of an unknown version')}, for which there is no "
            f"release for {platform}; convert it with a released version"
        )
    return release[1]


def files_below(files: Mapping[str, BundleFile], folder: str) -> dict[str, BundleFile]:
    """Return the files below ``folder`` (which ends in ``/``), by their path in it."""
    return {name.removeprefix(folder): file for name, file in files.items() if name.startswith(folder)}
