"""The native runner with what stands beside a model: its manifest, images, golden vectors. Here and on an emulated ARM."""

import json
import operator
import random
import shutil
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import edit_json, shell_script
from native_builds import Built, runner
from native_programs import copy_of
from PIL import Image

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.evaluation.prediction import top_classes
from tofe_edge.io.artifact import Artifact
from tofe_edge.io.files import sha256_of
from tofe_edge.io.images import read_image
from tofe_edge.io.preprocessing import preprocess
from tofe_edge.io.targets import FP32_GATES, find_target
from tofe_edge.runtimes.loading import open_model
from tofe_edge.runtimes.native_build import Target
from tofe_edge.runtimes.native_runner import BAD_FILE, BAD_INPUT, SELF_TEST_FAILED, self_test_alone

pytestmark = pytest.mark.toolchain

MISSING = object()


@pytest.fixture(scope="module", params=["host", "aarch64"])
def native(request: pytest.FixtureRequest) -> Built:
    target: Target = request.param
    return runner(target)


@pytest.fixture
def model(elastic_artifact: Artifact, tmp_path: Path) -> Path:
    """A copy of the model with its manifest and its golden vectors, to damage."""
    return copy_of(elastic_artifact, tmp_path)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    coarse = np.random.default_rng(5).integers(0, 256, (6, 8, 3), np.uint8)
    path = tmp_path / "a picture.png"
    Image.fromarray(coarse).resize((121, 93), Image.Resampling.BICUBIC).save(path)
    return path


def edit(path: Path, key: str, value: Any) -> None:
    """Set one value of a JSON file, ``key`` is its path with dots; or take it away."""
    *parents, last = (int(name) if name.isdigit() else name for name in key.split("."))

    def change(document: Any) -> None:
        place = reduce(operator.getitem, parents, document)
        place.pop(last) if value is MISSING else operator.setitem(place, last, value)

    edit_json(path, change)


@pytest.mark.parametrize("method", [0, 2])
def test_classes_are_those_of_python(host: Built, elastic_artifact: Artifact, picture: Path, method: int) -> None:
    manifest = elastic_artifact.manifest
    name = list(manifest.methods)[method]
    done = host(str(elastic_artifact.path), "--image", str(picture), "--top", "3", "--method", name)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    wanted = open_model(elastic_artifact, 1, name)(preprocess(read_image(picture), manifest.preprocessing))
    for found, best in zip(report["top"], top_classes(wanted.logits, manifest.class_names, 3), strict=True):
        assert (found["index"], found["name"], found["id"]) == (best.index, best.name, manifest.class_ids[best.index])
        assert found["probability"] == pytest.approx(best.probability, abs=1e-6)
    assert report["verified"] is True
    assert report["outputs"][0]["shape"] == [3, 10]


def test_arm_gives_the_same_classes(native: Built, host: Built, elastic_artifact: Artifact, picture: Path) -> None:
    words = [str(elastic_artifact.path), "--image", str(picture), "--top", "10"]
    here, there = json.loads(host(*words).stdout), json.loads(native(*words).stdout)
    assert [one["index"] for one in there["top"]] == [one["index"] for one in here["top"]]


def test_a_checksum_stands_for_a_manifest(native: Built, model: Path) -> None:
    path = model.rename(model.with_name("alone.pte"))
    sha256, size = sha256_of(path), path.stat().st_size
    assert json.loads(native(str(path)).stdout)["verified"] is False
    done = native(str(path), "--sha256", sha256.upper(), "--size", str(size))
    assert json.loads(done.stdout)["verified"] is True
    wrong = f"{'0' if sha256[0] != '0' else '1'}{sha256[1:]}"
    assert "its checksum is not that of the command line" in native.refused(BAD_FILE, str(path), "--sha256", wrong)
    message = native.refused(BAD_FILE, str(path), "--size", str(size + 1))
    assert f"alone.pte: has {size} bytes, but --size says {size + 1}; copy it again" in message


