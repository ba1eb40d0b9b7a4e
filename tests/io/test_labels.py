"""Class names come from files, folders and configs, in the order of the logits."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import refused

from tofe_edge.io.labels import Classes, classes_in, default_classes, folder_names, name_classes, read_labels

PETS = ("cat", "dog", "guinea pig")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", "cat\ndog\nguinea pig\n"),
        ("names", "\ufeffcat\r\n dog\r\nguinea pig"),
        ("names.json", ["cat", "dog", "guinea pig"]),
        ("names.json", {"0": "cat", "1": "dog", "2": "guinea pig"}),
        ("names.json", {"dog": 1, "cat": 0, "guinea pig": 2}),
        ("config.json", {"id2label": {"2": "guinea pig", "0": "cat", "1": "dog"}, "label2id": {}}),
        ("config.json", {"architecture": "vit", "label_names": ["cat", "dog", "guinea pig"]}),
        ("config.json", {"pretrained_cfg": {"label_names": ["cat", "dog", "guinea pig"]}}),
    ],
)
def test_a_file_of_names(tmp_path: Path, name: str, content: Any) -> None:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    assert read_labels(path) == Classes(PETS, PETS)


def test_ids_and_names_in_pairs(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"0": ["n01", "tench"], "1": ["n02", "goldfish"]}))
    assert read_labels(path) == Classes(("n01", "n02"), ("tench", "goldfish"))


def test_timms_names_have_descriptions() -> None:
    config = {"label_names": ["n01", "n02"], "label_descriptions": {"n01": "tench, Tinca", "n02": "goldfish"}}
    assert classes_in(config) == Classes(("n01", "n02"), ("tench", "goldfish"))


def test_a_folder_gives_its_folders_in_the_order_of_image_folder(tmp_path: Path) -> None:
    for name in ("2", "10", "1", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "0.txt").touch()
    assert folder_names(tmp_path) == ["1", "10", "2"]
    assert read_labels(tmp_path).ids == ("1", "10", "2")


def test_two_classes_of_one_name_have_ids_of_their_own() -> None:
    assert name_classes(["crane", "heron", "crane"]) == Classes(
        ("crane (0)", "heron", "crane (2)"), ("crane", "heron", "crane")
    )


def test_names_that_nobody_gave_are_none() -> None:
    assert classes_in({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}) is None
    assert classes_in({"model_type": "vit"}) is None
    assert default_classes(2) == Classes(("0", "1"), ("class 0", "class 1"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("names.txt", "cat\n\ndog", "class 1 is ''"),
        ("names.txt", "", "class 0 is ''|names no class"),
        ("names.txt", "x" * 300, "class 0 is"),
        ("names.json", "{", "is not JSON"),
        ("names.json", "3", "is not a list of names"),
        ("names.json", "[]", "names no class"),
        ("names.json", "[1, 2]", "class 0 is 1"),
        ("names.json", '{"0": "cat", "2": "dog"}', "1 is missing"),
        ("names.json", '{"cat": 1, "dog": 2}', "0 is missing"),
        ("names.json", "[" * 100_000, "is not JSON"),
    ],
)
def test_what_names_no_classes_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert re.search(message, refused(path, lambda: read_labels(path)))


def test_missing_binary_and_empty_sources_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "no", lambda: read_labels(tmp_path / "no"))
    assert "has no sub-folders" in refused(tmp_path, lambda: read_labels(tmp_path))
    (tmp_path / "weights.txt").write_bytes(b"\xff\xfe\x00\x80")
    assert "cannot be read as text" in refused(tmp_path / "weights.txt", lambda: read_labels(tmp_path / "weights.txt"))
