"""A valid checkpoint may begin with a pickle's bytes."""

from __future__ import annotations

from pathlib import Path

from conftest import TINY_COUNTS, TinyToFe

from tofe_edge.model.checkpoint import default_classes, describe, read_header, save


def test_a_header_length_that_looks_like_a_pickle_is_still_read(tmp_path: Path, tiny_tofe: TinyToFe) -> None:
    # safetensors files begin with the length of their header; 0x80 is also how a pickle begins.
    model = tiny_tofe()
    spec, preprocessing = model.backbone.spec, model.backbone.preprocessing
    lengths = set()
    for padding in range(0, 256, 8):
        header = describe("x" * (1 + padding), spec, preprocessing, default_classes(10), TINY_COUNTS)
        path = tmp_path / "net.safetensors"
        save(path, model, header)
        lengths.add(path.read_bytes()[0])
        assert read_header(path).name == header.name
    assert 0x80 in lengths