def test_every_damage_of_a_model_has_its_code(native: Built, model: Path) -> None:
    whole = model.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for content, said in (
        (b"", f"has 0 bytes, but its manifest {model.with_suffix('.json')} says {len(whole)}"),
        (whole[:-1], f"has {len(whole) - 1} bytes"),
        (whole + b"\0", f"has {len(whole) + 1} bytes"),
        (bytes(flipped), "its checksum is not that of its manifest"),
        (b"PK\x03\x04" + bytes(len(whole) - 4), "its checksum is not that of its manifest"),
    ):
        model.write_bytes(content)
        assert f"net.pte: {said}" in native.refused(BAD_FILE, str(model))
    # Without its manifest a flipped bit is not seen; what is no whole program is.
    model.with_suffix(".json").unlink()
    for content in (b"", whole[:4], whole[: len(whole) // 2], b"PK\x03\x04" + bytes(4096)):
        model.write_bytes(content)
        native.refused(BAD_FILE, str(model))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("schema", 2, "its schema is not 4"),
        ("target", "coreml", "it is of a model for coreml, which this program does not run"),
        ("sha256", MISSING, "key 'sha256' is missing"),
        ("sha256", "abc", "sha256 must be 64 lower-case hexadecimal digits"),
        ("size_bytes", -1, "size_bytes must be a whole number"),
        ("size_bytes", True, "size_bytes must be a whole number"),
        ("batch", 0, "batch must be a whole number from 1"),
        ("gmacs", -1, "gmacs must be a number in its range"),
        ("class_names", [], "class_names and class_ids must be of equal length"),
        ("class_names", "abc", "class_names must be a list"),
        ("preprocessing", [], "what should hold key 'color_order' is not an object"),
        ("preprocessing.crop_pct", 0, "crop_pct must be a number in its range"),
        ("preprocessing.std", [1, 1], "std must be three numbers"),
        ("preprocessing.interpolation", "nearest", "interpolation must be bicubic or bilinear"),
        ("preprocessing.resize", "all", "resize must be short_side or none"),
        ("further_methods", [3], "what should hold key 'name' is not an object"),
    ],
)
def test_a_malformed_manifest_is_a_bad_file(host: Built, model: Path, key: str, value: Any, said: str) -> None:
    edit(model.with_suffix(".json"), key, value)
    assert f"net.json: is not a manifest ({said}" in host.refused(BAD_FILE, str(model))


@pytest.mark.parametrize("content", ["", "{", '{"a": NaN}', '{"a": 1e999}', "[" * 100000, '{"schema": 3', "\xff"])
def test_what_is_no_json_is_a_bad_file(host: Built, model: Path, content: str) -> None:
    model.with_suffix(".json").write_text(content, encoding="latin-1")
    assert "net.json: cannot be read as JSON" in host.refused(BAD_FILE, str(model))


def test_a_flipped_bit_of_a_manifest_is_a_bad_file(host: Built, model: Path) -> None:
    manifest = model.with_suffix(".json")
    content = manifest.read_bytes()
    for bit in random.Random(20).sample(range(8 * len(content)), 60):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(damaged)
        host.refused(BAD_FILE, str(model))


def test_documents_of_the_version_before_are_read_with_a_warning(host: Built, model: Path) -> None:
    def age(document: Any) -> None:
        document.pop("digest")
        document["schema"] -= 1

    golden = model.with_suffix(".golden")
    for path in (model.with_suffix(".json"), golden / "golden.json"):
        edit_json(path, age)
    done = host(str(model), "--self-test", str(golden))
    assert done.returncode == 0 and json.loads(done.stdout)["passed"]
    assert done.stderr.startswith(f"tofe_runner: warning: {model.with_suffix('.json')}: is of an earlier version")
    assert done.stderr.count("\n") == 1


def test_a_manifest_may_stand_elsewhere_but_must_stand_somewhere(host: Built, model: Path, picture: Path) -> None:
    moved = model.with_suffix(".json").rename(model.with_name("other.json"))
    assert json.loads(host(str(model), "--manifest", str(moved), "--top", "1").stdout)["top"]
    assert "net.json: cannot be opened" in host.refused(BAD_FILE, str(model), "--image", str(picture))


def test_a_manifest_of_another_graph_is_a_bad_file(host: Built, model: Path, picture: Path) -> None:
    manifest = model.with_suffix(".json")
    edit(manifest, "preprocessing.image_size", 32)
    message = host.refused(BAD_FILE, str(model), "--image", str(picture))
    assert "net.json: the model takes other input than this manifest says" in message
    edit(manifest, "preprocessing.image_size", 64)
    for key in ("class_names", "class_ids"):
        edit(manifest, key, ["a"])
    message = host.refused(BAD_FILE, str(model), "--image", str(picture), "--top", "1")
    assert "of the model gives other outputs than this manifest says" in message


def test_no_name_of_a_file_moves_the_cursor(host: Built, model: Path) -> None:
    message = host.refused(BAD_INPUT, str(model), "--input", "a\x1b[2J\tb\x7f\r\nc")
    assert "a [2J b   c: cannot be opened" in message


