"""Bundles for Android: what is in them, what is refused, the same bytes every time, and a compiler that never stays."""

import hashlib
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import processes
import pytest
from conftest import shell_script
from packaged_models import packaged, pretend_model

from tofe_edge.errors import InputError
from tofe_edge.io.artifact import Method
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.packaging import kotlin
from tofe_edge.packaging.android import PLATFORM as ANDROID
from tofe_edge.packaging.android import assets_folder, package_of
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.licences import Weights
from tofe_edge.packaging.platform import Options

SOURCE = Options(source=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> PackagedModel:
    return packaged(pretend_model(tiny_checkpoint, tmp_path_factory.mktemp("model"), "Tiny-model.1.pte"))


def text(model: PackagedModel, name: str, options: Options = SOURCE) -> str:
    return ANDROID.build(model, options).files[name].data.decode()


def changed(model: PackagedModel, **changes: Any) -> PackagedModel:
    return replace(model, manifest=replace(model.manifest, **changes))


def test_a_source_bundle_is_a_gradle_module_with_everything_in_it(model: PackagedModel) -> None:
    bundle = ANDROID.build(model, SOURCE)
    assert (bundle.name, bundle.form) == ("Tiny-model.1-android-source", "folder")
    assets = f"src/main/assets/tofe/tiny_model_1_{model.manifest.sha256[:12]}/"
    wanted = {
        *("build.gradle.kts", "consumer-rules.pro", "src/main/AndroidManifest.xml"),
        *("README.md", "sample/MainActivity.kt", "sample/Photograph.kt"),
        *("LICENSE", "LICENSE-pillow", "LICENSE-executorch", "NOTICE", "provenance.json"),
        *(f"{assets}{name}" for name in ("Tiny-model.1.pte", "Tiny-model.1.json", "labels.txt", "preprocessing.json")),
        *(f"{assets}Tiny-model.1.golden/{name}" for name in ("golden.json", "0.png", "1.png", "2.png", "3.png")),
    }
    kotlin = {name for name in bundle.files if name.endswith(".kt") and name.startswith("src/")}
    assert {name for name in bundle.files if name not in kotlin} == wanted
    assert {str(Path(name).parent) for name in kotlin} == {"src/main/java/tofeedge/tiny_model_1"}
    assert {Path(name).stem for name in kotlin} >= {"TofeClassifier", "TofeException", "Prediction", "Model"}
    assert bundle.files[f"{assets}Tiny-model.1.pte"].data == model.content


def test_no_key_of_a_template_is_left(model: PackagedModel) -> None:
    for name, file in ANDROID.build(model, SOURCE).files.items():
        if not name.endswith((".png", ".pte")):
            assert not re.search(r"@[A-Z_]+@", file.data.decode()), name


def test_the_build_keeps_the_model_as_it_is_and_takes_the_runtime_that_fits(model: PackagedModel) -> None:
    script = text(model, "build.gradle.kts")
    assert 'noCompress += "pte"' in script and 'api("org.pytorch:executorch-android:1.5.1")' in script
    assert "minSdk = 23" in script and 'namespace = "tofeedge.tiny_model_1"' in script
    rules = text(model, "consumer-rules.pro")
    assert "-keep class org.pytorch.executorch.** { *; }" in rules and "-keep class com.facebook.jni.** { *; }" in rules


def test_the_constants_are_the_manifests(model: PackagedModel) -> None:
    constants = text(model, "src/main/java/tofeedge/tiny_model_1/Model.kt")
    assert f'SHA256 = "{model.manifest.sha256}"' in constants and "SIZE_BYTES = 10L" in constants
    assert 'FORWARD("forward", ' in constants and 'FORWARD_5_3_2("forward_5_3_2", 0.001, listOf(5, 3, 2))' in constants
    assert "MIN_SNR_DB = 10.0" in constants and "SKIPS_NEAR_TIES = false" in constants
    exact = text(changed(model, precision="fp32"), "src/main/java/tofeedge/tiny_model_1/Model.kt")
    assert "MIN_SNR_DB = 60.0" in exact and "SKIPS_NEAR_TIES = true" in exact
    dense = text(changed(model, token_counts=None), "src/main/java/tofeedge/tiny_model_1/Model.kt")
    assert re.search(r'FORWARD\("forward", [0-9.e-]+, emptyList\(\)\)', dense)


def test_licences_and_provenance_are_stated(model: PackagedModel) -> None:
    notice = text(model, "NOTICE")
    assert "its licence was not stated" in notice and "CC0-1.0" in notice and "BSD-3-Clause" in notice
    stated = replace(model, weights=Weights("MIT", {"start": "deit.safetensors", "data": ["mine x2"]}))
    assert "MIT\n    checkpoint" in text(stated, "NOTICE") and "trained from deit.safetensors on mine x2" in text(
        stated, "NOTICE"
    )
    assert "Apache License" in text(model, "LICENSE") and "Meta Platforms" in text(model, "LICENSE-executorch")


def test_two_processes_make_the_same_bytes(model: PackagedModel, tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    artifact = pretend_model(tiny_checkpoint, tmp_path / "model")
    sums = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "tofe_edge", "package", "--platform", "android", "--source"]
        command += [str(artifact.path), "--out", str(tmp_path / seed)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        sums.add(next(line for line in done.stdout.splitlines() if line.startswith("sha256")))
    assert len(sums) == 1


OTHER_PLATFORM = r"Tiny-model\.1\.pte: is a model for .* which does not run on Android; convert it"
NO_CONSTANT = r"cannot name a constant|differ in case alone"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({"backend": "coreml", "target": target}, OTHER_PLATFORM) for target in ("executorch", "coreml")),
        ({"target": "coreml"}, OTHER_PLATFORM),
        *(
            ({"versions": {"executorch": said}}, "no release for Android")
            for said in ("1.6.0a0+abc", 'x"; evil', "1.5")
        ),
        ({"versions": {}}, "of an unknown version"),
        *(
            ({"further_methods": [Method(name, [5, 3, 2], 0.001, 4, {}, 0)]}, NO_CONSTANT)
            for name in ('x"', "forward-1", "a b", "é", "FORWARD", "default")
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(model: PackagedModel, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ANDROID.build(changed(model, **changes), SOURCE)


@pytest.mark.parametrize(
    "package", ["", "model", "a..b", "Com.x", "com.class", "com.in.x", "a.b;", "a.b\nc", "a." + "b" * 120]
)
def test_wrong_packages_are_refused(model: PackagedModel, package: str) -> None:
    with pytest.raises(InputError, match=r"^--package-name .*: is not a package; give one such as com\.example\.model"):
        package_of(model, package)
    assert package_of(replace(model, name="a-b"), None) == "tofeedge.a_b"
    assert package_of(model, "com.example.model_2") == "com.example.model_2"


@pytest.mark.parametrize("name", ["Class", "in"])
def test_a_model_name_that_makes_no_package_is_refused(model: PackagedModel, name: str) -> None:
    message = rf"^{name}: the package made of the name, tofeedge\.{name.lower()}, is not valid; give"
    with pytest.raises(InputError, match=message):
        package_of(replace(model, name=name), None)


def test_models_whose_names_differ_in_a_dash_share_no_assets(model: PackagedModel) -> None:
    other = "0" * 64
    folders = {assets_folder(name, sha) for name, sha in (("a-b", model.manifest.sha256), ("a_b", other))}
    assert folders == {f"tofe/a_b_{model.manifest.sha256[:12]}", "tofe/a_b_000000000000"}


def test_every_file_beside_the_model_is_known_by_its_checksum(model: PackagedModel) -> None:
    constants = text(model, "src/main/java/tofeedge/tiny_model_1/Model.kt")
    sums = dict(re.findall(r'"(\S+)" to "([0-9a-f]{64})"', constants))
    beside = {name: file.data for name, file in model.files().items() if name != model.file_name}
    assert sums == {name: hashlib.sha256(data).hexdigest() for name, data in beside.items()} and len(sums) == 8


def test_a_missing_compiler_is_reported(model: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"kotlinc: not found on PATH; install .* --source, which needs no compiler"):
        ANDROID.build(model, Options())
    with pytest.raises(InputError, match="there is no such compiler"):
        ANDROID.build(model, Options(kotlinc=tmp_path / "kotlinc"))
    with pytest.raises(InputError, match="--kotlinc: is not used with --source"):
        ANDROID.build(model, Options(source=True, kotlinc=tmp_path))


def test_a_compiler_that_fails_is_one_line(model: PackagedModel, tmp_path: Path) -> None:
    broken = tmp_path / "kotlinc"
    for script, message in (
        ("exit 1", "is not a Kotlin compiler that runs here"),
        ('echo "info: kotlinc-jvm 1.3.0 (JRE 17)" >&2; echo "error: old" >&2; exit 1', r"version 1\.3\.0 .*error: old"),
    ):
        shell_script(broken, script)
        with pytest.raises(InputError, match=message) as caught:
            ANDROID.build(model, Options(kotlinc=broken))
        assert "--source" in str(caught.value)


def hanging(tmp_path: Path) -> tuple[Path, Path]:
    """A compiler that starts another program, as kotlinc starts Java, and the file with that one's id."""
    child = tmp_path / "child"
    text = f"sleep 60 &\necho $! > {child}.part; mv {child}.part {child}\nwait"
    return shell_script(tmp_path / "kotlinc", text), child


def has_ended(child: Path) -> bool:
    return processes.until(lambda: not processes.is_running(int(child.read_text())), 5)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc: Linux")
def test_a_hanging_compiler_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, child = hanging(tmp_path)
    monkeypatch.setattr(kotlin, "_SECONDS", 1)
    with pytest.raises(InputError, match="did not end within 1 s"):
        kotlin.compile_kotlin(compiler, {}, tmp_path, "net")
    assert has_ended(child), "what the compiler started is still running"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc: Linux")
def test_a_packager_that_is_stopped_takes_its_compiler_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, child = hanging(tmp_path)

    def interrupted(self: object, timeout: float | None = None) -> tuple[str, str]:
        while timeout is not None and not child.exists():
            time.sleep(0.01)
        if timeout is not None:
            raise KeyboardInterrupt
        return "", ""

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kotlin.compile_kotlin(compiler, {}, tmp_path, "net")
    assert has_ended(child), "what the compiler started is still running"


def test_a_compiler_in_the_working_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell_script(tmp_path / "kotlinc", 'echo "info: kotlinc-jvm 2.1.0 (JRE)" >&2')
    monkeypatch.chdir(tmp_path)
    found = kotlin.compile_kotlin(Path("kotlinc"), {"a.kt": BundleFile(b"")}, tmp_path, "net")
    assert (found.compiler, found.classes) == ("2.1.0", {})
