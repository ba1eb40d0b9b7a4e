"""Token maps: what is dark, what is framed, and what is refused."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_contents import KEPT, golden_of, plain_manifest
from PIL import Image

from tofe_edge.cli.pages.heat import as_hex, heat_colours
from tofe_edge.cli.pages.token_map import TokenMap, heat_legend, kept_tokens, map_of, token_maps
from tofe_edge.errors import InputError
from tofe_edge.model.checkpoint import Checkpoint

PIXELS = np.zeros((32, 32, 3), np.uint8)

_RUN = re.compile(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z")
_FRAME = re.compile(r"M([\d.]+) ([\d.]+)h.8v.8h-.8z")


def stages_of(found: TokenMap) -> list[ElementTree.Element]:
    """The drawings, the input first and the usage last."""
    return list(ElementTree.fromstring(token_maps(found)).iter("svg"))


def dark(drawing: ElementTree.Element, side: int) -> list[int]:
    """Positions under the veil, each as often as it is covered."""
    return covered(next((one.attrib["d"] for one in drawing.iter("path") if one.attrib["class"] == "frozen"), ""), side)


def covered(path: str, side: int) -> list[int]:
    """Positions in the runs of a path."""
    assert _RUN.sub("", path) == ""
    runs = [tuple(map(int, found)) for found in _RUN.findall(path)]
    assert all(length == back for *_, length, back in runs)
    return [row * side + column + step for column, row, length, _ in runs for step in range(length)]


cases = st.integers(1, 15).flatmap(
    lambda side: st.tuples(st.just(side), st.lists(st.sets(st.integers(0, side**2 - 1)), min_size=1, max_size=3))
)


@given(cases)
def test_exactly_the_frozen_patches_are_dark_once(case: tuple[int, list[set[int]]]) -> None:
    side, kept = case
    whole, *stages, _ = stages_of(TokenMap(PIXELS, side**2, tuple(map(tuple, kept))))
    assert dark(whole, side) == [] and len(stages) == len(kept)
    for drawing, positions in zip(stages, kept):
        assert dark(drawing, side) == sorted(set(range(side**2)) - positions)


@given(cases)
def test_every_patch_has_the_colour_of_its_usage(case: tuple[int, list[set[int]]]) -> None:
    side, kept = case
    *_, heat = stages_of(TokenMap(PIXELS, side**2, tuple(map(tuple, kept))))
    level = {as_hex(colour): number for number, colour in enumerate(heat_colours(len(kept) + 1), start=1)}
    shown = {
        patch: level[path.attrib["fill"]] for path in heat.iter("path") for patch in covered(path.attrib["d"], side)
    }
    assert shown == {patch: 1 + sum(patch in stage for stage in kept) for patch in range(side**2)}
    assert sum(len(covered(path.attrib["d"], side)) for path in heat.iter("path")) == side**2


def test_a_map_without_stages_is_the_input_alone() -> None:
    assert len(stages_of(TokenMap(PIXELS, 4, ()))) == 1


@pytest.mark.parametrize("stages", [1, 2, 4, 7])
def test_colours_of_the_heat_map_grow_lighter(stages: int) -> None:
    colours = heat_colours(stages)
    light = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in colours]
    assert len(colours) == stages and light == sorted(set(light))
    assert [as_hex(colours[0]), as_hex(colours[-1])][: min(stages, 2)] == ["#440154", "#fde725"][: min(stages, 2)]
    assert all(f"{number} of {stages}" in heat_legend(stages) for number in range(1, stages + 1))


def test_patches_that_come_back_are_framed() -> None:
    found = TokenMap(PIXELS, 16, KEPT)
    assert [found.reused(stage) for stage in range(3)] == [frozenset(), {3}, frozenset()]
    *_, second, _, _ = stages_of(found)
    path = next(one.attrib["d"] for one in second.iter("path") if one.attrib["class"] == "again")
    assert _FRAME.findall(path) == [("3.1", "0.1")]
    assert "1 reused" in "".join(second.itertext())


def test_a_patch_stays_framed_in_later_stages() -> None:
    found = TokenMap(PIXELS, 4, ((0,), (0, 3), (3,)))
    assert [found.reused(stage) for stage in range(3)] == [frozenset(), {3}, {3}]
    assert found.usage() == (3, 1, 1, 3)


def test_the_picture_is_the_one_given() -> None:
    pixels = np.full((32, 32, 3), (200, 30, 90), np.uint8)
    image = next(stages_of(TokenMap(pixels, 4, ((0,),)))[0].iter("image"))
    content = base64.b64decode(image.attrib["href"].removeprefix("data:image/jpeg;base64,"))
    shown = np.asarray(Image.open(io.BytesIO(content)))
    assert shown.shape == pixels.shape and np.abs(shown.astype(int) - pixels).max() < 8


@pytest.mark.parametrize(
    ("patches", "kept", "message"),
    [
        (15, ((0,),), "fill no square"),
        (0, (), "fill no square"),
        (16, ((1,), (16,)), "stage 2"),
        (16, ((-1,),), "stage 1"),
    ],
)
def test_what_is_no_map_is_refused(patches: int, kept: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TokenMap(PIXELS, patches, kept)


def test_every_method_has_a_map_and_a_dense_model_none(tiny_checkpoint: Checkpoint) -> None:
    manifest = plain_manifest(tiny_checkpoint)
    golden = golden_of(manifest)
    assert map_of(golden.vectors[0], manifest.patch_tokens).kept == KEPT
    shown = kept_tokens(manifest, golden, list(manifest.methods))
    assert shown.count('<div class="maps">') == 2 and "Method budget_1" in shown
    assert kept_tokens(manifest, golden, ["forward"]).count('<div class="maps">') == 1
    assert kept_tokens(manifest, None, ["forward"]) == ""
    assert kept_tokens(replace(manifest, token_counts=None), golden, ["forward"]) == ""
