"""The native runner of a Linux bundle: building it, and running the one in a bundle on this machine."""

from __future__ import annotations

import errno
import platform
import signal
import subprocess
from importlib import metadata
from pathlib import Path

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.evaluation.golden import golden_path_of
from tofe_edge.io.artifact import Artifact, Manifest
from tofe_edge.io.progress import progress_bar
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.runtimes.devices.deploy import cached_runner
from tofe_edge.runtimes.native_self_test import MethodVerdict, self_test_alone
from tofe_edge.runtimes.native_toolchain import Target, aarch64_emulator

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
