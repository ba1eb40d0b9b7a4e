"""The pages of ``tokens`` and ``evaluate`` and the contact sheet: complete, self-contained, and no name in them is markup."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page_browser import HOST, show
from page_contents import HOSTILE, KEPT
from PIL import Image
from tags import Tags

from tofe_edge.cli.pages import evaluation, tokens
from tofe_edge.cli.pages.contact_sheet import GAP, LINE, TILE, contact_sheet
from tofe_edge.cli.pages.evaluation import EvaluationPage
from tofe_edge.cli.pages.heat import heat_colours
from tofe_edge.cli.pages.tokens import TokensPage
from tofe_edge.errors import InputError
from tofe_edge.evaluation.evaluate import Evaluation
from tofe_edge.evaluation.image_tokens import ImageTokens
from tofe_edge.evaluation.prediction import RankedClass
from tofe_edge.evaluation.usage import MeanUsage, distributions

WIDTHS = (390, 1280)


def image_named(name: str, label: int | None = 1, kept: tuple[tuple[int, ...], ...] = KEPT) -> ImageTokens:
    pixels = np.full((64, 64, 3), (200, 30, 90), np.uint8)
    return ImageTokens(Path(name), RankedClass(0, name, 0.875), label, 16, kept, pixels)


def tokens_page(name: str = "cat.jpg") -> TokensPage:
    return TokensPage(
        checkpoint=name,
        mode="instance",
        source=name,
        usage=MeanUsage(12, 16, (9.0, 5.0, 3.0), (0.0, 1.25, 0.3)),
        drawn=[image_named(name), image_named(name, None)],
        class_names=[name, name],
    )


def evaluation_page(name: str = "cat.jpg") -> EvaluationPage:
    counts = tuple(sorted({(9 + step % 5, 5 + step % 3, 3): 1 + step for step in range(15)}.items()))
    result = Evaluation(75.5, (73.1, 77.8), 93.25, 120, 0.6543, (10.5, 6.25, 3.0), (), (0.0, 1.5, 0.25), counts)
    return EvaluationPage(
        checkpoint=name,
        source=name,
        evaluation=result,
        shipped=(9, 5, 3),
        patch_tokens=16,
        found=distributions(counts),
        fewest=[image_named(name)],
        most=[image_named(name), image_named(name)],
        class_names=[name, name],
    )


def test_the_page_of_tokens_says_what_was_found() -> None:
    tags = Tags(tokens.render(tokens_page()))
    for part in (
        "Tokens of cat.jpg", "12 images of cat.jpg", "9.0, 5.0, 3.0", "25.00%", "10.00%", "2.06", "label: cat.jpg",
        "stage 2: 5 computed, 11 frozen; 1 reused", "cat.jpg 88%", "10 images more are counted and not drawn", "4 of 4",
    ):  # fmt: skip
        assert part in tags.text, part
    assert tags.text.count("label:") == 1 and tags.names.count("figure") == 2 * 5


def test_images_named_one_by_one_have_no_source() -> None:
    usage = replace(tokens_page().usage, images=2)
    text = Tags(tokens.render(replace(tokens_page(), source="", usage=usage))).text
    assert "2 images\n" in text and "not drawn" not in text and "images of" not in text


def test_the_page_of_evaluate_says_what_was_found() -> None:
    page = evaluation_page()
    tags = Tags(evaluation.render(page))
    for part in (
        "120 images of cat.jpg", "75.5 %", "73.1 to 77.8 %", "0.654", "shipped 9", "shipped 3", "mean less shipped",
        f"{page.found[0].mean - 9:+.1f}", f"standard deviation {page.found[1].std:.1f}", "95th percentile", "24.00%",
        "Images with the fewest tokens", "Images with the most tokens",
    ):  # fmt: skip
        assert part in tags.text, part
    assert tags.names.count("figure") == 3 + 3 * 5


def test_without_examples_there_are_none() -> None:
    tags = Tags(evaluation.render(replace(evaluation_page(), fewest=(), most=())))
    assert "Images with" not in tags.text and tags.names.count("figure") == 3


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_name_is_markup_and_nothing_is_loaded(hostile: str) -> None:
    path = hostile.replace("\0", "0")
    for plain, found in (
        (tokens.render(tokens_page()), tokens.render(tokens_page(path))),
        (evaluation.render(evaluation_page()), evaluation.render(evaluation_page(path))),
    ):
        wanted, tags = Tags(plain), Tags(found)
        assert tags.names == wanted.names
        assert all(address is not None and address.startswith("data:") for address in tags.addresses)
        assert not any(key.startswith("on") for _, attributes in tags.seen for key in attributes)


def test_pages_fit_a_phone_and_a_desk_and_load_nothing(tmp_path: Path) -> None:
    pages = {}
    for number, name in enumerate(("cat.jpg", *HOSTILE)):
        path = name.replace("\0", "0")
        pages[f"{number}-tokens.html"] = tokens.render(tokens_page(path))
        pages[f"{number}-evaluation.html"] = evaluation.render(evaluation_page(path))
    shown = show(pages, WIDTHS, tmp_path)
    assert shown.console == []
    assert set(shown.requests) <= {f"http://{HOST}/{name}" for name in (*pages, "", "favicon.ico")}
    assert len(shown.frames) == len(pages) * len(WIDTHS)
    for frame in shown.frames:
        assert frame["content"] <= frame["width"] and frame["wide"] == [], frame["title"]
        assert (frame["clipped"], frame["flat"], frame["active"]) == ([], 0, 0), frame["title"]
        assert frame["height"] > 800 and frame["drawings"] >= 10


def pixel(sheet: Image.Image, row: int, column: int, patch: int) -> tuple[int, ...]:
    """The colour in the middle of a patch of a 4 x 4 grid."""
    down, across = divmod(patch, 4)
    left = GAP + column * (TILE + GAP) + (2 * across + 1) * TILE // 8
    top = LINE + GAP + row * (TILE + LINE + GAP) + (2 * down + 1) * TILE // 8
    found = sheet.getpixel((left, top))
    assert isinstance(found, tuple)
    return found


def test_the_sheet_has_a_row_an_image_and_shows_kept_frozen_and_usage() -> None:
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
    sheet = Image.open(io.BytesIO(contact_sheet([image_named(name.replace("\0", "0"))])))
    row = np.asarray(sheet)[-(LINE + GAP) + 2 :, : GAP + TILE]
    assert (row[:, :GAP] == 255).all() and (row < 128).any()


@pytest.mark.parametrize("patches", [15, 20])
def test_patches_that_fill_no_square_are_refused(patches: int) -> None:
    image = replace(image_named("a"), patch_tokens=patches)
    with pytest.raises(InputError, match="fill no square"):
        contact_sheet([image])
    with pytest.raises(InputError, match="fill no square"):
        tokens.render(replace(tokens_page(), drawn=[image]))


def test_pages_that_cannot_be_written_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        tokens.write_page(tmp_path, tokens_page())
    with pytest.raises(InputError, match="cannot be written"):
        evaluation.write_page(tmp_path, evaluation_page())
