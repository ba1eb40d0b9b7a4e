"""Linux bundles without a compiler: what is in the archive, what is refused, and what a check of one finds."""

import configparser
import hashlib
import json
import platform
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import Program, document_of, edit_json, flat, refusal, refused, signed_again
from elf_files import elf
from golden_files import runs
from linux_runners import package, package_call, pretend_runner
from packaged_models import pretend_model

from tofe_edge.errors import InputError
from tofe_edge.evaluation.parity import Parity
from tofe_edge.io.artifact import Artifact
from tofe_edge.io.files import write_bytes
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.packaging.archive import Unpacked, tar_gz_bytes, unpack
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.packaging.check import check_bundle
from tofe_edge.packaging.linux import PLATFORM as LINUX
from tofe_edge.packaging.linux import read_programs
from tofe_edge.packaging.provenance import PROVENANCE, FileSum, read_provenance

FOLDER = "net-linux-aarch64"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Path:
    return pretend_model(tiny_checkpoint, tmp_path_factory.mktemp("model"), "net.pte").path


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretend_runner(tmp_path_factory.mktemp("runner") / "aarch64")


@pytest.fixture(scope="module")
def bundle(model: Path, runner: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert package(model, runner, out) == 0
    return out / f"{FOLDER}.tar.gz"


def test_the_archive_holds_plain_files_below_one_folder(bundle: Path) -> None:
    with tarfile.open(bundle) as archive:
        members = archive.getmembers()
    names = [member.name for member in members]
    assert all(name.startswith(f"{FOLDER}/") and ".." not in name.split("/") for name in names)
    assert all(member.isreg() and (member.uid, member.gid, member.mtime) == (0, 0, 0) for member in members)
    assert {member.mode for member in members} == {0o644, 0o755}
    assert [member.name for member in members if member.mode == 0o755] == [f"{FOLDER}/tofe_runner"]
    assert {name.removeprefix(f"{FOLDER}/") for name in names if "golden" not in name} == {
        *("tofe_runner", "include/tofe.h", "lib/libtofe.so", "lib/libexecutorch.so"),
        *("model/net.pte", "model/net.json", "model/labels.txt", "model/preprocessing.json"),
        *("systemd/net-self-test.service", "systemd/net-classify@.service", "example/classify.c", "example/Makefile"),
        *("LICENSE", "LICENSE-executorch", "LICENSE-pillow", "LICENSE-third-party", "NOTICE"),
        *("README.md", "SHA256SUMS", "provenance.json"),
    }


def test_the_same_inputs_give_the_same_bytes(bundle: Path, model: Path, runner: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(runner, tmp_path / "moved")
    assert package(model, moved, tmp_path / "out", "--arch", "aarch64") == 0
    assert (tmp_path / "out" / bundle.name).read_bytes() == bundle.read_bytes()


def test_sums_are_those_of_every_file(bundle: Path) -> None:
    files = unpack(bundle).files
    lines = files["SHA256SUMS"].data.decode().splitlines()
    sums = {line[66:]: line[:64] for line in lines}
    assert sums.keys() == files.keys() - {"SHA256SUMS", PROVENANCE}
    assert all(hashlib.sha256(files[name].data).hexdigest() == one for name, one in sums.items())


def test_provenance_says_what_it_is_for_and_under_which_terms(bundle: Path) -> None:
    document = json.loads(unpack(bundle).files[PROVENANCE].data)
    assert (document["platform"], document["variant"], document["build"]) == ("linux", "aarch64", {"glibc": "2.34"})
    terms = {one["licence"] for one in document["licences"]}
    assert {"Apache-2.0", "BSD-3-Clause", "CC0-1.0", "MIT-CMU", "NOASSERTION"} < terms and any(
        "MPL-2.0" in one for one in terms
    )


def units(bundle: Path) -> dict[str, configparser.ConfigParser]:
    """By what follows the model's name; of a key that stands twice the last."""
    found = {}
    for name, file in unpack(bundle).files.items():
        if name.endswith(".service"):
            unit = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
            unit.optionxform = str  # type: ignore[assignment,method-assign]  # keys have capitals
            unit.read_string(file.data.decode())
            found[name.removeprefix("systemd/net-").removesuffix(".service")] = unit
    return found


def test_the_units_run_the_runner_of_the_bundle_hardened(bundle: Path) -> None:
    found, folder = units(bundle), f"/opt/{FOLDER}"
    run = f"{folder}/tofe_runner {folder}/model/net.pte"
    assert found["self-test"]["Service"]["ExecStart"] == f"{run} --self-test {folder}/model/net.golden"
    assert found["classify@"]["Service"]["ExecStart"] == f":{run} --image %f --top 5 --threads 4"
    assert found["classify@"]["Unit"]["Requires"] == "net-self-test.service"
    for unit in found.values():
        assert unit["Service"]["Type"] == "oneshot"
        for key in ("DynamicUser", "NoNewPrivileges", "PrivateNetwork", "PrivateDevices", "MemoryDenyWriteExecute"):
            assert unit["Service"][key] == "yes"
        assert unit["Service"]["ProtectSystem"] == "strict" and unit["Service"]["CapabilityBoundingSet"] == ""


def test_every_file_that_the_documents_name_is_there(bundle: Path) -> None:
    files = unpack(bundle).files
    for name in ("README.md", "example/Makefile", "example/classify.c"):
        text = files[name].data.decode()
        assert "@NAME@" not in text and "@FOLDER@" not in text
    assert b"`/opt/net-linux-aarch64`" in files["README.md"].data
    assert b"glibc 2.34" in files["README.md"].data
    assert b"tofe_open" in files["example/classify.c"].data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--platform", "android", "--source", "--arch", "aarch64"], "--arch: is not used with --platform android"),
        (["--source"], "--source: is not used with --platform linux"),
        (["--package-name", "com.example"], "--package-name: is not used with --platform linux"),
        (["--kotlinc", "k"], "--kotlinc: is not used with --platform linux"),
        (["--arch", "x86_64"], "lib/libexecutorch.so is built for aarch64, not for x86_64"),
    ],
)
def test_options_without_effect_are_refused(
    options: list[str], message: str, model: Path, runner: Path, tmp_path: Path, program: Program
) -> None:
    assert message in refusal(program, *package_call(model, runner, tmp_path / "out", *options))


