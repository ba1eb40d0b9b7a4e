"""Core ML delegates inside of ExecuTorch programs: the files in them, and programs that are damaged or hostile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyModel, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.artifact import Artifact, open_artifact
from tofe_edge.io.files import write_content
from tofe_edge.io.quiet import quiet
from tofe_edge.runtimes import coreml, coreml_delegate
from tofe_edge.runtimes.coreml_blob import read_blob

FILES = {"x.txt": b"hello", "a/y": b"abc", "a/b/z": b"\0}{", 'a/q"é': b"1"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
NUMBERS = st.integers(-2, 8) | st.integers() | JSON
NODES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "b", "..", "/etc"]) | JSON,
        "kind": st.sampled_from([0, 1]) | JSON,
        "dataRegion": st.fixed_dictionaries({"offset": NUMBERS, "size": NUMBERS}) | JSON,
        "children": st.dictionaries(st.sampled_from(["a", "b", "..", "\ud800"]), NUMBERS, max_size=3) | JSON,
    },
)


def blob_of(nodes: object, content: bytes = b"") -> bytes:
    return content + json.dumps({"nodes": nodes}).encode()[::-1]


def file(name: object, offset: object = 0, size: object = 1) -> dict[str, Any]:
    return {"name": name, "kind": 0, "dataRegion": {"offset": offset, "size": size}, "children": {}}


def folder(name: str, children: Mapping[Any, Any]) -> dict[str, Any]:
    return {"name": name, "kind": 1, "dataRegion": {"offset": 0, "size": 0}, "children": dict(children)}


def chain(length: int) -> list[dict[str, Any]]:
    """A file in so many folders inside each other."""
    return [file("f"), *(folder("f", {"f": number}) for number in range(length))]


def fine_or_one_line(action: Callable[[], Any]) -> Any:
    """What ``action`` gives; ``None`` where it raises one of the errors that it may raise."""
    try:
        return action()
    except (InputError, DeviceError) as error:
        message = str(error)
    assert "\n" not in message
    return None


def test_files_are_read_as_executorch_writes_them(tmp_path: Path) -> None:
    with quiet():
        from executorch.backends.apple.coreml import executorchcoreml
    write_content(tmp_path / "folder", FILES)
    (tmp_path / "folder" / "empty").mkdir()
    blob = executorchcoreml.flatten_directory_contents(str(tmp_path / "folder"))
    assert read_blob(bytes(blob)) == FILES


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/etc/passwd", "a/b", "a\\b", "a\0", "\ud800", "a" * 256])
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="is no file name") as caught:
        read_blob(blob_of([file(name), folder("top", {name: 0})], b"1"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "no list of 1 to 1024 nodes"),
        ([folder("top", {})] * 1025, "no list of 1 to 1024 nodes"),
        ([file("a")], "has no list of files"),
        ([file("../a"), folder("top", {"a": 0})], "'a' has another name"),
        ([file("a"), folder("top", {"a": 2})], "'a' is not in its table"),
        ([file("a"), folder("top", {"a": -1})], "'a' is not in its table"),
        ([file("a"), folder("top", {"a": True})], "'a' is not in its table"),
        ([file("a", 1, 3), folder("top", {"a": 0})], "'a' lies outside"),
        ([file("a", -1, 1), folder("top", {"a": 0})], "'a' lies outside"),
        ([file("a", 0, 1.0), folder("top", {"a": 0})], "'a' lies outside"),
        ([file("a", 0, 3), file("b", 0, 2), folder("top", {"a": 0, "b": 1})], "its files overlap"),
        ([folder("b", {"a": 1}), folder("a", {"b": 0}), folder("top", {"a": 1})], "is listed twice"),
        ([folder("top", {"top": 0})], "'top' is listed twice"),
        (chain(18), "nested more than 16 deep"),
        ([{"name": "a"}, folder("top", {"a": 0})], "neither a file nor a folder"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(nodes: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_blob(blob_of(nodes, b"123"))


def test_folders_may_be_as_deep_as_packages_need() -> None:
    assert list(read_blob(blob_of(chain(10), b"1"))) == ["/".join(["f"] * 10)]


@pytest.mark.parametrize("blob", [b"", b"}", b"garbage", blob_of([folder("top", {})])[1:], b"[" * 100_000])
def test_what_ends_in_no_table_is_refused(blob: bytes) -> None:
    with pytest.raises(InputError, match="does not end in a table of files"):
        read_blob(blob)


@given(st.lists(NODES, max_size=4) | JSON, st.binary(max_size=8))
def test_any_table_is_read_or_refused_in_one_line(nodes: object, content: bytes) -> None:
    files = fine_or_one_line(lambda: read_blob(blob_of(nodes, content))) or {}
    assert sum(map(len, files.values())) <= len(content)
    assert not any({"", ".", ".."} & set(name.split("/")) for name in files)


@given(st.binary())
def test_any_bytes_are_read_or_refused_in_one_line(blob: bytes) -> None:
    fine_or_one_line(lambda: read_blob(blob))


@pytest.fixture(scope="module")
def delegated(tmp_path_factory: pytest.TempPathFactory, tiny_model: TinyModel) -> Artifact:
    made = tiny_model("--backend", "coreml")
    return open_artifact(shutil.copytree(made.parent, tmp_path_factory.mktemp("delegated") / "copied") / made.name)


def load_bytes(delegated: Artifact, content: bytes) -> Callable[[], object]:
    """Load a program of these bytes with the manifest of another one, its checksum not looked at."""
    path = delegated.path.with_name("spoilt.pte")
    path.write_bytes(content)
    return lambda: coreml.load(Artifact(path, delegated.manifest), executor=True)


@pytest.mark.parametrize("kept", [0, 1, 7, 40, 1000, 0.5, -1])
def test_a_cut_program_is_refused(delegated: Artifact, kept: float) -> None:
    content = delegated.path.read_bytes()
    part = content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)]
    line = refused(delegated.path.with_name("spoilt.pte"), load_bytes(delegated, part))
    assert "again" in line


@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_program_is_loaded_or_refused_in_one_line(delegated: Artifact, data: st.DataObject) -> None:
    content = bytearray(delegated.path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, 4000) | st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[place % len(content)] ^= data.draw(st.integers(1, 255))
    fine_or_one_line(load_bytes(delegated, bytes(content)))


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (blob_of([file("../evil"), folder("top", {"../evil": 0})], b"1"), "'../evil' is no file name"),
        (blob_of([file("a"), folder("top", {"a": 0})], b"1"), "have no package in them"),
    ],
)
def test_hostile_data_write_nothing(
    delegated: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blob: bytes, message: str
) -> None:
    monkeypatch.setattr(coreml_delegate, "_take_out", lambda artifact: (blob, [0]))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    line = refused(delegated.path, lambda: coreml.load(delegated, executor=True))
    assert message in line
    assert not list(tmp_path.iterdir())
