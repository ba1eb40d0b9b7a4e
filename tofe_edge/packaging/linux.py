"""Linux on boards and servers: a tar.gz with the native runner, ``libtofe``, the model and systemd units."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tofe_edge.errors import InputError, shown
from tofe_edge.packaging.bundle import Bundle, BundleFile
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.licences import (
    EXECUTORCH,
    GLUE,
    NOTICE,
    PHOTOGRAPHS,
    PILLOW,
    Licence,
    licence_text,
    notice,
    weights_licence,
)
from tofe_edge.packaging.linux_programs import ARCHES, HEADER, LIBRARY, RUNNER, Programs, read_programs
from tofe_edge.packaging.platform import Options, Platform, executorch_release, files_below, require_executorch
from tofe_edge.packaging.provenance import PROVENANCE, Provenance, provenance_file
from tofe_edge.packaging.template import render
from tofe_edge.packaging.unpack import Unpacked
from tofe_edge.packaging.wording import facts

_NAME = "linux"
SUMS = "SHA256SUMS"
"""For machines without this program: ``sha256sum -c``."""

_MODEL = "model/"
_BOARDS = {"aarch64": "Jetson, Raspberry Pi and other 64-bit ARM boards", "x86_64": "PCs and servers"}
_SYSTEMS_BY_GLIBC = {(2, 34): " (JetPack 6, Raspberry Pi OS 12, Ubuntu 22.04)"}
_THREADS = 4
"""Cores of a Raspberry Pi; no Jetson has fewer."""

_THIRD_PARTY = Licence(
    "libraries compiled into ExecuTorch's, the runner and libtofe",
    "Apache-2.0 AND BSD-2-Clause AND BSD-3-Clause AND MIT AND MPL-2.0",
    "XNNPACK, Eigen, JSON for Modern C++, stb and others; names, copyrights and texts in LICENSE-third-party",
)


def bundle_name(model: PackagedModel, options: Options) -> str:
    """``NAME-linux-ARCH.tar.gz``."""
    return f"{model.name}-{_NAME}-{_arch(options)}.tar.gz"


def build(model: PackagedModel, options: Options) -> Bundle:
    """The bundle of a model.

    Args:
        options: ``extra`` holds the runner, its libraries and the header, by their names in the bundle.

    Raises:
        InputError: Linux cannot run it, no release of ExecuTorch made it, an option is of another platform, or the runner
            does not fit.
    """
    require_executorch(model, "Linux")
    arch = _arch(options)
    files = dict(options.extra)
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
        "LICENSE": BundleFile(licence_text("apache-2.0")),
        "LICENSE-executorch": BundleFile(licence_text("executorch")),
        "LICENSE-pillow": BundleFile(licence_text("pillow")),
        "LICENSE-third-party": render("linux/third-party.txt", {}),
        NOTICE: BundleFile(notice(f"{model.name} for Linux, {arch}", licences).encode()),
    }
    files[SUMS] = BundleFile(_sums(files))
    files[PROVENANCE] = provenance_file(_NAME, arch, model, licences, files, {"glibc": _version(programs.glibc)})
    return Bundle(name, "tar.gz", files)


def _arch(options: Options) -> str:
    for given, flag in (
        (options.source, "--source"),
        (options.package_name, "--package-name"),
        (options.kotlinc, "--kotlinc"),
    ):
        if given:
            raise InputError(f"{flag}: is not used with --platform {_NAME}; leave it out")
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
    """What would keep a bundle from running on its machine. Raises :class:`InputError` for a damaged program."""
    files, arch = unpacked.files, provenance.variant
    if unpacked.form == "zip" or arch not in ARCHES:
        return [f"{PROVENANCE} says {_NAME} and {shown(arch)}, but this is a {unpacked.form}"]
    units = [f"systemd/{provenance.name}-{one}.service" for one in ("self-test", "classify@")]
    wanted = (RUNNER, LIBRARY, HEADER, SUMS, "README.md", NOTICE, "example/classify.c", *units)
    lines = [f"{name} is missing" for name in wanted if name not in files]
    if lines:
        return lines
    executable = {name for name, file in files.items() if file.executable}
    lines = [] if executable == {RUNNER} else [f"{RUNNER} is not the one file that is executable"]
    summed = {name: file for name, file in files.items() if name not in (SUMS, PROVENANCE)}
    if files[SUMS].data != _sums(summed):
        lines.append(f"{SUMS} does not say the sums of the files")
    return lines + read_programs(files).problems(arch)


def model_files(unpacked: Unpacked, provenance: Provenance) -> dict[str, BundleFile]:
    """The model's files."""
    return files_below(unpacked.files, _MODEL)


LINUX = Platform(_NAME, bundle_name, build, problems, model_files, RUNNER)
