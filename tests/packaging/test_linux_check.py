"""``package --check`` of Linux bundles without a compiler: what does not fit is found, what cannot be run here is told."""

from __future__ import annotations

import json
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import refused
from elf_files import elf
from linux_runners import package, pretend_runner
from packaged_models import pretend, pretend_model

from tofe_edge.cli import main
from tofe_edge.evaluation.golden import GoldenSet, replay
from tofe_edge.evaluation.parity import Parity
from tofe_edge.io.artifact import Artifact
from tofe_edge.io.files import write_bytes
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.packaging.archive import Unpacked, tar_gz_bytes, unpack
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.packaging.check import check_bundle
from tofe_edge.packaging.linux import PLATFORM as LINUX
from tofe_edge.packaging.provenance import PROVENANCE, FileSum, read_provenance

FOLDER = "net-linux-aarch64"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Path:
    return pretend_model(tiny_checkpoint, tmp_path_factory.mktemp("model"), "net.pte").path


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert package(model, pretend_runner(out / "runner"), out) == 0
    return out / f"{FOLDER}.tar.gz"


def test_a_bundle_that_cannot_be_run_here_passes_and_says_why(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", "")
    assert main(["package", "--check", str(bundle), "--run-program", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and not found["self_test"]["ran"]
    assert found["self_test"]["reason"] == (
        "programs for aarch64 do not run here: qemu-aarch64-static is not installed; "
        "`apt-get install qemu-user-static g++-aarch64-linux-gnu`"
    )


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="needs a machine that bundles are for")
def test_a_runner_that_does_not_even_start_on_its_machine_fails(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arch = platform.machine()
    assert package(model, pretend_runner(tmp_path / "runner", arch), tmp_path, "--arch", arch) == 0
    assert main(["package", "--check", str(tmp_path / f"net-linux-{arch}.tar.gz"), "--run-program"]) == 1
    assert "self-test: tofe_runner" in capsys.readouterr().out


def runs(artifact: Artifact, golden: GoldenSet) -> Mapping[str, Parity]:
    """A runtime that computes what the golden vectors say."""
    return {name: replay(golden, pretend(name), name) for name in artifact.manifest.methods}


def test_an_unpacked_bundle_is_checked_too(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(bundle) as archive:
        archive.extractall(tmp_path, filter="data")
    assert check_bundle(tmp_path / FOLDER, runs).passed
    (tmp_path / FOLDER / "tofe_runner").chmod(0o644)
    (failure,) = check_bundle(tmp_path / FOLDER, runs).failures
    assert failure == "tofe_runner is not executable, unlike when it was packaged"


def never(runner: Path, artifact: Artifact, arch: str) -> Mapping[str, Parity]:
    raise AssertionError("this program must not be run")


def test_the_bundles_own_program_is_not_run_unasked(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tofe_edge.workflows.package.runner_test", never)
    monkeypatch.setattr("tofe_edge.workflows.package._self_test", runs)
    assert main(["package", "--check", str(bundle)]) == 0
    out = capsys.readouterr().out
    assert "tofe_runner of the bundle was not run; --run-program runs it" in out and "forward: logits the same" in out
    assert main(["package", "--check", str(bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["program"], found["program_was_run"], found["self_test"]["ran"]) == ("tofe_runner", False, True)


def test_only_an_archive_is_ever_run(bundle: Path, tmp_path: Path) -> None:
    """A folder of any name can say in its provenance that it is for Linux."""
    folder = tmp_path / "flower-android"
    with tarfile.open(bundle) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / FOLDER).rename(folder)
    assert "is not a tar.gz with a program" in refused(folder, lambda: check_bundle(folder, runs, never))


def forged(bundle: Path, out: Path, changes: dict[str, BundleFile | None]) -> Path:
    """The bundle with files changed or left out and new sums, as somebody who forges one would."""
    files: dict[str, BundleFile] = {**unpack(bundle).files}
    for name, file in changes.items():
        files.pop(name, None)
        files |= {} if file is None else {name: file}
    document: dict[str, Any] = json.loads(files.pop(PROVENANCE).data)
    document["files"] = {name: asdict(FileSum.of(file)) for name, file in files.items()}
    files[PROVENANCE] = BundleFile(json.dumps(document).encode())
    write_bytes(out, tar_gz_bytes(files, FOLDER))
    return out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lib/libtofe.so": None}, "lib/libtofe.so is missing"),
        ({"tofe_runner": BundleFile(elf("aarch64"))}, "tofe_runner is not the only executable file"),
        ({"run.sh": BundleFile(b"#!/bin/sh", True)}, "tofe_runner is not the only executable file"),
        ({"lib/libtofe.so": BundleFile(elf("x86_64"))}, "lib/libtofe.so is built for x86_64, not for aarch64"),
        ({"lib/libtofe.so": BundleFile(b"text")}, "lib/libtofe.so: is not a 64-bit program or library for Linux"),
        ({"lib/libtofe.so": BundleFile(elf("aarch64", [], "/tmp"))}, "lib/libtofe.so looks for libraries in /tmp"),
    ],
)
def test_check_finds_what_does_not_fit(
    changes: dict[str, BundleFile | None],
    message: str,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["package", "--check", str(forged(bundle, tmp_path / bundle.name, changes)), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["self_test"]["ran"] and any(message in failure for failure in found["failures"])


def test_a_bundle_of_another_form_is_none(bundle: Path) -> None:
    files = unpack(bundle).files
    provenance = read_provenance(files[PROVENANCE], PROVENANCE)
    assert LINUX.problems(Unpacked("zip", files), provenance) == [
        "provenance.json says linux and 'aarch64', but this is a zip"
    ]
