"""The packaged Android library, run on a JVM: its preprocessing, self-test and errors, against the Python reference."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conftest import TinyModel
from jvm_bench import PACKAGE, Bench, as_bitmap, keep, make_bench
from packaged_models import need_kotlinc
from PIL import Image

from tofe_edge.cli import main
from tofe_edge.io.artifact import DEFAULT_METHOD, Artifact, open_artifact
from tofe_edge.io.images import read_image
from tofe_edge.io.preprocessing import preprocess, resize_and_crop

pytestmark = pytest.mark.toolchain

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


def test_prepared_inputs_equal_the_references_to_the_bit(bench: Bench, artifact: Artifact, tmp_path: Path) -> None:
    images = [picture(*size) for size in SIZES]
    commands = [
        f"input:{as_bitmap(one, tmp_path / f'{n}.argb')}:{tmp_path / f'{n}.out'}" for n, one in enumerate(images)
    ]
    assert bench.run(*commands) == ["written"] * len(images)
    for number, image in enumerate(images):
        wanted = preprocess(image, artifact.manifest.preprocessing)
        assert (tmp_path / f"{number}.out").read_bytes() == wanted.tobytes(), f"{image.size}"


def test_golden_images_are_prepared_as_the_reference_does(bench: Bench, model: Path, tmp_path: Path) -> None:
    spec = open_artifact(model).manifest.preprocessing
    pngs = sorted(model.with_suffix(".golden").glob("*.png"))
    images = [read_image(path) for path in pngs]
    commands = [
        f"square:{as_bitmap(one, tmp_path / f'{n}.argb')}:{tmp_path / f'{n}.out'}" for n, one in enumerate(images)
    ]
    bench.run(*commands)
    assert len(images) == 4
    for number, image in enumerate(images):
        assert (tmp_path / f"{number}.out").read_bytes() == resize_and_crop(image, spec).tobytes()


def test_what_is_transparent_is_put_on_white_as_the_reference_does(
    bench: Bench, artifact: Artifact, tmp_path: Path
) -> None:
    image = picture(90, 80, "RGBA")
    image.save(tmp_path / "transparent.png")
    bench.run(f"square:{as_bitmap(image, tmp_path / 'a')}:{tmp_path / 'out'}")
    wanted = resize_and_crop(read_image(tmp_path / "transparent.png"), artifact.manifest.preprocessing)
    assert (tmp_path / "out").read_bytes() == wanted.tobytes()


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_resizing_equals_pillow_for_any_sizes_and_windows(bench: Bench, tmp_path: Path, name: str) -> None:
    generator = np.random.default_rng(3)
    commands, wanted = [], []
    for number in range(60):
        from_width, from_height, width, height = map(int, generator.integers(3, 260, 4))
        image = picture(from_width, from_height)
        size = int(generator.integers(1, min(width, height) + 1))
        left, top = int(generator.integers(width - size + 1)), int(generator.integers(height - size + 1))
        bitmap = as_bitmap(image, tmp_path / f"{number}.argb")
        commands.append(f"window:{bitmap}:{tmp_path / f'{number}.out'}:{name}:{width}:{height}:{left}:{top}:{size}")
        resized = image.resize((width, height), Image.Resampling[name.upper()])
        wanted.append(resized.crop((left, top, left + size, top + size)).tobytes())
    bench.run(*commands)
    assert [(tmp_path / f"{number}.out").read_bytes() == one for number, one in enumerate(wanted)] == [True] * 60


def test_the_self_test_passes_for_every_budget(bench: Bench, artifact: Artifact) -> None:
    names = [name.upper() for name in artifact.manifest.methods]
    lines = bench.run(*(f"selfTest:{name}" for name in names))
    assert len(lines) == 2
    # Golden vectors have nine digits, which give every float32 back.
    assert all(line == "passed, Infinity dB Infinity [1.0, 1.0, 1.0]" for line in lines)


def test_the_self_test_fails_on_a_device_that_computes_otherwise(
    bench: Bench, artifact: Artifact, tmp_path: Path
) -> None:
    broken = Bench(**{**vars(bench), "recorded": tmp_path / "recorded"})
    shutil.copytree(bench.recorded, broken.recorded)
    for logits in broken.recorded.rglob("0.f32"):
        values = np.fromfile(logits, np.float32)
        logits.write_bytes((values * np.float32(1.05)).tobytes())
    (line,) = broken.run(f"selfTest:{DEFAULT_METHOD.upper()}")
    assert line.startswith("FAILED: logits SNR 26.0 dB is under 60 dB")


def test_the_self_test_sees_other_tokens(bench: Bench, tmp_path: Path) -> None:
    broken = Bench(**{**vars(bench), "recorded": tmp_path / "recorded"})
    shutil.copytree(bench.recorded, broken.recorded)
    for selection in broken.recorded.rglob("1.i64"):
        values = np.fromfile(selection, np.int64)
        selection.write_bytes(values.reshape(2, -1)[:, ::-1].tobytes())
    (line,) = broken.run(f"selfTest:{DEFAULT_METHOD.upper()}")
    assert line.startswith("FAILED: kept tokens of stage 1: 0.")


def recorded(folder: Path, artifact: Artifact, image: Image.Image, logits: npt.NDArray[np.float32]) -> None:
    """Let the doubles' ExecuTorch answer an image with these logits."""
    values = preprocess(image, artifact.manifest.preprocessing)
    selections = [np.zeros((2, count), np.int64) for count in (16, 12, 8)]
    keep(folder / DEFAULT_METHOD / str(image.size), np.repeat(values, 2, axis=0), [logits, *selections])


