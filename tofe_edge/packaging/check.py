"""Is a bundle what was packaged, complete and well-formed, and does its model compute here what it should?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tofe_edge.artifact import Artifact, open_artifact
from tofe_edge.errors import DeviceError, InputError
from tofe_edge.files import write_bytes
from tofe_edge.golden import GoldenSet, golden_path_of, read_golden
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.packaging.contents import LABELS, PREPROCESSING, json_file
from tofe_edge.packaging.place import write_folder
from tofe_edge.packaging.platform import Platform, Replay
from tofe_edge.packaging.provenance import PROVENANCE, Provenance, differences, read_provenance
from tofe_edge.packaging.registry import PLATFORMS
from tofe_edge.packaging.unpack import Unpacked, unpack

SelfTest = Callable[[Artifact, GoldenSet], Mapping[str, Replay]]
"""Replays golden vectors on this machine's runtime, by method. Raises :class:`DeviceError` where it has none for the model."""
RunnerTest = Callable[[Path, Artifact, str], Mapping[str, Replay]]
"""Has a runner for an architecture replay the golden vectors beside an artifact. Raises :class:`DeviceError` where programs
of it do not run here, :class:`InputError` where it runs and refuses or crashes."""


@dataclass(frozen=True)
class BundleCheck:
    """What was found."""

    platform: str | None
    """``None``: it could not be read so far."""
    failures: tuple[str, ...]
    self_test: Mapping[str, Replay] | None
    """By method; ``None``: not run."""
    not_run_because: str | None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; a self-test that cannot run here is nothing wrong."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """The keys of ``tofe-edge package --check --json``."""
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
        }


def check_bundle(path: Path, self_test: SelfTest, runner_test: RunnerTest | None = None) -> BundleCheck:
    """Check structure, sums and metadata of a bundle, and run its model on its golden vectors.

    Nothing is written, to a temporary folder, before structure and sums have passed. Of a bundle that brings its own
    program that program is run, once everything else has passed: sums tell what was changed by accident, not who made it.

    Args:
        self_test: replays golden vectors for a bundle that brings no program for it.
        runner_test: has the program of one that does replay them; ``None``: it is not run.

    Raises:
        InputError: there is nothing at ``path``.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such bundle; `tofe-edge package` makes one")
    try:
        unpacked = unpack(path)
        if PROVENANCE not in unpacked.files:
            raise InputError(f"{path}: has no {PROVENANCE}; it is no bundle of this program")
        provenance = read_provenance(unpacked.files[PROVENANCE], PROVENANCE)
        if provenance.platform not in PLATFORMS:
            raise InputError(f"{PROVENANCE}: platform {provenance.platform!r} is not one of {', '.join(PLATFORMS)}")
    except InputError as error:
        return _failed(None, [str(error)])
    platform = PLATFORMS[provenance.platform]
    failures = differences(provenance.files, unpacked.files)
    if failures:
        return _failed(platform.name, failures)
    try:
        failures = platform.problems(unpacked, provenance)
        files = platform.model_files(unpacked, provenance)
        test = _test_of(platform, unpacked, provenance, self_test, runner_test)
        return _check_model(platform.name, files, provenance, failures, test)
    except InputError as error:
        return _failed(platform.name, [*failures, str(error)])


def _test_of(
    platform: Platform, unpacked: Unpacked, provenance: Provenance, self_test: SelfTest, runner_test: RunnerTest | None
) -> SelfTest:
    """The self-test for this bundle."""
    runner = platform.runner
    if runner is None:
        return self_test

    def run_own(artifact: Artifact, golden: GoldenSet) -> Mapping[str, Replay]:
        if runner_test is None:
            raise DeviceError(f"the bundle's {runner} is not run here")
        folder = artifact.path.parent / "bundle"
        write_folder(folder, unpacked.files)
        return runner_test(folder / runner, artifact, provenance.variant)

    return run_own


def _failed(platform: str | None, failures: list[str]) -> BundleCheck:
    return BundleCheck(platform, tuple(failures), None, "the bundle is not what was packaged")


def _check_model(
    platform: str,
    files: Mapping[str, BundleFile],
    provenance: Provenance,
    failures: list[str],
    self_test: SelfTest,
) -> BundleCheck:
    with tempfile.TemporaryDirectory(prefix="tofe-edge-") as name:
        folder = Path(name)
        for member, file in files.items():
            write_bytes(folder / member, file.data)
        model = folder / _model_name(files, provenance)
        try:
            artifact = open_artifact(model)
            golden = read_golden(golden_path_of(model), artifact)
        except InputError as error:
            return _failed(platform, [*failures, str(error).replace(f"{folder}/", "")])
        failures = [*failures, *_disagreements(artifact, files, provenance)]
        if failures:
            return _failed(platform, failures)
        try:
            parities = self_test(artifact, golden)
        except DeviceError as error:
            return BundleCheck(platform, (), None, str(error).replace(f"{folder}/", ""))
        except InputError as error:
            message = str(error).replace(f"{folder}/", "")
            return BundleCheck(platform, (f"self-test: {message}",), None, "it was refused or broke off")
    failures = [
        f"self-test, method {method}: {'; '.join(parity.failures)}"
        for method, parity in parities.items()
        if not parity.passed
    ]
    return BundleCheck(platform, tuple(failures), parities, None)


def _model_name(files: Mapping[str, BundleFile], provenance: Provenance) -> str:
    """``NAME.mlpackage`` where there is such a folder, else ``NAME.pte``."""
    package = f"{provenance.name}.mlpackage"
    return package if any(name.startswith(f"{package}/") for name in files) else f"{provenance.name}.pte"


def _disagreements(artifact: Artifact, files: Mapping[str, BundleFile], provenance: Provenance) -> list[str]:
    """Where labels, preprocessing or provenance say something else than the manifest."""
    manifest = artifact.manifest
    labels = "".join(f"{name}\n" for name in manifest.class_names).encode()
    wanted = {LABELS: labels, PREPROCESSING: json_file(manifest.preprocessing.to_json()).data}
    lines = [
        f"{name} does not say what the manifest says"
        for name, data in wanted.items()
        if name not in files or files[name].data != data
    ]
    if provenance.model_sha256 != manifest.sha256:
        lines.append(f"{PROVENANCE} is of another model than the manifest")
    return lines
