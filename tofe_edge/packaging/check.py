"""Is a bundle what was packaged, complete and well-formed, and does its model compute here what it should?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tofe_edge.errors import DeviceError, InputError, require
from tofe_edge.evaluation.golden import GoldenSet, golden_path_of, read_golden
from tofe_edge.io.artifact import Artifact, open_artifact
from tofe_edge.packaging.archive import Unpacked, unpack
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.packaging.place import ScratchError, scratch
from tofe_edge.packaging.platform import Platform, Replay, find_platform
from tofe_edge.packaging.provenance import PROVENANCE, Provenance, differences, read_provenance
from tofe_edge.packaging.texts import path_text
from tofe_edge.runtimes.trial import TrialError

SelfTest = Callable[[Artifact, GoldenSet], Mapping[str, Replay]]
"""Replays golden vectors on this machine's runtime, by method. Raises :class:`DeviceError` if it has none for the model."""
RunnerTest = Callable[[Path, Artifact, str], Mapping[str, Replay]]
"""Has a runner for an architecture replay the golden vectors beside an artifact. Raises :class:`DeviceError` if programs
of it do not run here, :class:`InputError` if it runs and refuses or crashes."""


@dataclass(frozen=True)
class BundleCheck:
    """The result of a check."""

    platform: str | None
    """``None``: it could not be read."""
    failures: tuple[str, ...]
    self_test: Mapping[str, Replay] | None
    """By method; ``None``: not run."""
    not_run_because: str | None
    program: str | None = None
    """The program in the bundle that runs the model; ``None``: there is none."""
    program_was_run: bool = False
    """Whether that program replayed the golden vectors; else this machine's own runtime did."""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; a self-test that cannot run here does not count."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Return the keys of ``tofe-edge package --check --json``."""
        methods = self.self_test or {}
        test = {
            "ran": self.self_test is not None,
            "reason": self.not_run_because,
            "methods": {name: parity.to_json() for name, parity in methods.items()},
        }
        return {
            "passed": self.passed,
            "platform": self.platform,
            "failures": list(self.failures),
            "self_test": test,
            "program": self.program,
            "program_was_run": self.program_was_run,
        }


def check_bundle(path: Path, self_test: SelfTest, runner_test: RunnerTest | None = None) -> BundleCheck:
    """Check structure, sums and metadata of a bundle, and run its model on its golden vectors.

    Nothing is written, to a temporary folder, before structure and sums have passed. A program in a bundle is never run
    unless that is asked for: sums tell what was changed by accident, not who made it.

    Args:
        self_test: replays golden vectors with a runtime of this machine.
        runner_test: has the program in a bundle's ``tar.gz`` replay them instead.

    Raises:
        InputError: there is nothing at ``path``, ``runner_test`` is given for a bundle without a program or that is not a
            ``tar.gz``, or no temporary folder can be written.
        TrialError: its model ended the process that tried it.
    """
    try:
        require(path.exists(), f"{path_text(path)}: there is no such bundle; `tofe-edge package` makes one")
    except OSError as error:
        raise InputError(f"{path_text(path)}: cannot be read ({error.strerror or error})") from error
    try:
        unpacked = unpack(path)
        if PROVENANCE not in unpacked.files:
            raise InputError(f"{path_text(path)}: has no {PROVENANCE}; it is not a bundle of this program")
        provenance = read_provenance(unpacked.files[PROVENANCE], PROVENANCE)
        platform = find_platform(provenance.platform)
    except InputError as error:
        return _failed(None, [str(error)])
    failures = differences(provenance.files, unpacked.files)
    if failures:
        return _failed(platform.name, failures)
    if runner_test is not None and (platform.runner is None or unpacked.form != "tar.gz"):
        raise InputError(f"{path_text(path)}: is not a tar.gz with a program for Linux; leave out --run-program")
    try:
        failures = platform.problems(unpacked, provenance)
        files = {} if failures else platform.model_files(unpacked, provenance)
    except InputError as error:
        failures = [str(error)]
    if failures:
        return _failed(platform.name, failures)
    if runner_test is not None:
        self_test = _own_test(platform, unpacked, provenance, runner_test)
    result = _check_model(platform.name, files, provenance, self_test)
    program_was_run = runner_test is not None and result.self_test is not None
    return replace(result, program=platform.runner, program_was_run=program_was_run)


def _own_test(platform: Platform, unpacked: Unpacked, provenance: Provenance, runner_test: RunnerTest) -> SelfTest:
    """Return the self-test with the program in the bundle."""

    def run_own(artifact: Artifact, golden: GoldenSet) -> Mapping[str, Replay]:
        with scratch(unpacked.files) as folder:
            return runner_test(folder / str(platform.runner), artifact, provenance.variant)

    return run_own


def _failed(platform: str | None, failures: list[str]) -> BundleCheck:
    return BundleCheck(platform, tuple(failures), None, "the bundle is not what was packaged")


def _check_model(
    platform: str, files: Mapping[str, BundleFile], provenance: Provenance, self_test: SelfTest
) -> BundleCheck:
    """Unpack the model alone, compare it with its manifest and the provenance, and run it."""
    with scratch(files) as folder:
        model = folder / _model_name(files, provenance)
        try:
            artifact = open_artifact(model)
            golden = read_golden(golden_path_of(model), artifact)
        except InputError as error:
            return _failed(platform, [str(error).replace(f"{folder}/", "")])
        if provenance.model_sha256 != artifact.manifest.sha256:
            return _failed(platform, [f"{PROVENANCE} is of another model than the manifest"])
        try:
            replays = self_test(artifact, golden)
        except ScratchError:
            raise
        except TrialError as error:
            raise TrialError(str(error).replace(f"{folder}/", "")) from error
        except (DeviceError, InputError) as error:
            message = str(error).replace(f"{folder}/", "")
            if isinstance(error, DeviceError):
                return BundleCheck(platform, (), None, message)
            return BundleCheck(platform, (f"self-test: {message}",), None, "it was refused or broke off")
    failures = [
        f"self-test, method {method}: {'; '.join(replay.failures)}"
        for method, replay in replays.items()
        if not replay.passed
    ]
    return BundleCheck(platform, tuple(failures), replays, None)


def _model_name(files: Mapping[str, BundleFile], provenance: Provenance) -> str:
    """Return ``NAME.mlpackage`` if there is such a folder, else ``NAME.pte``."""
    package = f"{provenance.name}.mlpackage"
    return package if any(name.startswith(f"{package}/") for name in files) else f"{provenance.name}.pte"
