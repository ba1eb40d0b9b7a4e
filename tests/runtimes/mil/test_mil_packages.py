"""Packages that are cut, forged or damaged: one line that says so, and nothing else."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import edit_json, fine_or_refused, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from mil_programs import coremltools, save_program, typed

from tofe_edge.runtimes.mil import MlPackage, load_program, open_package

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small package with weights of several types."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("sound") / "sound.mlpackage"

    def build(mb: Any, given: Any) -> list[Any]:
        x = mb.conv(x=given["x"], weight=rng.random((4, 3, 3, 3), np.float32), pad_type="custom", pad=[1, 1, 1, 1])
        weight = mb.constexpr_blockwise_shift_scale(
            data=typed(rng.integers(-8, 8, (4, 8)), "int4"), scale=rng.random((4, 1), np.float32)
        )
        x = mb.linear(x=mb.relu(x=x), weight=weight)
        x = mb.concat(values=[x, mb.cast(x=mb.cast(x=x, dtype="fp16"), dtype="fp32")], axis=1)
        return [mb.slice_by_index(x=x, begin=[0, 1, 0, 0], end=[1, 5, 8, 4]), mb.reduce_sum(x=x, axes=[1, 2])]

    save_program(path, {"x": np.zeros((1, 3, 8, 8), np.float32)}, build)
    return path


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(sound, tmp_path / "copy.mlpackage"))


def _use(path: Path) -> MlPackage:
    """Open, load and run."""
    package = open_package(path)
    program = load_program(package)
    program.run({"x": np.zeros((1, 3, 8, 8), np.float32)})
    return package


def _root(content: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = content["itemInfoEntries"][content["rootModelIdentifier"]]
    return entry


def _edit(path: Path, change: Callable[[Any], object]) -> None:
    coremltools()
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    model.ParseFromString((path / MODEL).read_bytes())
    change(model)
    (path / MODEL).write_bytes(model.SerializeToString())


def _operations(model: Any, kind: str) -> list[Any]:
    function = model.mlProgram.functions["main"]
    return [each for each in function.block_specializations[function.opset].operations if each.type == kind]


def _blobs(model: Any) -> list[Any]:
    values = [each.attributes["val"] for each in _operations(model, "const")]
    return [value.blobFileValue for value in values if value.WhichOneof("value") == "blobFileValue"]


def _set(place: Callable[[Any], Any], key: str, value: object) -> Callable[[Any], object]:
    """A change of the model: an attribute of what ``place`` finds in it."""
    return lambda model: setattr(place(model), key, value)


def _relu(model: Any) -> Any:
    return _operations(model, "relu")[0]


def _channels(model: Any) -> Any:
    return _relu(model).outputs[0].type.tensorType.dimensions[1].constant


def _blob(model: Any) -> Any:
    return _blobs(model)[0]


def test_a_sound_package_runs(sound: Path) -> None:
    assert _use(sound).specification_version == 9


def test_no_folder(tmp_path: Path) -> None:
    missing, file = tmp_path / "missing.mlpackage", tmp_path / "file.mlpackage"
    file.write_text("")
    assert "does not exist" in refused(missing, lambda: open_package(missing))
    assert "is not a folder" in refused(file, lambda: open_package(file))


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no entries": (lambda content: content.pop("itemInfoEntries"), "itemInfoEntries"),
    "entries of a wrong type": (lambda content: content.update(itemInfoEntries=[1]), "itemInfoEntries"),
    "an entry of a wrong type": (lambda content: content["itemInfoEntries"].update(a=1), "itemInfoEntries"),
    "no root": (lambda content: content.pop("rootModelIdentifier"), "UUID"),
    "a root of a wrong type": (lambda content: content.update(rootModelIdentifier=[]), "UUID"),
    "a root that is no UUID": (lambda content: content.update(rootModelIdentifier="model"), "UUID"),
    "a root that is not listed": (
        lambda content: content.update(rootModelIdentifier="00000000-0000-0000-0000-000000000000"),
        "lists no item",
    ),
    "no version": (lambda content: content.pop("fileFormatVersion"), "fileFormatVersion"),
    "a later version": (lambda content: content.update(fileFormatVersion="2.0.0"), "fileFormatVersion"),
    "an item without a path": (lambda content: _root(content).pop("path"), "without a path"),
    "a path of a wrong type": (lambda content: _root(content).update(path=3), "without a path"),
    "an absolute path": (lambda content: _root(content).update(path="/etc/passwd"), "leaves the package"),
    "a path upwards": (lambda content: _root(content).update(path="a/../../../x.mlmodel"), "leaves the package"),
    "a path to nothing": (lambda content: _root(content).update(path="com.apple.CoreML/other.mlmodel"), "is missing"),
    "a path to a folder": (lambda content: _root(content).update(path="com.apple.CoreML"), "not a .mlmodel"),
    "a path with a null": (lambda content: _root(content).update(path="a\0b"), "path"),
    "a path with a lone surrogate": (lambda content: _root(content).update(path="a\ud800b"), "path"),
    "a path that is too long": (lambda content: _root(content).update(path="a" * 5000), "path"),
}


@pytest.mark.parametrize("damage", MANIFESTS)
def test_manifest(copy: Path, damage: str) -> None:
    change, said = MANIFESTS[damage]
    edit_json(copy / "Manifest.json", change)
    assert said in refused(copy, lambda: open_package(copy))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100000, b"1" * 5000, b" " * (2 << 20)])
def test_manifest_that_is_no_table(copy: Path, content: bytes) -> None:
    (copy / "Manifest.json").write_bytes(content)
    assert "Manifest.json" in refused(copy, lambda: open_package(copy))


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS])
def test_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert "is missing" in refused(copy, lambda: open_package(copy))


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS])
def test_link_out_of_the_package(copy: Path, name: str, tmp_path: Path) -> None:
    outside = tmp_path / Path(name).name
    (copy / name).rename(outside)
    (copy / name).symlink_to(outside)
    assert "leaves the package" in refused(copy, lambda: open_package(copy))


def test_circle_of_links(copy: Path) -> None:
    (copy / MODEL).unlink()
    (copy / MODEL).symlink_to(copy / MODEL)
    refused(copy, lambda: open_package(copy))


@pytest.mark.parametrize("content", [b"\xff" * 100, b"<html>", b"\x0a\xff\xff\xff\xff\x0f"])
def test_model_that_is_no_protobuf(copy: Path, content: bytes) -> None:
    (copy / MODEL).write_bytes(content)
    assert "cut or not a Core ML model" in refused(copy, lambda: open_package(copy))


def test_model_of_another_kind(copy: Path) -> None:
    _edit(copy, lambda model: model.neuralNetwork.SetInParent())
    assert "holds neuralNetwork, not an ML Program" in refused(copy, lambda: open_package(copy))
    (copy / MODEL).write_bytes(b"")
    assert "holds no model" in refused(copy, lambda: open_package(copy))


PROGRAMS: dict[str, tuple[Callable[[Any], object], str]] = {
    "no function": (lambda model: model.mlProgram.functions.clear(), "no functions"),
    "no block": (lambda model: model.mlProgram.functions["main"].block_specializations.clear(), "no block"),
    "an output too many": (lambda model: model.description.output.add(name="other"), "differ"),
    "another input": (_set(lambda model: model.description.input[0], "name", "y"), "differ"),
    "a function that is not described": (lambda model: model.mlProgram.functions["other"].SetInParent(), "describes"),
    "another default": (_set(lambda model: model.description, "defaultFunctionName", "a\nb"), "default function"),
    "a sequence": (lambda model: model.description.input[0].type.sequenceType.SetInParent(), "sequenceType"),
    "a weight file elsewhere": (_set(_blob, "fileName", "/etc/passwd"), "model's folder"),
    "a weight file above": (_set(_blob, "fileName", "@model_path/../../x"), "model's folder"),
    "a weight file with a null": (_set(_blob, "fileName", "@model_path/a\0"), "path"),
    "a weight folder": (_set(_blob, "fileName", "@model_path/weights"), "is not a file"),
    "weights behind the end": (_set(_blob, "offset", (1 << 64) - 1), "behind the end"),
    "weights at a wrong place": (_set(_blob, "offset", 65), "is not a tensor"),
    "a huge result": (_set(_channels, "size", 1 << 40), "too large"),
}
"""Found by opening the package; what contradicts itself is found by loading or running the program."""


LIES: dict[str, tuple[Callable[[Any], object], str]] = {
    "an unknown operator": (_set(_relu, "type", "lstm"), "'lstm' (value 'relu"),
    "a wrong shape": (
        _set(_channels, "size", 5),
        "relu 'relu_0': 'relu_0' has the shape [1, 4, 8, 8], but the program declares [1, 5, 8, 8]",
    ),
    "an unknown value": (
        _set(lambda model: _relu(model).inputs["x"].arguments[0], "name", "nothing"),
        "before it is computed",
    ),
    "a value twice": (_set(lambda model: _relu(model).outputs[0], "name", "x"), "taken"),
    "an unknown parameter": (lambda model: _relu(model).inputs["z"].SetInParent(), "parameter 'z'"),
    "a parameter missing": (lambda model: _relu(model).inputs.clear(), "lacks its parameter 'x'"),
    "a constant without value": (lambda model: _operations(model, "const")[0].attributes.clear(), "no value"),
    "an operator that makes no sense": (_set(_relu, "type", "pixel_shuffle"), "lacks"),
}


@pytest.mark.parametrize("damage", [*PROGRAMS, *LIES])
def test_program_that_is_damaged_or_contradicts_itself(copy: Path, damage: str) -> None:
    change, said = (PROGRAMS | LIES)[damage]
    _edit(copy, change)
    assert said in refused(copy, lambda: _use(copy) if damage in LIES else open_package(copy))


@pytest.mark.parametrize(
    ("place", "said"), [(64, "is not a tensor"), (68, "elements of type"), (72, "bytes"), (80, "cut")]
)
def test_weight_header(copy: Path, place: int, said: str) -> None:
    content = bytearray((copy / WEIGHTS).read_bytes())
    content[place + (6 if place == 80 else 0)] ^= 0x55
    (copy / WEIGHTS).write_bytes(content)
    assert said in refused(copy, lambda: open_package(copy))


@settings(max_examples=120, derandomize=True)
@given(data=st.data(), name=st.sampled_from(["Manifest.json", MODEL, WEIGHTS]))
def test_damaged_bytes_are_refused_or_harmless(sound: Path, data: st.DataObject, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copytree(sound, Path(folder) / "damaged.mlpackage"))
        content = bytearray((path / name).read_bytes())
        # The numbers in a weight file may be anything: headers are what can be wrong.
        end = len(content) if name != WEIGHTS else 128
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        else:
            for place in data.draw(st.lists(st.integers(0, end - 1), min_size=1, max_size=3)):
                content[place] = data.draw(st.integers(0, 255))
        (path / name).write_bytes(content)
        fine_or_refused(lambda: _use(path), path)
