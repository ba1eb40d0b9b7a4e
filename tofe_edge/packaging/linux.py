"""Linux on boards and servers: a tar.gz with the native runner, ``libtofe``, the model and systemd units."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from tofe_edge.errors import InputError, shown
from tofe_edge.packaging.archive import Unpacked
from tofe_edge.packaging.bundle import Bundle, BundleFile
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.licences import (
    EXECUTORCH,
    GLUE,
    PHOTOGRAPHS,
    PILLOW,
    Licence,
    legal_files,
    weights_licence,
)
from tofe_edge.packaging.platform import Options, Platform, executorch_release, files_below, require_target
from tofe_edge.packaging.provenance import PROVENANCE, Provenance, provenance_file
from tofe_edge.packaging.runner import HEADER, RUNNER, runner_files
from tofe_edge.packaging.texts import facts, render
from tofe_edge.runtimes.elf import Elf, read_elf

_NAME = "linux"
SUMS = "SHA256SUMS"
"""Sums for machines without this program: ``sha256sum -c``."""

LIBRARY = "lib/libtofe.so"
ARCHES = ("aarch64", "x86_64")
"""The first is the default."""

_MODEL = "model/"
_BOARDS = {"aarch64": "Jetson, Raspberry Pi and other 64-bit ARM boards", "x86_64": "PCs and servers"}
_SYSTEMS_BY_GLIBC = {(2, 34): " (JetPack 6, Raspberry Pi OS 12, Ubuntu 22.04)"}
_THREADS = 4
"""The number of cores of a Raspberry Pi; no Jetson has fewer."""

_THIRD_PARTY = Licence(
    part="libraries compiled into ExecuTorch's, the runner and libtofe",
    licence="Apache-2.0 AND BSD-2-Clause AND BSD-3-Clause AND MIT AND MPL-2.0",
    note="XNNPACK, Eigen, JSON for Modern C++, stb and others; names, copyrights and texts in LICENSE-third-party",
)


_SYSTEM_LIBRARIES = frozenset(
    {
        *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1", "libstdc++.so.6"),
        *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
    }
)
"""Libraries that every Linux with glibc and a C++ program on it has."""


@dataclass(frozen=True)
class Programs:
    """The compiled files of a bundle: their ELF headers by name."""

    elves: Mapping[str, Elf]

    @property
    def glibc(self) -> tuple[int, int]:
        """The oldest C library that all of them run with, such as ``(2, 34)``."""
        return max(elf.glibc for elf in self.elves.values())

    def problems(self, arch: str) -> list[str]:
        """Return what would keep them from running on ``arch`` wherever the bundle lies, a line each."""
        lines = []
        beside = {name.removeprefix("lib/") for name in self.elves if name.startswith("lib/")}
        for name, elf in sorted(self.elves.items()):
            if elf.arch != arch:
                lines.append(f"{name} is built for {elf.arch}, not for {arch}")
            lines += [
                f"{name} needs {one}, which neither the bundle nor a Linux system has"
                for one in elf.needed
                if one not in beside | _SYSTEM_LIBRARIES
            ]
            lines += [
                f"{name} looks for libraries in {part or 'the working folder'}, outside the bundle"
                for part in elf.search
                if not _is_inside(name, part)
            ]
        return lines


def read_programs(files: Mapping[str, BundleFile]) -> Programs:
    """Read the runner and everything in ``lib/``. Raises :class:`InputError` for what is not an ELF file."""
    names = [name for name in files if name == RUNNER or name.startswith("lib/")]
    return Programs({name: read_elf(files[name].data, name) for name in names})


def _is_inside(name: str, part: str) -> bool:
    """Return whether a search path stays in the bundle: relative to the file's own folder, and never above the bundle."""
    origin, _, rest = part.partition("/")
    place = posixpath.normpath(posixpath.join(posixpath.dirname(name), rest.lstrip("/")))
    return origin in ("$ORIGIN", "${ORIGIN}") and place.split("/")[0] != ".."


def bundle_name(model: PackagedModel, options: Options) -> str:
    """Return ``NAME-linux-ARCH.tar.gz``."""
    return f"{model.name}-{_NAME}-{_arch(options)}.tar.gz"


