"""``package --platform linux`` and ``--check`` without a compiler: what is in the archive, and what is refused."""

from __future__ import annotations

import configparser
import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from linux_runners import package, pretend_runner
from packaged_models import pretend_model

from tofe_edge.cli import main
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.packaging.archive import unpack
from tofe_edge.packaging.provenance import PROVENANCE

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
        *(
            "LICENSE",
            "LICENSE-executorch",
            "LICENSE-pillow",
            "LICENSE-third-party",
            "NOTICE",
            "README.md",
            "SHA256SUMS",
            "provenance.json",
        ),
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
        (["--source"], "--source: is not used with --platform linux"),
        (["--package-name", "com.example"], "--package-name: is not used with --platform linux"),
        (["--kotlinc", "k"], "--kotlinc: is not used with --platform linux"),
        (["--arch", "x86_64"], "lib/libexecutorch.so is built for aarch64, not for x86_64"),
    ],
)
def test_options_without_effect_are_refused(
    options: list[str], message: str, model: Path, runner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert package(model, runner, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err


def test_arch_and_runner_are_for_linux(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["package", str(model), "--platform", "android", "--source", "--out", str(tmp_path / "out")]
    assert main([*call, "--arch", "aarch64"]) == 2
    assert "--arch: is not used with --platform android" in capsys.readouterr().err


def test_a_runner_without_the_library_says_what_to_install(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert package(model, tmp_path, tmp_path / "out") == 2
    assert f"--runner {tmp_path}: has no tofe_runner" in capsys.readouterr().err
    runner = pretend_runner(tmp_path / "runner")
    (runner / "tofe.h").unlink()
    assert package(model, runner, tmp_path / "out") == 2
    assert "`apt-get install nlohmann-json3-dev libstb-dev`" in capsys.readouterr().err