def test_classes_come_with_labels_and_probabilities(bench: Bench, artifact: Artifact, tmp_path: Path) -> None:
    image = picture(100, 80)
    logits = (np.arange(20) / 4).astype(np.float32).reshape(2, 10)
    recorded(tmp_path / "recorded", artifact, image, logits)
    one = Bench(**{**vars(bench), "recorded": tmp_path / "recorded"})
    (line,) = one.run(f"classify:{as_bitmap(image, tmp_path / 'a')}")
    shares = np.exp(logits[0].astype(np.float64)) / np.exp(logits[0].astype(np.float64)).sum()
    found = [
        part.split(", ") for part in line.strip("[]").removeprefix("Prediction(").rstrip(")").split("), Prediction(")
    ]
    names = artifact.manifest.class_names
    assert [words[:2] for words in found] == [[f"index={n}", f"label={names[n]}"] for n in (9, 8, 7, 6, 5)]
    assert [float(words[2].removeprefix("probability=")) for words in found] == pytest.approx(shares[:4:-1])


def test_threads_get_their_own_answers_while_classifiers_are_loaded_and_closed(
    bench: Bench, artifact: Artifact, tmp_path: Path
) -> None:
    images = [picture(100, 80), picture(90, 81)]
    logits = (np.arange(20) / 4).astype(np.float32).reshape(2, 10)
    for image, answer in zip(images, (logits, logits[:, ::-1]), strict=True):
        recorded(tmp_path / "recorded", artifact, image, np.ascontiguousarray(answer))
    one = Bench(**{**vars(bench), "recorded": tmp_path / "recorded"})
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


def test_a_closed_classifier_and_unusable_bitmaps_are_told(bench: Bench, tmp_path: Path) -> None:
    bitmap = as_bitmap(picture(80, 70), tmp_path / "a")
    narrow = as_bitmap(picture(1, 30000), tmp_path / "b")
    lines = bench.run(f"closed:{bitmap}", f"recycled:{bitmap}", f"classify:{narrow}", f"classify:{bitmap}")
    assert [line.split(":")[0] for line in lines] == ["CLOSED", "INPUT", "INPUT", "RUNTIME"]
    assert "1 x 30000 pixels is too narrow" in lines[2] and "not recorded" in lines[3]


def test_bitmaps_that_fail_meanwhile_are_unusable(bench: Bench, tmp_path: Path) -> None:
    (line,) = bench.run(f"faulty:{as_bitmap(picture(80, 70), tmp_path / 'a')}")
    said = "INPUT: the bitmap's pixels cannot be read: "
    assert line == f"{said}recycled; {said}large; "


def test_selections_out_of_bounds_are_told(bench: Bench, tmp_path: Path) -> None:
    broken = Bench(**{**vars(bench), "recorded": tmp_path / "recorded"})
    shutil.copytree(bench.recorded, broken.recorded)
    for selection in broken.recorded.rglob("2.i64"):
        values = np.fromfile(selection, np.int64)
        selection.write_bytes(np.full_like(values, 16).tobytes())
    (line,) = broken.run(f"selfTest:{DEFAULT_METHOD.upper()}")
    assert line == "RUNTIME: the model selected token 16 of 16"


@pytest.mark.parametrize("name", ["labels.txt", "preprocessing.json", "golden.json", "3.png"])
def test_damaged_files_beside_the_model_are_refused(bench: Bench, tmp_path: Path, name: str) -> None:
    assets = Path(shutil.copytree(bench.assets, tmp_path / "assets"))
    (asset,) = assets.rglob(name)
    content = asset.read_bytes()
    asset.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (line,) = bench.run(f"selfTest:{DEFAULT_METHOD.upper()}", assets=assets)
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
    command = f"selfTest:{DEFAULT_METHOD.upper()}"
    assert bench.run(command)[0].startswith("passed")
    (copied,) = bench.files.rglob("*.pte")
    old, new = copied.with_name("x.1.part"), copied.with_name("x.2.part")
    for part in (old, new):
        part.write_bytes(b"part")
    os.utime(old, (0, 0))
    assert bench.run(command)[0].startswith("passed")
    assert (old.exists(), new.exists()) == (False, True)
    new.unlink()


def test_a_damaged_model_is_refused_and_a_damaged_copy_made_anew(bench: Bench, tmp_path: Path) -> None:
    command = f"selfTest:{DEFAULT_METHOD.upper()}"
    (copied,) = bench.files.rglob("*.pte") if list(bench.files.rglob("*.pte")) else [None]
    if copied is None:
        bench.run(command)
        (copied,) = bench.files.rglob("*.pte")
    content = copied.read_bytes()
    copied.write_bytes(b"x" + content[1:])
    assert bench.run(command)[0].startswith("passed") and copied.read_bytes() == content

    assets = Path(shutil.copytree(bench.assets, tmp_path / "assets"))
    (asset,) = assets.rglob("*.pte")
    asset.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    other = Bench(**{**vars(bench), "files": tmp_path / "files"})
    (line,) = other.run(command, assets=assets)
    assert line.startswith("DAMAGED: the model in the app is damaged")
    assert not [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    asset.unlink()
    assert other.run(command, assets=assets)[0].startswith("DAMAGED: the app lacks the asset")
