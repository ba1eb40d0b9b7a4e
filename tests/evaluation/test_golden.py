"""Golden vectors: made, stored, read back whole or refused, replayed; what is not the artifact fails."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import JSON_VALUES, edit_json, fine_or_refused, refused
from golden_files import COUNTS, pretend, pretended_artifact, spoilt_weight
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tofe_edge.errors import GateError, InputError
from tofe_edge.evaluation.golden import DOCUMENT, IMAGES, GoldenSet, golden_path_of, make_golden, read_golden, replay
from tofe_edge.evaluation.prediction import Prediction, top_classes
from tofe_edge.io.artifact import Artifact, open_artifact, write_manifest
from tofe_edge.io.files import write_content
from tofe_edge.io.images import read_image
from tofe_edge.io.inputs import load_photographs
from tofe_edge.io.preprocessing import normalize, resize_and_crop
from tofe_edge.io.targets import FP32_GATES, INT8_GATES
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.runtimes.loading import open_model
from tofe_edge.runtimes.trial import trust


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Artifact:
    return pretended_artifact(tiny_checkpoint, tmp_path_factory.mktemp("golden") / "model.pte")


@pytest.fixture(scope="module")
def golden(artifact: Artifact, tiny_checkpoint: Checkpoint) -> GoldenSet:
    return make_golden(artifact, pretend, tiny_checkpoint)


@pytest.fixture
def folder(artifact: Artifact, golden: GoldenSet, tmp_path: Path) -> Path:
    write_content(tmp_path / "model.golden", golden.content())
    return tmp_path / "model.golden"


@pytest.fixture(scope="module")
def stored(artifact: Artifact, golden: GoldenSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another copy of the folder, for tests that damage it and put it right again."""
    path = tmp_path_factory.mktemp("stored") / "model.golden"
    write_content(path, golden.content())
    return path


def test_the_folder_stands_beside_the_model() -> None:
    assert golden_path_of(Path("out/net-0.5.pte")) == Path("out/net-0.5.golden")
    assert golden_path_of(Path("net.mlpackage")) == Path("net.golden")


def test_every_method_has_every_input(artifact: Artifact, golden: GoldenSet, tiny_checkpoint: Checkpoint) -> None:
    files = [f"{number}.png" for number in range(IMAGES)]
    pairs = [(vector.method, vector.file) for vector in golden.vectors]
    assert pairs == [(method, file) for method in COUNTS for file in files]
    assert make_golden(artifact, pretend, tiny_checkpoint).content() == golden.content()
    assert sorted(golden.content()) == [*files, DOCUMENT]


def test_the_inputs_need_no_preparation_but_the_arithmetic(artifact: Artifact, golden: GoldenSet, folder: Path) -> None:
    spec = artifact.manifest.preprocessing
    crops = {view.tobytes() for view in load_photographs(spec, 2).pixels}
    for vector in golden.of("forward"):
        picture = read_image(folder / vector.file)
        with Image.open(folder / vector.file) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (spec.image_size, spec.image_size))
        assert resize_and_crop(picture, replace(spec, resize="none")) == picture
        # Back from normalised floats to whole pixels and forth again, to the bit.
        assert normalize(np.asarray(picture), spec).tobytes() in crops


def test_reading_gives_back_what_was_written(artifact: Artifact, golden: GoldenSet, folder: Path) -> None:
    found = read_golden(folder, artifact)
    assert (found.artifact_sha256, found.gates) == (artifact.manifest.sha256, INT8_GATES)
    assert found.preprocessing == golden.preprocessing
    for one, other in zip(found.vectors, golden.vectors, strict=True):
        assert (one.method, one.file, one.png, one.top5) == (other.method, other.file, other.png, other.top5)
        assert one.expected.logits.tobytes() == other.expected.logits.tobytes()
        assert all(map(np.array_equal, one.expected.kept, other.expected.kept))
        assert one.top5 == tuple(top_classes(one.expected.logits, artifact.manifest.class_names))
    assert found.content() == golden.content()


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_nine_digits_are_every_float32_whether_read_as_float_or_as_double(value: float) -> None:
    text = json.dumps(float(f"{np.float32(value):.9g}"))
    assert np.float32(text) == np.float32(json.loads(text)) == np.float32(value)


def test_replay_of_the_same_is_the_same(folder: Path, artifact: Artifact) -> None:
    for method in COUNTS:
        parity = replay(read_golden(folder, artifact), pretend(method), method)
        assert parity.passed and parity.images == IMAGES and parity.snr_db == np.inf
        assert parity.kept_overlap == (1.0, 1.0, 1.0)


