"""Bundles of models that give no classes: what is in them, and that their programs give the vectors that Python gives."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TinyModel, need
from jvm_bench import PACKAGE, as_bitmap, keep, make_bench
from linux_runners import real_machine
from packaged_models import need_kotlinc, packaged
from PIL import Image

from tofe_edge.cli import main
from tofe_edge.io.artifact import open_artifact
from tofe_edge.io.preprocessing import preprocess
from tofe_edge.packaging.bundle import BundleFile
from tofe_edge.packaging.platform import Options, find_platform
from tofe_edge.packaging.texts import facts
from tofe_edge.runtimes.loading import open_model
from tofe_edge.workflows.package import check_bundle

EMBEDDING = ("--output", "embedding", "--normalize")
FEATURES = ("--output", "features", "--elastic", "0.0016")


def picture(width: int = 100, height: int = 80) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


def files_of(model: Path, platform: str, options: Options) -> Mapping[str, BundleFile]:
    return find_platform(platform).build(packaged(open_artifact(model)), options).files


@pytest.mark.parametrize(
    ("options", "call", "said"),
    [
        (EMBEDDING, "embed", "an embedding of 48 numbers and the length 1"),
        (FEATURES, "features", "features of 16 patches, 48 numbers each"),
    ],
)
def test_apps_get_a_method_for_vectors_and_no_labels(
    tiny_model: TinyModel, options: tuple[str, ...], call: str, said: str
) -> None:
    model = tiny_model(*options)
    assert said in facts(open_artifact(model).manifest)
    methods = {"android": f"fun {call}(bitmap: Bitmap): FloatArray", "apple": f"func {call}(_ image: CGImage"}
    for platform, method in methods.items():
        files = files_of(model, platform, Options(source=platform == "android"))
        code = {Path(name).stem: file.data.decode() for name, file in files.items() if name.endswith((".kt", ".swift"))}
        assert method in code["TofeEncoder"] and "TofeClassifier" not in code and "Prediction" not in code
        assert not [name for name in files if "labels.txt" in name]
        for name, file in files.items():
            if name.endswith((".kt", ".swift", ".md", ".kts", ".xml")):
                text = file.data.decode()
                assert not re.search(
                    r"@[A-Z_]+@|[Cc]lassif", text.replace("Sources/Classifier", "").replace("ClassifierTests", "")
                ), name
        assert f".{call}(" in files["README.md"].data.decode() and said in files["README.md"].data.decode()


def test_a_package_of_core_ml_and_its_bundle_give_vectors(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model(*EMBEDDING, "--target", "coreml")
    files = files_of(model, "apple", Options())
    assert 'numbers("embedding", in: outputs)' in files["Sources/Classifier/Network.swift"].data.decode()
    assert main(["package", str(model), "--platform", "apple", "--out", str(tmp_path)]) == 0
    (bundle,) = tmp_path.iterdir()
    assert check_bundle(bundle).passed


@pytest.mark.toolchain
def test_the_example_for_linux_prints_vectors(tiny_model: TinyModel, tmp_path: Path) -> None:
    machine = real_machine("host", tmp_path / "built")
    model = tiny_model(*FEATURES)
    call = [
        "package",
        model,
        "--platform",
        "linux",
        "--name",
        "net",
        "--arch",
        machine.arch,
        "--runner",
        machine.runner,
    ]
    assert main(list(map(str, [*call, "--out", tmp_path / "out"]))) == 0
    subprocess.run(
        [need("tar", "apt-get install tar"), "-xzf", *(tmp_path / "out").iterdir()], cwd=tmp_path, check=True
    )
    folder = tmp_path / f"net-linux-{machine.arch}"
    make = [
        need("make", "apt-get install make"),
        "-C",
        str(folder / "example"),
        "CFLAGS=-O2 -Werror -pedantic",
        "check",
    ]
    subprocess.run(make, check=True, capture_output=True)
    picture().save(tmp_path / "a.ppm")
    program = [str(folder / "example" / "encode"), str(folder / "model" / "net.pte")]
    done = subprocess.run(program, input=2 * (tmp_path / "a.ppm").read_bytes(), capture_output=True, check=True)
    found = np.array([line.split() for line in done.stdout.decode().splitlines() if line], np.float32)
    artifact = open_artifact(model)
    wanted = open_model(artifact, 1)(preprocess(picture(), artifact.manifest.preprocessing)).output
    np.testing.assert_allclose(found, np.concatenate((wanted, wanted)), rtol=1e-4, atol=1e-4)


@pytest.mark.toolchain
def test_the_library_for_android_gives_vectors(tiny_model: TinyModel, tmp_path: Path) -> None:
    kotlinc, model = need_kotlinc(), tiny_model(*FEATURES)
    call = ["package", model, "--platform", "android", "--package-name", PACKAGE, "--kotlinc", kotlinc]
    assert main(list(map(str, [*call, "--out", tmp_path / "out"]))) == 0
    (aar,) = (tmp_path / "out").rglob("*.aar")
    bench = make_bench(aar, model, kotlinc, tmp_path, encodes=True)
    artifact, image = open_artifact(model), picture()
    values = (np.arange(16 * 48) / 4).astype(np.float32).reshape(1, 16, 48)
    selections = [np.arange(count, dtype=np.int64) for count in (16, 16, 16)]
    pixels = preprocess(image, artifact.manifest.preprocessing)
    keep(bench.recorded / "forward" / "own", pixels, [values, *selections])
    *tests, line = bench.run(as_bitmap(image, tmp_path / "a"))
    assert tests == ["passed, Infinity dB"] * 2
    assert np.array_equal(np.array(line.split(), np.float32), values.ravel())
    keep(tmp_path / "other" / "forward" / "own", pixels, [values * np.float32(np.nan), *selections])
    golden = bench.recorded.rename(tmp_path / "golden")
    for one in [*golden.glob("forward_*"), *(golden / "forward").glob("*.png")]:
        one.rename(tmp_path / "other" / one.relative_to(golden))
    assert (
        "infinite or not numbers"
        in replace(bench, recorded=tmp_path / "other").run(as_bitmap(image, tmp_path / "a"))[-1]
    )