def test_a_runner_needs_the_library(model: Path, tmp_path: Path, program: Program) -> None:
    message = refusal(program, *package_call(model, tmp_path, tmp_path / "out"))
    assert f"--runner {tmp_path}: has no tofe_runner" in message
    runner = pretend_runner(tmp_path / "runner")
    (runner / "tofe.h").unlink()
    message = refusal(program, *package_call(model, runner, tmp_path / "out"))
    assert "`apt-get install nlohmann-json3-dev libstb-dev`" in message


def test_a_bundle_that_cannot_run_here_passes(bundle: Path, monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", "")
    found = document_of(program, "package", "--check", bundle, "--run-program")
    assert found["passed"] and not found["self_test"]["ran"]
    assert found["self_test"]["reason"] == (
        "programs for aarch64 do not run here: qemu-aarch64-static is not installed; "
        "`apt-get install qemu-user-static g++-aarch64-linux-gnu`"
    )


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="needs a machine that bundles are for")
def test_a_runner_that_does_not_start_fails(model: Path, tmp_path: Path, program: Program) -> None:
    arch = platform.machine()
    assert package(model, pretend_runner(tmp_path / "runner", arch), tmp_path, "--arch", arch) == 0
    code, out, _ = program("package", "--check", tmp_path / f"net-linux-{arch}.tar.gz", "--run-program")
    assert code == 1 and "self-test: tofe_runner" in flat(out)


@pytest.fixture
def unpacked(bundle: Path, tmp_path: Path) -> Path:
    with tarfile.open(bundle) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / FOLDER


def test_an_unpacked_bundle_is_checked_too(unpacked: Path) -> None:
    assert check_bundle(unpacked, runs).passed
    (unpacked / "tofe_runner").chmod(0o644)
    (failure,) = check_bundle(unpacked, runs).failures
    assert failure == "tofe_runner is not executable, unlike when it was packaged"


def test_a_provenance_of_another_model_is_reported(unpacked: Path) -> None:
    edit_json(unpacked / PROVENANCE, lambda document: document["manifest"].update(sha256="0" * 64))
    assert check_bundle(unpacked, runs).failures == (f"{PROVENANCE} is of another model than the manifest",)


def never(runner: Path, artifact: Artifact, arch: str) -> Mapping[str, Parity]:
    raise AssertionError("this program must not be run")