def build(model: PackagedModel, options: Options) -> Bundle:
    """Return the bundle of a model; the native runner is built unless ``options`` bring one.

    Raises:
        InputError: Linux cannot run it, no release of ExecuTorch made it, or the runner does not fit or cannot be built.
        DeviceError: the compiler fails.
    """
    require_target(model, "Linux")
    arch = _arch(options)
    files = runner_files(arch, options.runner, model.manifest)
    lacking = [name for name in (RUNNER, LIBRARY, HEADER) if name not in files]
    if lacking:
        raise InputError(f"the native runner lacks {lacking[0]}; build it with the headers for manifests and images")
    programs = read_programs(files)
    wrong = programs.problems(arch)
    if wrong:
        raise InputError(f"the native runner does not fit: {wrong[0]}; see docs/linux.md")
    weights = weights_licence(model.manifest.checkpoint, model.manifest.checkpoint_sha256, model.weights)
    licences = [GLUE, weights, PHOTOGRAPHS, PILLOW, EXECUTORCH, _THIRD_PARTY]
    name = bundle_name(model, options)
    files |= {f"{_MODEL}{path}": file for path, file in model.files().items()}
    files |= _documents(_values(model, arch, name.removesuffix(".tar.gz"), programs))
    files |= {
        **legal_files(f"{model.name} for Linux, {arch}", licences),
        "LICENSE-third-party": render("linux/third-party.txt", {}),
    }
    files[SUMS] = BundleFile(_sums(files))
    files[PROVENANCE] = provenance_file(_NAME, arch, model, licences, files, {"glibc": _version(programs.glibc)})
    return Bundle(name, "tar.gz", files)


def _arch(options: Options) -> str:
    arch = options.arch or ARCHES[0]
    if arch not in ARCHES:
        raise InputError(f"--arch {arch}: there are bundles for {' and '.join(ARCHES)}")
    return arch


def _values(model: PackagedModel, arch: str, folder: str, programs: Programs) -> dict[str, object]:
    values: dict[str, object] = {
        "NAME": model.name,
        "FOLDER": folder,
        "ARCH": arch,
        "BOARDS": _BOARDS[arch],
        "FACTS": facts(model.manifest),
        "GLIBC": _version(programs.glibc),
        "SYSTEMS": _SYSTEMS_BY_GLIBC.get(programs.glibc, ""),
        "EXECUTORCH": executorch_release(model.manifest, "Linux"),
        "THREADS": _THREADS,
    }
    return {**values, "HARDENING": render("linux/hardening.conf", values).data.decode().strip("\n")}


def _version(parts: tuple[int, int]) -> str:
    return ".".join(map(str, parts))


def _documents(values: Mapping[str, object]) -> dict[str, BundleFile]:
    name = values["NAME"]
    return {
        "README.md": render("linux/README.md", values),
        f"systemd/{name}-self-test.service": render("linux/self-test.service", values),
        f"systemd/{name}-classify@.service": render("linux/classify.service", values),
        "example/classify.c": render("linux/classify.c", values),
        "example/Makefile": render("linux/Makefile", values),
    }


def _sums(files: Mapping[str, BundleFile]) -> bytes:
    lines = [f"{hashlib.sha256(files[name].data).hexdigest()}  {name}\n" for name in sorted(files)]
    return "".join(lines).encode()


def problems(unpacked: Unpacked, provenance: Provenance) -> list[str]:
    """Return what would keep a bundle from running on its machine. Raises :class:`InputError` for a damaged program."""
    files, arch = unpacked.files, provenance.variant
    if unpacked.form == "zip" or arch not in ARCHES:
        return [f"{PROVENANCE} says {_NAME} and {shown(arch)}, but this is a {unpacked.form}"]
    lines = [f"{name} is missing" for name in (RUNNER, LIBRARY, HEADER) if name not in files]
    if lines:
        return lines
    executable = {name for name, file in files.items() if file.executable}
    lines = [] if executable == {RUNNER} else [f"{RUNNER} is not the only executable file"]
    return lines + read_programs(files).problems(arch)


def model_files(unpacked: Unpacked, provenance: Provenance) -> dict[str, BundleFile]:
    """Return the model's files."""
    return files_below(unpacked.files, _MODEL)


PLATFORM = Platform(_NAME, ("arch", "runner"), bundle_name, build, problems, model_files, RUNNER)
