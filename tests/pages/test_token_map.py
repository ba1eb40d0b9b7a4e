"""Token maps and contact sheets: what is dark, what is framed, and what is refused."""

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
from page_contents import HOSTILE, KEPT, image_named
from PIL import Image

from tofe_edge.cli.pages.contact_sheet import GAP, LINE, TILE, contact_sheet
from tofe_edge.cli.pages.token_map import TokenMap, as_hex, heat_colours, heat_legend, token_maps
from tofe_edge.errors import InputError

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
    assert heat_legend(stages) == [(number + 1, as_hex(colour)) for number, colour in enumerate(colours)]


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
        (15, ((0,),), "do not fill a square"),
        (0, (), "do not fill a square"),
        (16, ((1,), (16,)), "stage 2"),
        (16, ((-1,),), "stage 1"),
    ],
)
def test_wrong_maps_are_refused(patches: int, kept: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TokenMap(PIXELS, patches, kept)


def pixel(sheet: Image.Image, row: int, column: int, patch: int) -> tuple[int, ...]:
    """The colour in the middle of a patch of a 4 x 4 grid."""
    down, across = divmod(patch, 4)
    left = GAP + column * (TILE + GAP) + (2 * across + 1) * TILE // 8
    top = LINE + GAP + row * (TILE + LINE + GAP) + (2 * down + 1) * TILE // 8
    found = sheet.getpixel((left, top))
    assert isinstance(found, tuple)
    return found


def test_the_sheet_has_one_row_per_image_and_shows_kept_frozen_and_usage() -> None:
    flipped = tuple(tuple(15 - position for position in stage) for stage in KEPT)
    sheet = Image.open(io.BytesIO(contact_sheet([image_named("a"), image_named("b", kept=flipped)])))
    assert sheet.format == "PNG" and sheet.size == (GAP + 5 * (TILE + GAP), LINE + GAP + 2 * (TILE + LINE + GAP))
    picture = np.array((200, 30, 90))
    for row, kept in enumerate((KEPT, flipped)):
        for patch in range(16):
            assert pixel(sheet, row, 0, patch) == tuple(picture)
            for column, stage in enumerate(kept, start=1):
                assert (pixel(sheet, row, column, patch) == tuple(picture)) == (patch in stage)
            heat = heat_colours(4)[sum(patch in stage for stage in kept)]
            wanted = 0.25 * picture + 0.75 * np.array(heat)
            assert np.abs(np.array(pixel(sheet, row, 4, patch)) - wanted).max() <= 1


def test_reused_patches_are_framed_on_the_sheet() -> None:
    sheet = Image.open(io.BytesIO(contact_sheet([image_named("a")])))
    left, top = GAP + 2 * (TILE + GAP), LINE + GAP  # stage 2, whose patch 3 stage 1 had frozen
    corner = [sheet.getpixel((left + across * TILE // 4, top)) for across in range(4)]
    assert [colour == (255, 211, 61) for colour in corner] == [False, False, False, True]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_can_be_written_below_a_picture(name: str) -> None:
    sheet = Image.open(io.BytesIO(contact_sheet([image_named(name)])))
    row = np.asarray(sheet)[-(LINE + GAP) + 2 :, : GAP + TILE]
    assert (row[:, :GAP] == 255).all() and (row < 128).any()


def test_a_sheet_of_images_that_are_not_square_is_refused() -> None:
    with pytest.raises(InputError, match="do not fill a square"):
        contact_sheet([replace(image_named("a"), patch_tokens=20)])
