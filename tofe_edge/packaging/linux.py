"""Linux on boards and servers: a tar.gz with the native runner, ``libtofe``, the model and systemd units."""

from __future__ import annotations

import errno
import hashlib
import platform
import posixpath
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tofe_edge.errors import DeviceError, InputError, quoted
from tofe_edge.evaluation.golden import golden_path_of
from tofe_edge.io.artifact import Artifact, Manifest
from tofe_edge.io.progress import progress_bar
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
from tofe_edge.packaging.texts import facts, kind_values, parts, render
from tofe_edge.runtimes.devices.deploy import cached_runner
from tofe_edge.runtimes.elf import Elf, read_elf
from tofe_edge.runtimes.native_build import Target, aarch64_emulator
from tofe_edge.runtimes.native_runner import MethodVerdict, self_test_alone

_PACKAGE = "executorch"
RUNNER = "tofe_runner"
HEADER = "include/tofe.h"
_HEADERS = "apt-get install nlohmann-json3-dev libstb-dev"
_START_SECONDS = 60.0


def runner_files(arch: str, build: Path | None, manifest: Manifest) -> dict[str, BundleFile]:
    """Return the runner, its libraries and the header of ``libtofe``, by their names in a bundle.

    Args:
        build: folder of the user's own build; ``None``: built on this machine, or taken from the cache of such builds.

    Raises:
        InputError: ``build`` has no runner, or it cannot be built here; with what to install.
        DeviceError: the compiler fails.
    """
    folder = _built(arch, manifest) if build is None else build
    if not (folder / RUNNER).is_file():
        raise InputError(f"--runner {folder}: has no {RUNNER}; docs/native.md says how to build one")
    header = folder / "tofe.h"
    if not header.is_file():
        hint = "build it again" if build is not None else f"remove {folder} and run the command again"
        raise InputError(f"{folder}: the runner was built without libtofe; `{_HEADERS}`, then {hint}")
    libraries = sorted(one for one in (folder / "lib").glob("*") if one.is_file())
    try:
        return {
            RUNNER: BundleFile((folder / RUNNER).read_bytes(), executable=True),
            HEADER: BundleFile(header.read_bytes()),
            **{f"lib/{one.name}": BundleFile(one.read_bytes()) for one in libraries},
        }
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror or error})") from error


def runner_test(runner: Path, artifact: Artifact, arch: str) -> dict[str, MethodVerdict]:
    """Have the runner of an unpacked bundle replay the golden vectors beside an artifact, as the service on a device does.

    Raises:
        DeviceError: it cannot run here; with what to install.
        InputError: it runs, and refuses or crashes.
    """
    prefix = _emulator(arch)
    _start(runner, prefix)
    try:
        verdicts = self_test_alone(runner, artifact.path, golden_path_of(artifact.path), prefix)
    except DeviceError as error:
        # It starts here, so it is not this machine that is wrong.
        raise InputError(str(error)) from error
    if sorted(one.method for one in verdicts) != sorted(artifact.manifest.methods):
        raise InputError(f"{runner.name} did not replay every method of {artifact.path.name}, each once")
    return {one.method: one for one in verdicts}


def _start(runner: Path, prefix: tuple[str, ...]) -> None:
    """Find out whether a runner runs here at all.

    Raises:
        DeviceError: it does not, as on a system or processor that is too old for it.
        InputError: it runs nowhere.
    """
    try:
        done = subprocess.run(
            [*prefix, str(runner), "--help"], capture_output=True, text=True, errors="replace", timeout=_START_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        if getattr(error, "errno", None) == errno.ENOEXEC:
            raise InputError(f"{runner.name} is not a program ({error})") from error
        raise DeviceError(f"{runner.name} cannot be started here ({error})") from error
    if done.returncode < 0 and done.returncode != -signal.SIGILL:
        raise InputError(f"{runner.name} crashes when it is started (signal {-done.returncode})")
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise DeviceError(f"{runner.name} cannot be started here, exit code {done.returncode} ({said[0][:300]})")


def _emulator(arch: str) -> tuple[str, ...]:
    """Return the command prefix that runs Linux programs of an architecture here; empty for this machine's own."""
    if platform.system() != "Linux":
        raise DeviceError(f"programs for Linux do not run on {platform.system()}; check the bundle on a Linux machine")
    if arch == _machine():
        return ()
    if arch != "aarch64":
        raise DeviceError(f"programs for {arch} do not run on {_machine()}; check the bundle on such a machine")
    try:
        return aarch64_emulator()
    except InputError as error:
        raise DeviceError(f"programs for aarch64 do not run here: {error}") from error


def _built(arch: str, manifest: Manifest) -> Path:
    installed, made = metadata.version(_PACKAGE), manifest.versions.get(_PACKAGE, "")
    if made.split("+")[0] != installed.split("+")[0]:
        raise InputError(
            f"{manifest.artifact}: was made with executorch {made or 'of an unknown version'}, but {installed} is installed, "
            "with which the runner would be built; convert the model again, or give a runner of its version with --runner"
        )
    return built_runner(arch)


def built_runner(arch: str) -> Path:
    """The folder of the native runner for an architecture, built if need be. Raises as :func:`cached_runner`."""
    target: Target = "host" if arch == _machine() else "aarch64"
    if arch not in ("aarch64", _machine()):
        raise InputError(
            f"--arch {arch}: is not built on {_machine()}; give a runner that was built there with --runner"
        )
    with progress_bar("native runner", 1, unit="build") as bar:
        program = cached_runner(target, arch)
        bar.update()
    return program.parent


def _machine() -> str:
    return {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())


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

THIRD_PARTY = Licence(
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
    licences = [GLUE, weights, PHOTOGRAPHS, PILLOW, EXECUTORCH, THIRD_PARTY]
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
        **kind_values(model.manifest),
    }
    values |= parts(_NAME, model.manifest, values)
    return {**values, "HARDENING": render("linux/hardening.conf", values).data.decode().strip("\n")}


def _version(parts: tuple[int, int]) -> str:
    return ".".join(map(str, parts))


def _documents(values: Mapping[str, object]) -> dict[str, BundleFile]:
    name, program = values["NAME"], values["PROGRAM"]
    return {
        "README.md": render("linux/README.md", values),
        f"systemd/{name}-self-test.service": render("linux/self-test.service", values),
        f"systemd/{name}-{program}@.service": render("linux/image.service", values),
        f"example/{program}.c": render("linux/program.c", values),
        "example/Makefile": render("linux/Makefile", values),
    }


def _sums(files: Mapping[str, BundleFile]) -> bytes:
    lines = [f"{hashlib.sha256(files[name].data).hexdigest()}  {name}\n" for name in sorted(files)]
    return "".join(lines).encode()


def problems(unpacked: Unpacked, provenance: Provenance) -> list[str]:
    """Return what would keep a bundle from running on its machine. Raises :class:`InputError` for a damaged program."""
    files, arch = unpacked.files, provenance.variant
    if unpacked.form == "zip" or arch not in ARCHES:
        return [f"{PROVENANCE} says {_NAME} and {quoted(arch)}, but this is a {unpacked.form}"]
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
