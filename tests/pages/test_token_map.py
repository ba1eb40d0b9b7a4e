"""Token maps and contact sheets: what is dark, what is framed, and what is refused."""

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

COLOUR = (200, 30, 90)
PIXELS = np.full((32, 32, 3), COLOUR, np.uint8)
RUN = re.compile(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z")


def drawings_of(side: int, *kept: tuple[int, ...]) -> list[ElementTree.Element]:
    """The drawings of a map, the input first and the usage last."""
    return list(ElementTree.fromstring(token_maps(TokenMap(PIXELS, side**2, kept))).iter("svg"))


def covered(drawing: ElementTree.Element, side: int, kind: str) -> list[tuple[int, str]]:
    """The patches that paths of a class cover, each as often as it is covered, with the path's colour."""
    found = []
    for path in drawing.iter("path"):
        if path.attrib["class"] == kind:
            assert RUN.sub("", path.attrib["d"]) == ""
            for column, row, length, back in (map(int, run) for run in RUN.findall(path.attrib["d"])):
                assert length == back
                found += [(row * side + column + step, path.get("fill", "")) for step in range(length)]
    return sorted(found)


@given(
    st.integers(1, 15).flatmap(
        lambda side: st.tuples(st.just(side), st.lists(st.sets(st.integers(0, side**2 - 1)), min_size=1, max_size=3))
    )
)
def test_frozen_patches_are_dark_and_usage_has_its_colour(case: tuple[int, list[set[int]]]) -> None:
    side, kept = case
    _, *stages, heat = drawings_of(side, *map(tuple, kept))
    assert len(stages) == len(kept)
    for drawing, positions in zip(stages, kept):
        assert [patch for patch, _ in covered(drawing, side, "frozen")] == sorted(set(range(side**2)) - positions)
    colours = [as_hex(colour) for colour in heat_colours(len(kept) + 1)]
    usage = [(patch, colours[sum(patch in stage for stage in kept)]) for patch in range(side**2)]
    assert covered(heat, side, "usage") == usage


def test_reused_patches_are_framed_and_the_image_is_the_input() -> None:
    whole, _, second, _, _ = drawings_of(4, *KEPT)
    (frames,) = (path.attrib["d"] for path in second.iter("path") if path.attrib["class"] == "again")
    assert frames == "M3.1 0.1h.8v.8h-.8z" and "1 reused" in "".join(second.itertext())
    again = TokenMap(PIXELS, 4, ((0,), (0, 3), (3,)))
    assert [again.reused(stage) for stage in range(3)] == [frozenset(), {3}, {3}] and again.usage() == (3, 1, 1, 3)
    (image,) = whole.iter("image")
    content = base64.b64decode(image.attrib["href"].removeprefix("data:image/jpeg;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    assert pixels.shape == PIXELS.shape and np.abs(pixels.astype(int) - PIXELS).max() < 8
    assert len(drawings_of(2)) == 1


@pytest.mark.parametrize("stages", [1, 2, 4, 7])
def test_colours_of_the_heat_map_grow_lighter(stages: int) -> None:
    colours = heat_colours(stages)
    light = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in colours]
    assert len(colours) == stages and light == sorted(set(light))
    assert heat_legend(stages) == [(number + 1, as_hex(colour)) for number, colour in enumerate(colours)]
    assert as_hex(colours[0]) == "#440154" and as_hex(colours[-1]) == ("#fde725" if stages > 1 else "#440154")


@pytest.mark.parametrize(
    ("patches", "kept", "message"),
    [
        (15, ((0,),), "fill a square"),
        (0, (), "fill a square"),
        (16, ((1,), (16,)), "stage 2"),
        (16, ((-1,),), "stage 1"),
    ],
)
def test_wrong_maps_are_refused(patches: int, kept: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TokenMap(PIXELS, patches, kept)
    with pytest.raises(InputError, match=message):
        contact_sheet([replace(image_named("a", kept=kept), patch_tokens=patches)])


def test_the_sheet_has_one_row_per_image_and_shows_kept_frozen_reused_and_usage() -> None:
    flipped = tuple(tuple(15 - position for position in stage) for stage in KEPT)
    sheet = Image.open(io.BytesIO(contact_sheet([image_named("a"), image_named("b", kept=flipped)])))
    assert sheet.format == "PNG" and sheet.size == (GAP + 5 * (TILE + GAP), LINE + GAP + 2 * (TILE + LINE + GAP))
    pixels = np.asarray(sheet).astype(int)
    for row, kept in enumerate((KEPT, flipped)):
        for patch in range(16):
            down, across = divmod(patch, 4)
            top, left = LINE + GAP + row * (TILE + LINE + GAP) + down * TILE // 4, GAP + across * TILE // 4
            middles = [pixels[top + TILE // 8, left + TILE // 8 + column * (TILE + GAP)] for column in range(5)]
            assert [tuple(middle) == COLOUR for middle in middles[:4]] == [True, *(patch in stage for stage in kept)]
            usage = sum(patch in stage for stage in kept)
            expected = 0.25 * np.array(COLOUR) + 0.75 * np.array(heat_colours(4)[usage])
            assert np.abs(middles[4] - expected).max() <= 1
            # Stage 2 reuses one patch, the fourth from the image's first or last corner.
            framed = tuple(pixels[top, left + 2 * (TILE + GAP)]) == (255, 211, 61)
            assert framed == (patch == (3, 12)[row])


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_can_be_written_below_a_picture(name: str) -> None:
    sheet = Image.open(io.BytesIO(contact_sheet([image_named(name)])))
    row = np.asarray(sheet)[-(LINE + GAP) + 2 :, : GAP + TILE]
    assert (row[:, :GAP] == 255).all() and (row < 128).any()
