"""The packaged Android library, run on a JVM: its preprocessing, self-test and errors, against the Python reference."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conftest import TinyModel, flip
from jvm_bench import PACKAGE, Bench, as_bitmap, keep, make_bench
from packaged_models import need_kotlinc
from PIL import Image

from tofe_edge.cli import main
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, open_artifact
from tofe_edge.io.images import read_image
from tofe_edge.io.preprocessing import preprocess, resize_and_crop

pytestmark = pytest.mark.toolchain

SELF_TEST = f"selfTest:{DEFAULT_METHOD.upper()}"

SIZES = (
    *((640, 427), (427, 640), (300, 300), (97, 211), (211, 97), (375, 500), (64, 64)),
    *((71, 71), (33, 40), (71, 900), (1, 7), (2048, 1361)),
)
"""Larger, smaller, and such that the short side needs no resizing (71 is 64 / 0.9)."""


@pytest.fixture(scope="module")
def model(tiny_model: TinyModel) -> Path:
    """Two budgets in batches of two."""
    need_kotlinc()
    return tiny_model("--elastic", "0.0016", "--batch", "2")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Bench:
    out, kotlinc = tmp_path_factory.mktemp("bundle"), need_kotlinc()
    call = ["package", model, "--platform", "android", "--package-name", PACKAGE, "--kotlinc", kotlinc, "--out", out]
    assert main(list(map(str, call))) == 0
    (aar,) = out.rglob("*.aar")
    return make_bench(aar, model, kotlinc, tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def artifact(model: Path) -> Artifact:
    return open_artifact(model)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Noise over a gradient: every pixel counts, and filters overshoot."""
    generator = np.random.default_rng(width * 10000 + height)
    pixels = generator.integers(0, 256, (height, width, len(mode)), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)
    pixels[: height // 3, :, 1] = 255 * (np.arange(width) % 2)
    return Image.fromarray(pixels, mode)


def prepared(bench: Bench, images: list[Image.Image], folder: Path, command: str, *words: str) -> list[bytes]:
    """What a command of the library makes of the images."""
    outputs = [folder / f"{number}.out" for number in range(len(images))]
    bitmaps = [as_bitmap(image, output.with_suffix(".argb")) for image, output in zip(images, outputs, strict=True)]
    rest = words or ("",) * len(images)
    bench.run(*(f"{command}:{one}:{out}{more}" for one, out, more in zip(bitmaps, outputs, rest, strict=True)))
    return [output.read_bytes() for output in outputs]


def test_inputs_and_golden_images_are_prepared_to_the_bit(bench: Bench, artifact: Artifact, tmp_path: Path) -> None:
    spec = artifact.manifest.preprocessing
    images = [picture(*size) for size in SIZES]
    assert prepared(bench, images, tmp_path, "input") == [preprocess(image, spec).tobytes() for image in images]
    golden = [read_image(path) for path in sorted(artifact.path.with_suffix(".golden").glob("*.png"))]
    assert len(golden) == 4
    assert prepared(bench, golden, tmp_path, "square") == [resize_and_crop(image, spec).tobytes() for image in golden]


def test_what_is_transparent_is_put_on_white(bench: Bench, artifact: Artifact, tmp_path: Path) -> None:
    image = picture(90, 80, "RGBA")
    image.save(tmp_path / "transparent.png")
    wanted = resize_and_crop(read_image(tmp_path / "transparent.png"), artifact.manifest.preprocessing)
    assert prepared(bench, [image], tmp_path, "square") == [wanted.tobytes()]


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_resizing_equals_pillow_for_any_sizes_and_windows(bench: Bench, tmp_path: Path, name: str) -> None:
    generator = np.random.default_rng(3)
    images, words, wanted = [], [], []
    for _ in range(60):
        from_width, from_height, width, height = map(int, generator.integers(3, 260, 4))
        images.append(picture(from_width, from_height))
        size = int(generator.integers(1, min(width, height) + 1))
        left, top = int(generator.integers(width - size + 1)), int(generator.integers(height - size + 1))
        words.append(f":{name}:{width}:{height}:{left}:{top}:{size}")
        resized = images[-1].resize((width, height), Image.Resampling[name.upper()])
        wanted.append(resized.crop((left, top, left + size, top + size)).tobytes())
    assert prepared(bench, images, tmp_path, "window", *words) == wanted


def test_the_self_test_passes_for_every_budget(bench: Bench, artifact: Artifact) -> None:
    names = [name.upper() for name in artifact.manifest.methods]
    lines = bench.run(*(f"selfTest:{name}" for name in names))
    assert len(lines) == 2
    # Golden vectors have nine digits, which give every float32 back.
    assert all(line == "passed, Infinity dB Infinity [1.0, 1.0, 1.0]" for line in lines)


def times_1_05(content: bytes) -> bytes:
    return (np.frombuffer(content, np.float32) * np.float32(1.05)).tobytes()


def backwards(content: bytes) -> bytes:
    return np.frombuffer(content, np.int64).reshape(2, -1)[:, ::-1].tobytes()


def out_of_bounds(content: bytes) -> bytes:
    return np.full(len(content) // 8, 16, np.int64).tobytes()


@pytest.mark.parametrize(
    ("output", "spoil", "said"),
    [
        ("0.f32", times_1_05, "FAILED: logits SNR 26.0 dB is under 60 dB"),
        ("1.i64", backwards, "FAILED: kept tokens of stage 1: 0."),
        ("2.i64", out_of_bounds, "RUNTIME: the model selected token 16 of 16"),
    ],
)
def test_the_self_test_fails_on_a_wrong_device(
    bench: Bench, tmp_path: Path, output: str, spoil: Callable[[bytes], bytes], said: str
) -> None:
    broken = replace(bench, recorded=Path(shutil.copytree(bench.recorded, tmp_path / "recorded")))
    for path in broken.recorded.rglob(output):
        path.write_bytes(spoil(path.read_bytes()))
    (line,) = broken.run(SELF_TEST)
    assert line.startswith(said)


def recorded(folder: Path, artifact: Artifact, image: Image.Image, logits: npt.NDArray[np.float32]) -> None:
    """Let the doubles' ExecuTorch answer an image with these logits."""
    values = preprocess(image, artifact.manifest.preprocessing)
    selections = [np.zeros((2, count), np.int64) for count in (16, 12, 8)]
    keep(folder / DEFAULT_METHOD / str(image.size), np.repeat(values, 2, axis=0), [logits, *selections])


def test_classes_come_with_labels_and_probabilities(bench: Bench, artifact: Artifact, tmp_path: Path) -> None:
    image = picture(100, 80)
    logits = (np.arange(20) / 4).astype(np.float32).reshape(2, 10)
    recorded(tmp_path / "recorded", artifact, image, logits)
    one = replace(bench, recorded=tmp_path / "recorded")
    (line,) = one.run(f"classify:{as_bitmap(image, tmp_path / 'a')}")
    shares = np.exp(logits[0].astype(np.float64)) / np.exp(logits[0].astype(np.float64)).sum()
    found = [
        part.split(", ") for part in line.strip("[]").removeprefix("Prediction(").rstrip(")").split("), Prediction(")
    ]
    names = artifact.manifest.class_names
    assert [words[:2] for words in found] == [[f"index={n}", f"label={names[n]}"] for n in (9, 8, 7, 6, 5)]
    assert [float(words[2].removeprefix("probability=")) for words in found] == pytest.approx(shares[:4:-1])


def test_threads_get_their_own_answers(bench: Bench, artifact: Artifact, tmp_path: Path) -> None:
    images = [picture(100, 80), picture(90, 81)]
    logits = (np.arange(20) / 4).astype(np.float32).reshape(2, 10)
    for image, answer in zip(images, (logits, logits[:, ::-1]), strict=True):
        recorded(tmp_path / "recorded", artifact, image, np.ascontiguousarray(answer))
    one = replace(bench, recorded=tmp_path / "recorded")
    bitmaps = ":".join(as_bitmap(image, tmp_path / str(number)) for number, image in enumerate(images))
    assert one.run(f"together:{bitmaps}") == ["same until closed, same until closed, loaded"]


def test_the_main_thread_is_refused_and_called_back(bench: Bench) -> None:
    refused, called = bench.run("onMain", "async")
    assert refused.startswith("MAIN_THREAD: create reads and loads a model")
    assert called == "ready on main looper"


def test_whatever_happens_there_is_one_callback(bench: Bench) -> None:
    broken, refused = bench.run("async:broken", "async:refused")
    assert broken == "RUNTIME on main looper: the model cannot be loaded: no assets"
    assert refused.startswith("RUNTIME on main looper: ") and refused.endswith("RejectedExecutionException: shut down")


def test_a_closed_classifier_and_unusable_bitmaps_are_refused(bench: Bench, tmp_path: Path) -> None:
    bitmap = as_bitmap(picture(80, 70), tmp_path / "a")
    narrow = as_bitmap(picture(1, 30000), tmp_path / "b")
    lines = bench.run(f"closed:{bitmap}", f"recycled:{bitmap}", f"classify:{narrow}", f"classify:{bitmap}")
    assert [line.split(":")[0] for line in lines] == ["CLOSED", "INPUT", "INPUT", "RUNTIME"]
    assert "1 x 30000 pixels is too narrow" in lines[2] and "not recorded" in lines[3]


def test_bitmaps_that_fail_meanwhile_are_unusable(bench: Bench, tmp_path: Path) -> None:
    (line,) = bench.run(f"faulty:{as_bitmap(picture(80, 70), tmp_path / 'a')}")
    said = "INPUT: the bitmap's pixels cannot be read: "
    assert line == f"{said}recycled; {said}large; "


@pytest.mark.parametrize("name", ["labels.txt", "preprocessing.json", "golden.json", "3.png"])
def test_damaged_files_beside_the_model_are_refused(bench: Bench, tmp_path: Path, name: str) -> None:
    assets = Path(shutil.copytree(bench.assets, tmp_path / "assets"))
    (asset,) = assets.rglob(name)
    flip(asset)
    (line,) = bench.run(SELF_TEST, assets=assets)
    assert line.startswith("DAMAGED: the asset tofe/") and line.endswith(f"{name} is damaged: another checksum")


def test_a_self_test_of_nothing_does_not_pass(bench: Bench, model: Path, tmp_path: Path) -> None:
    document = json.loads((model.with_suffix(".golden") / "golden.json").read_text())
    lines: list[str] = []
    none: list[object] = []
    for vectors in (document["vectors"], none):
        (tmp_path / f"{len(vectors)}.json").write_text(json.dumps({**document, "vectors": vectors}))
        lines += bench.run(f"golden:{tmp_path / f'{len(vectors)}.json'}:{DEFAULT_METHOD.upper()}")
    assert lines == ["4 vectors", "DAMAGED: golden.json cannot be used: it has no vectors of forward"]
    (judged,) = bench.run("nothingMeasured")
    assert judged.startswith("FAILED: logits SNR NaN dB is under 60 dB") and "kept tokens of stage 1: NaN" in judged


def test_parts_that_killed_processes_left_are_deleted(bench: Bench, tmp_path: Path) -> None:
    assert bench.run(SELF_TEST)[0].startswith("passed")
    (copied,) = bench.files.rglob("*.pte")
    old, new = copied.with_name("x.1.part"), copied.with_name("x.2.part")
    for part in (old, new):
        part.write_bytes(b"part")
    os.utime(old, (0, 0))
    assert bench.run(SELF_TEST)[0].startswith("passed")
    assert (old.exists(), new.exists()) == (False, True)
    new.unlink()


def test_a_damaged_model_is_refused_and_a_damaged_copy_made_anew(bench: Bench, tmp_path: Path) -> None:
    bench.run(SELF_TEST)
    (copied,) = bench.files.rglob("*.pte")
    content = copied.read_bytes()
    copied.write_bytes(b"x" + content[1:])
    assert bench.run(SELF_TEST)[0].startswith("passed") and copied.read_bytes() == content

    assets = Path(shutil.copytree(bench.assets, tmp_path / "assets"))
    (asset,) = assets.rglob("*.pte")
    flip(asset)
    other = replace(bench, files=tmp_path / "files")
    (line,) = other.run(SELF_TEST, assets=assets)
    assert line.startswith("DAMAGED: the model in the app is damaged")
    assert not [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    asset.unlink()
    assert other.run(SELF_TEST, assets=assets)[0].startswith("DAMAGED: the app lacks the asset")