def test_a_bad_picture_is_a_bad_input(host: Built, model: Path, picture: Path) -> None:
    picture.write_bytes(picture.read_bytes()[:100])
    assert "a picture.png: is damaged (it is cut short)" in host.refused(BAD_INPUT, str(model), "--image", str(picture))


def test_the_runner_replays_golden_vectors_alone(native: Built, model: Path, elastic_artifact: Artifact) -> None:
    verdicts = self_test_alone(native.binary, model, model.with_suffix(".golden"), native.emulator)
    assert [one.method for one in verdicts] == list(elastic_artifact.manifest.methods)
    for verdict in verdicts:
        assert verdict.passed and verdict.images == 4
        assert verdict.kept_overlap == (1.0, 1.0, 1.0) and verdict.failures == ()
        # Here the same bytes; there another CPU's rounding.
        assert verdict.snr_db == np.inf or (native.emulator and verdict.snr_db > FP32_GATES.min_snr_db)


def test_its_gates_are_those_of_python(host: Built, model: Path) -> None:
    for precision, storage in find_target("coreml").precisions.items():
        gates = storage.gates
        edit(model.with_suffix(".json"), "precision", precision)
        found = json.loads(host(str(model), "--self-test", str(model.with_suffix(".golden"))).stdout)
        assert found["methods"][0]["gates"] == {
            "min_snr_db": gates.min_snr_db,
            "min_psnr_db": gates.min_psnr_db if np.isfinite(gates.min_psnr_db) else None,
            "min_kept_overlap": gates.min_kept_overlap,
            "skips_near_ties": gates.skips_near_ties,
        }


def test_another_answer_than_that_of_the_vectors_fails(native: Built, model: Path) -> None:
    folder = model.with_suffix(".golden")
    vector = json.loads((folder / "golden.json").read_text())["vectors"][5]
    edit(folder / "golden.json", "vectors.5.logits", vector["logits"][::-1])
    done = native(str(model), "--self-test", str(folder))
    assert done.returncode == SELF_TEST_FAILED
    assert done.stderr.startswith(f"tofe_runner: {model}: does not compute here what it should: method forward_")
    assert "logits SNR" in done.stderr and done.stderr.count("\n") == 1
    found = json.loads(done.stdout)
    assert found["passed"] is False
    assert [one["passed"] for one in found["methods"]] == [True, False, True]
    verdicts = self_test_alone(native.binary, model, folder, native.emulator)
    assert [one.passed for one in verdicts] == [True, False, True]
    assert verdicts[1].failures[0].startswith("logits SNR ")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("schema", 3, "its schema is not 2"),
        ("artifact_sha256", "0" * 64, "it is of another model file"),
        ("vectors", [], "it lacks a method's inputs"),
        ("vectors.0.method", "none", "its method is none of the model's"),
        ("vectors.0.file", "../0.png", "its file is not named like 0.png"),
        ("vectors.0.file", "1.png", "one file has two checksums"),
        ("vectors.0.logits", [], "its logits are not one per class"),
        ("vectors.0.logits.0", 1e39, "logits must be a number in its range"),
        ("vectors.0.kept", [[1]], "kept has another number of stages"),
        ("vectors.0.kept.0.0", 16, "kept must be a whole number from 0 to 15"),
        ("vectors.0.kept", [[1] * 9, [1] * 5, [1] * 3], "kept is not as many different"),
    ],
)
def test_damaged_golden_vectors_are_a_bad_file(host: Built, model: Path, key: str, value: Any, said: str) -> None:
    folder = model.with_suffix(".golden")
    edit(folder / "golden.json", key, value)
    with pytest.raises(InputError, match="holds no golden vectors of this model") as caught:
        self_test_alone(host.binary, model, folder)
    assert f"golden.json: holds no golden vectors of this model ({said}" in str(caught.value)


def test_a_swapped_picture_and_a_missing_folder_are_bad_files(host: Built, model: Path) -> None:
    folder = model.with_suffix(".golden")
    shutil.copy(folder / "1.png", folder / "0.png")
    message = host.refused(BAD_FILE, str(model), "--self-test", str(folder))
    assert "0.png: its checksum is not that of golden.json" in message
    assert "golden.json: cannot be opened" in host.refused(BAD_FILE, str(model), "--self-test", str(folder / "none"))


@pytest.mark.parametrize(
    ("script", "said"), [("echo hello", "its verdict cannot be read"), ("exit 77", "exit code 77")]
)
def test_what_cannot_self_test_is_a_device_error(model: Path, tmp_path: Path, script: str, said: str) -> None:
    path = shell_script(tmp_path / "runner", script)
    with pytest.raises(DeviceError, match=said):
        self_test_alone(path, model, model.with_suffix(".golden"))
