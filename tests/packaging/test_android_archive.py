"""The AAR: made with the Kotlin compiler, looked at by Android's own tools."""

import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import need
from packaged_models import need_file, need_kotlinc, packaged, pretend_model, unpack_zip

from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.packaging.android import PLATFORM as ANDROID
from tofe_edge.packaging.archive import Unpacked
from tofe_edge.packaging.bundle import Bundle
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.place import place
from tofe_edge.packaging.platform import Options
from tofe_edge.packaging.provenance import PROVENANCE, provenance_file, read_provenance
from tofe_edge.packaging.texts import TEMPLATES

pytestmark = pytest.mark.toolchain

STUBS = Path(__file__).parent / "android_widgets"
INSTALL = "apt-get install aapt zipalign android-framework-res"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> PackagedModel:
    return packaged(pretend_model(tiny_checkpoint, tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def bundle(model: PackagedModel) -> Bundle:
    return ANDROID.build(model, Options(package_name="com.example.tiny", kotlinc=need_kotlinc()))


@pytest.fixture(scope="module")
def aar(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    placed = place(bundle, tmp_path_factory.mktemp("out"), force=False)
    (path,) = placed.rglob("*.aar")
    return path


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_lies_in_a_maven_repository_with_its_pom(aar: Path, model: PackagedModel) -> None:
    version = aar.parent.name
    assert aar.relative_to(aar.parents[4]).as_posix() == f"maven/tofeedge/model/{version}/model-{version}.aar"
    assert version.endswith(f"-{model.manifest.sha256[:12]}")
    pom = ElementTree.parse(aar.with_suffix(".pom")).getroot()
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    assert [pom.findtext(f"m:{key}", "", space) for key in ("groupId", "artifactId", "version", "packaging")] == [
        *("tofeedge", "model", version, "aar")
    ]
    needed = {
        one.findtext("m:artifactId", "", space): one.findtext("m:version", "", space)
        for one in pom.iterfind(".//m:dependency", space)
    }
    assert needed == {"executorch-android": "1.5.1", "kotlin-stdlib": "2.1.21"}


def test_another_run_of_the_compiler_makes_the_same_bytes(bundle: Bundle, model: PackagedModel) -> None:
    assert ANDROID.build(model, Options(package_name="com.example.tiny", kotlinc=need_kotlinc())) == bundle


def test_aapt_leaves_the_model_uncompressed(aar: Path, model: PackagedModel, tmp_path: Path) -> None:
    aapt = need("aapt", INSTALL)
    framework = need_file("/usr/share/android-framework-res/framework-res.apk", INSTALL)
    folder = unpack_zip(aar, tmp_path / "aar")
    apk = tmp_path / "app.apk"
    inputs = ("-M", folder / "AndroidManifest.xml", "-A", folder / "assets", "-I", framework)
    run(aapt, "package", "-F", apk, *inputs, "-0", "pte")
    badging = run(aapt, "dump", "badging", apk)
    assert "package: name='com.example.tiny'" in badging and "sdkVersion:'23'" in badging
    assert "com.example.tiny" in run(aapt, "dump", "xmltree", apk, "AndroidManifest.xml")
    listed = {
        line.split()[-1]: line.split()[1] for line in run(aapt, "list", "-v", apk).splitlines() if "assets/" in line
    }
    assets = f"assets/tofe/model_{model.manifest.sha256[:12]}/"
    assert listed[f"{assets}model.pte"] == "Stored"
    assert {name.removeprefix(assets) for name in listed} >= {"model.json", "labels.txt", "model.golden/0.png"}


def test_its_own_entries_are_stored_and_aligned(aar: Path) -> None:
    listed = run(need("aapt", INSTALL), "list", "-v", aar).splitlines()
    entries = [line.split() for line in listed if " 01-01-80 " in line]
    assert len(entries) == 19 and all(entry[1] == "Stored" for entry in entries)
    assert not [entry for entry in entries if entry[-1].startswith("/") or ".." in entry[-1]]
    assert "Verification successful" in run(need("zipalign", INSTALL), "-c", "-v", "-p", "4", aar)


def test_the_sample_compiles_against_the_library(bundle: Bundle, aar: Path, tmp_path: Path) -> None:
    folder = unpack_zip(aar, tmp_path / "aar")
    samples = [tmp_path / "MainActivity.kt", tmp_path / "Photograph.kt"]
    for sample in samples:
        sample.write_bytes(bundle.files[f"sample/{sample.name}"].data)
    call = ("-d", tmp_path / "classes", "-cp", folder / "classes.jar", "-jvm-target", "1.8")
    sources = (*samples, STUBS, TEMPLATES / "android" / "stubs")
    run("bash", need_kotlinc(), "-J-XX:TieredStopAtLevel=1", *call, *sources)
    for sample in samples:
        assert (tmp_path / "classes/com/example/classify" / sample.name).with_suffix(".class").is_file()


def test_an_aar_of_another_model_is_reported(bundle: Bundle, model: PackagedModel) -> None:
    aar = next(one for one in bundle.files if one.endswith(".aar"))
    other = read_provenance(
        provenance_file("android", "aar", replace(model, name="other"), [], dict(bundle.files)), PROVENANCE
    )
    (line,) = ANDROID.problems(Unpacked("folder", dict(bundle.files)), other)
    assert line == f"{aar}: is of another model than the folder's {PROVENANCE}"