def test_no_program_of_a_bundle_is_run_unasked(bundle: Path, monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    monkeypatch.setattr("tofe_edge.workflows.package.runner_test", never)
    monkeypatch.setattr("tofe_edge.workflows.package._self_test", runs)
    _, out, _ = program("package", "--check", bundle)
    assert "tofe_runner of the bundle was not run; --run-program runs it" in flat(out) and "forward: the same" in flat(
        out
    )
    found = document_of(program, "package", "--check", bundle)
    assert (found["program"], found["program_was_run"], found["self_test"]["ran"]) == ("tofe_runner", False, True)


def test_only_an_archive_is_ever_run(unpacked: Path) -> None:
    """A folder of any name can say in its provenance that it is for Linux."""
    folder = unpacked.rename(unpacked.with_name("flower-android"))
    assert "is not a tar.gz with a program" in refused(folder, lambda: check_bundle(folder, runs, never))


def forged(bundle: Path, out: Path, changes: dict[str, BundleFile | None]) -> Path:
    """The bundle with files changed or left out and new sums, as somebody who forges one would."""
    files: dict[str, BundleFile] = {**unpack(bundle).files}
    for name, file in changes.items():
        files.pop(name, None)
        files |= {} if file is None else {name: file}
    document: dict[str, Any] = json.loads(files.pop(PROVENANCE).data)
    document["files"] = {name: asdict(FileSum.of(file)) for name, file in files.items()}
    files[PROVENANCE] = BundleFile(json.dumps(signed_again(document)).encode())
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
    changes: dict[str, BundleFile | None], message: str, bundle: Path, tmp_path: Path, program: Program
) -> None:
    found = document_of(program, "package", "--check", forged(bundle, tmp_path / bundle.name, changes), code=1)
    assert not found["self_test"]["ran"] and any(message in failure for failure in found["failures"])


def test_a_bundle_of_another_form_is_none(bundle: Path) -> None:
    files = unpack(bundle).files
    provenance = read_provenance(files[PROVENANCE], PROVENANCE)
    assert LINUX.problems(Unpacked("zip", files), provenance) == [
        "provenance.json says linux and 'aarch64', but this is a zip"
    ]


def problems_of(**files: bytes) -> list[str]:
    """Of a bundle for aarch64 with ``tofe_runner`` and ``lib/NAME.so``."""
    named = {name if name == "tofe_runner" else f"lib/{name}.so": BundleFile(data) for name, data in files.items()}
    return read_programs({**named, "README.md": BundleFile(b"no program")}).problems("aarch64")


INSIDE = ("$ORIGIN/lib", "${ORIGIN}/lib", "$ORIGIN", "$ORIGIN/lib/../lib", "$ORIGIN/./lib//:$ORIGIN")


@pytest.mark.parametrize(
    ("search", "where"),
    [
        *((search, None) for search in INSIDE),
        *((search, search) for search in ("/usr/lib", "$ORIGIN/..", "$ORIGIN/lib/../../lib", "lib", "$LIB/x", "$ORIGINAL/lib")),
        ("$ORIGIN/lib:/opt/executorch/lib", "/opt/executorch/lib"),
        ("", "the working folder"),
        ("$ORIGIN/lib:", "the working folder"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tag", [15, 29])
def test_a_runner_looks_for_libraries_inside_the_bundle_alone(search: str, where: str | None, tag: int) -> None:
    runner = elf("aarch64", ["libx.so", "libc.so.6"], search, tag=tag)
    message = f"tofe_runner looks for libraries in {where}, outside the bundle"
    assert problems_of(tofe_runner=runner, libx=elf("aarch64")) == ([] if where is None else [message])


def test_a_library_may_look_one_folder_up_and_no_further() -> None:
    assert problems_of(libx=elf("aarch64", [], "$ORIGIN/../lib")) == []
    (problem,) = problems_of(libx=elf("aarch64", [], "$ORIGIN/../../lib"))
    assert problem == "lib/libx.so looks for libraries in $ORIGIN/../../lib, outside the bundle"


def test_another_processor_and_a_missing_library_are_named() -> None:
    assert problems_of(tofe_runner=elf("x86_64", ["libcuda.so.1"])) == [
        "tofe_runner is built for x86_64, not for aarch64",
        "tofe_runner needs libcuda.so.1, which neither the bundle nor a Linux system has",
    ]


def test_a_library_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"^lib/libx\.so: is not a 64-bit program"):
        problems_of(libx=b"text")


def test_the_oldest_c_library_is_that_of_the_most_demanding() -> None:
    files = {"tofe_runner": elf("aarch64", versions=["GLIBC_2.34"]), "lib/a.so": elf("aarch64", versions=["GLIBC_2.4"])}
    assert read_programs({name: BundleFile(data) for name, data in files.items()}).glibc == (2, 34)