def test_replay_fails_for_another_method_for_other_values_and_for_none(golden: GoldenSet) -> None:
    def nan(pixels: npt.NDArray[np.float32]) -> Prediction:
        return replace(pretend("forward")(pixels), output=np.full(10, np.nan, np.float32))

    for predictor in (pretend("forward", gain=2.0), nan):
        assert "logits SNR" in replay(golden, predictor).failures[0]
    assert not replay(golden, lambda pixels: pretend("forward")(pixels[:, ::-1])).passed
    with pytest.raises(InputError, match="differ in their number of classes"):
        replay(golden, lambda pixels: replace(pretend("forward")(pixels), output=np.zeros(9, np.float32)))
    with pytest.raises(InputError, match="no golden vectors of the method 'none'"):
        replay(golden, pretend("forward"), "none")


def test_a_model_without_finite_logits_gets_none(artifact: Artifact, tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(GateError, match=r"model\.pte, method forward: not written, its logits are not finite"):
        make_golden(artifact, lambda method: pretend(method, gain=float("inf")), tiny_checkpoint)


def test_an_input_with_a_near_tie_is_marked_and_does_not_gate(golden: GoldenSet, artifact: Artifact) -> None:
    first, *others = golden.of("forward")
    tied = replace(first, expected=replace(first.expected, margins=(0.0,)))
    marked = replace(golden, gates=FP32_GATES, vectors=(tied, *others))
    assert [vector.to_json()["near_tie"] for vector in marked.vectors] == [True, False, False, False]

    def other_token(pixels: npt.NDArray[np.float32]) -> Prediction:
        found = pretend("forward")(pixels)
        if not np.array_equal(normalize(first.pixels, golden.preprocessing)[None], pixels):
            return found
        return replace(found, kept=tuple((positions + 1) % 16 for positions in found.kept))

    parity = replay(marked, other_token)
    assert parity.passed and parity.near_ties == 1
    assert not replay(replace(golden, gates=FP32_GATES), other_token).passed


def of_vector(**values: Any) -> Callable[[Any], object]:
    """Change the third vector."""
    return lambda document: document["vectors"][2].update(values)


DAMAGED: list[tuple[Callable[[Any], object], str]] = [
    (lambda d: d.update(schema=3), "its schema 3 is not 2"),
    (lambda d: d.update(schema=True), "its schema True is not 2"),
    (lambda d: d.update(more=1), "its key 'more' is unknown"),
    (lambda d: d.update(artifact_sha256="0" * 64), "it is of another model file than model.pte"),
    (lambda d: d["vectors"].clear(), "its key 'vectors' "),
    (lambda d: d["vectors"].pop(), "it lacks or repeats a method's input"),
    (lambda d: d["vectors"].append(d["vectors"][0]), "it lacks or repeats a method's input"),
    (lambda d: d["vectors"][0].update(sha256="0" * 64), "one file different checksums"),
    (of_vector(more=1), "key 'vectors[2].more' is unknown"),
    (of_vector(method="none"), "vector 2: its method is not one of the model's"),
    (of_vector(method=[]), "key 'vectors[2].method' has the wrong type"),
    (of_vector(file="../0.png"), "key 'vectors[2].file' must match"),
    (of_vector(file="0.png\n"), "key 'vectors[2].file' must match"),
    (of_vector(logits=[0.0] * 9), "vector 2: its logits are not 10 numbers"),
    (of_vector(logits=["0"] * 10), "key 'vectors[2].logits[0]' has the wrong type"),
    (of_vector(logits=[True] * 10), "key 'vectors[2].logits[0]' has the wrong type"),
    (of_vector(logits=[float("nan")] * 10), "key 'vectors[2].logits[0]' must be a finite number"),
    (of_vector(logits=[float("-inf")] * 10), "key 'vectors[2].logits[0]' must be a finite number"),
    (of_vector(logits=[10**39] * 10), "key 'vectors[2].logits[0]' must be at most"),
    (of_vector(logits=[10**400] * 10), "holds a number that is out of range"),
    (of_vector(logits=[*range(10)]), "vector 2: top5 is not what its logits say"),
    (of_vector(top5=[]), "vector 2: top5 must list 5 classes"),
    (of_vector(top5=[{}] * 5), "key 'vectors[2].top5[0].index' is missing"),
    (of_vector(top5=[{"index": -1, "name": "", "probability": 0}] * 5), "top5 is not what its logits say"),
    (lambda d: d["vectors"][0]["top5"][1].update(name="another"), "top5 is not what its logits say"),
    (lambda d: d["vectors"][0]["top5"][1].update(probability=0.9), "top5 is not what its logits say"),
    (of_vector(kept=[]), "vector 2: kept has not 3 stages"),
    (of_vector(kept=[[0], [1], [2]]), "kept of stage 1 is not 9 different positions under 16"),
    (of_vector(kept=[[*range(9)], [*range(5)], [1, 1, 2]]), "kept of stage 3 is not 3 different positions"),
    (of_vector(kept=[[*range(9)], [*range(5)], [1, 2, 16]]), "kept of stage 3 is not 3 different"),
    (of_vector(kept=[[*range(9)], [*range(5)], [1, 2, -1]]), "kept of stage 3 is not 3 different"),
    (of_vector(near_tie=0), "key 'vectors[2].near_tie' has the wrong type"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGED)
def test_documents_are_checked(folder: Path, artifact: Artifact, change: Callable[[Any], object], message: str) -> None:
    edit_json(folder / DOCUMENT, change)
    line = refused(folder / DOCUMENT, lambda: read_golden(folder, artifact))
    assert message in line and line.endswith("; copy the model's own folder or convert it again")


def test_swapped_missing_or_resized_pictures_are_refused(folder: Path, artifact: Artifact, golden: GoldenSet) -> None:
    first, second = (folder / f"{number}.png" for number in (0, 1))
    first.write_bytes(golden.vectors[1].png)
    second.write_bytes(golden.vectors[0].png)
    assert "it is damaged or swapped" in refused(first, lambda: read_golden(folder, artifact))
    first.unlink()
    assert "is missing or no file" in refused(first, lambda: read_golden(folder, artifact))
    first.mkdir()
    assert "is missing or no file" in refused(first, lambda: read_golden(folder, artifact))
    first.rmdir()
    Image.new("RGB", (32, 64)).save(first)
    checksum = hashlib.sha256(first.read_bytes()).hexdigest()
    edit_json(
        folder / DOCUMENT,
        lambda document: [v.update(sha256=checksum) for v in document["vectors"] if v["file"] == "0.png"],
    )
    second.write_bytes(golden.vectors[1].png)
    assert "is not 64 x 64 pixels" in refused(first, lambda: read_golden(folder, artifact))
    shutil.rmtree(folder)
    assert "copy the folder along" in refused(folder, lambda: read_golden(folder, artifact))


@given(st.data())
def test_damaged_files_are_fine_or_refused(stored: Path, artifact: Artifact, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([DOCUMENT, DOCUMENT, "0.png"]))
    path = stored / name
    content = path.read_bytes()
    damaged = bytearray(content)
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 3))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    else:
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
    path.write_bytes(damaged)
    try:
        if name == DOCUMENT:
            # A digit of an expected value may change unseen here, its name or a bracket may not.
            fine_or_refused(
                lambda: read_golden(stored, artifact), stored, path, *(stored / f"{n}.png" for n in range(4))
            )
        elif bytes(damaged) != content:
            refused(path, lambda: read_golden(stored, artifact))
    finally:
        path.write_bytes(content)


