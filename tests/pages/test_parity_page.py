"""The page of a comparison: complete, self-contained, and no name in it is markup."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import manifest_for
from test_analysis import IMAGES, NAMES, sides

from tofe_edge.cli.pages.parity import render, write_page
from tofe_edge.errors import InputError
from tofe_edge.evaluation.analysis import analyse
from tofe_edge.evaluation.parity import INT8_GATES, compare
from tofe_edge.io.artifact import Manifest
from tofe_edge.model.checkpoint import Checkpoint

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=y>"
JPEG = b"\xff\xd8\xff\xe0 a picture \xff\xd9"


class Tags(HTMLParser):
    """Every start tag with its attributes, the text, and tags left open."""

    void = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def manifest(tiny_checkpoint: Checkpoint) -> Manifest:
    plain = manifest_for(tiny_checkpoint, "tiny.pte", b"")
    layers = {"blocks.0.fc1": {"own_snr_db": 31.5, "reached_snr_db": 28.25}}
    return replace(plain, quantization={"layers": layers})


def parsed(manifest: Manifest, names: list[str], source: str = "val", picture: bytes | None = JPEG) -> Tags:
    reference, artifact, labels = sides()
    parity = compare(reference, artifact, labels, INT8_GATES)
    html = render(manifest, parity, analyse(reference, artifact, labels, names), source, lambda name: picture)
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    return tags


def test_the_page_has_gates_statistics_layers_and_pictures(manifest: Manifest) -> None:
    tags = parsed(manifest, NAMES)
    for text in (
        "Gates",
        "logits SNR",
        "McNemar",
        "margin at the cut, stage 3",
        "31.5 dB",
        "28.2 dB",
        f"{IMAGES} images of val",
    ):
        assert text in tags.text
    pictures = [attributes["src"] for tag, attributes in tags.seen if tag == "img"]
    assert len(pictures) == 10
    assert all(source is not None and source.startswith("data:image/jpeg;base64,") for source in pictures)


def test_nothing_is_loaded_from_elsewhere(manifest: Manifest) -> None:
    tags = parsed(manifest, NAMES)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in tags.seen}
    addresses = [value for _, attributes in tags.seen for key, value in attributes.items() if key in ("src", "href")]
    assert all(value is not None and value.startswith("data:") for value in addresses)


def test_no_name_can_be_markup(manifest: Manifest) -> None:
    hostile = replace(
        manifest,
        artifact=HOSTILE,
        checkpoint=HOSTILE,
        class_names=[HOSTILE] * len(manifest.class_names),
        quantization={"layers": {HOSTILE: {"own_snr_db": 1.0, "reached_snr_db": 1.0}}},
    )
    plain, found = parsed(manifest, NAMES), parsed(hostile, [HOSTILE] * IMAGES, source=HOSTILE)
    assert [tag for tag, _ in found.seen] == [tag for tag, _ in plain.seen]
    assert not any(key.startswith("on") for _, attributes in found.seen for key in attributes)
    assert HOSTILE in found.text


def test_images_without_a_file_have_no_picture(manifest: Manifest) -> None:
    assert not [tag for tag, _ in parsed(manifest, NAMES, picture=None).seen if tag == "img"]


def test_a_page_that_cannot_be_written_is_an_input_error(manifest: Manifest, tmp_path: Path) -> None:
    reference, artifact, labels = sides()
    parity = compare(reference, artifact, labels, INT8_GATES)
    with pytest.raises(InputError, match="cannot be written"):
        write_page(tmp_path, manifest, parity, None, "val", lambda name: None)