@given(st.sampled_from(["method", "file", "sha256", "logits", "top5", "kept", "near_tie", "vectors"]), JSON_VALUES)
def test_any_value_of_a_key_is_fine_or_refused(stored: Path, artifact: Artifact, key: str, value: Any) -> None:
    path = stored / DOCUMENT
    content = path.read_bytes()
    document = json.loads(content)
    (document if key == "vectors" else document["vectors"][0])[key] = value
    path.write_text(json.dumps(document))
    try:
        fine_or_refused(lambda: read_golden(stored, artifact), path, stored / "0.png")
    finally:
        path.write_bytes(content)


def copy_of(artifact: Artifact, folder: Path, content: bytes) -> Artifact:
    """An artifact of other bytes whose manifest vouches for them."""
    path = folder / artifact.path.name
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    write_manifest(path, replace(artifact.manifest, sha256=sha256, size_bytes=len(content)))
    return open_artifact(path)


def test_a_real_program_replays_to_the_bit_and_swapped_pictures_or_a_wrong_weight_fail(
    elastic_artifact: Artifact, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    golden = make_golden(elastic_artifact, lambda name: open_model(elastic_artifact, 1, name), tiny_checkpoint)
    for name in elastic_artifact.manifest.methods:
        assert replay(golden, open_model(elastic_artifact, 1, name), name).snr_db == np.inf
    first, second, *others = golden.of("forward")  # two pictures swapped, with their checksums
    swapped = (replace(first, pixels=second.pixels), replace(second, pixels=first.pixels), *others)
    assert not replay(replace(golden, vectors=swapped), open_model(elastic_artifact, 1)).passed

    write_content(tmp_path / "golden", golden.content())
    faulty = copy_of(elastic_artifact, tmp_path, spoilt_weight(elastic_artifact.path.read_bytes()))
    assert "it is of another model file" in refused(
        tmp_path / "golden" / DOCUMENT, lambda: read_golden(tmp_path / "golden", faulty)
    )
    # Were the folder made to vouch for it as well, the numbers would still tell.
    edit_json(tmp_path / "golden" / DOCUMENT, lambda document: document.update(artifact_sha256=faulty.manifest.sha256))
    vouched = read_golden(tmp_path / "golden", faulty)
    trust(faulty.manifest.sha256)  # a trial would take seconds
    for name in faulty.manifest.methods:
        assert not replay(vouched, open_model(faulty, 1, name), name).passed
