"""Token maps as one PNG: one row per image, with columns for the input, each stage and the usage heat map."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tofe_edge.cli.pages.token_map import TokenMap, heat_colours, map_of_image
from tofe_edge.evaluation.image_tokens import ImageTokens

TILE = 224
"""Side of a picture, in pixels."""

GAP = 8
LINE = 20
"""Height of the text above the columns and below each row."""

_FONT_SIZE = 13
_PAPER, _INK, _FRAME = (255, 255, 255), (27, 31, 36), (255, 211, 61)
_FROZEN, _FROZEN_OPACITY, _HEAT_OPACITY = (16, 18, 20), 0.8, 0.75


def contact_sheet(images: Sequence[ImageTokens]) -> bytes:
    """Return a PNG of the images, at least one, which have their pixels and the same number of stages.

    Raises:
        InputError: the patches of an image do not fill a square.
    """
    maps = [map_of_image(image) for image in images]
    stages = len(maps[0].kept)
    headings = ["input", *(f"stage {stage}" for stage in range(1, stages + 1)), f"usage, 1 to {stages + 1} stages"]
    size = (GAP + len(headings) * (TILE + GAP), LINE + GAP + len(images) * (TILE + LINE + GAP))
    sheet = Image.new("RGB", size, _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for column, heading in enumerate(headings):
        pen.text((_left(column), GAP // 2), heading, _INK, font)
    for row, (image, token_map) in enumerate(zip(images, maps)):
        top = LINE + GAP + row * (TILE + LINE + GAP)
        for column, tile in enumerate(_tiles(token_map)):
            sheet.paste(tile, (_left(column), top))
        for column, words in enumerate(_captions(image, token_map)):
            pen.text((_left(column), top + TILE + 2), _fitting(words, font), _INK, font)
    stored = io.BytesIO()
    sheet.save(stored, "PNG", optimize=True)
    return stored.getvalue()


def _left(column: int) -> int:
    return GAP + column * (TILE + GAP)


def _tiles(token_map: TokenMap) -> list[Image.Image]:
    picture = Image.fromarray(token_map.pixels).resize((TILE, TILE), Image.Resampling.BICUBIC)
    stages = [_stage(picture, token_map, stage) for stage in range(len(token_map.kept))]
    return [picture, *stages, _heat(picture, token_map)]


def _stage(picture: Image.Image, token_map: TokenMap, stage: int) -> Image.Image:
    kept = token_map.kept[stage]
    veil = np.full(token_map.patch_tokens, round(255 * _FROZEN_OPACITY), np.uint8)
    veil[list(kept)] = 0
    mask = Image.fromarray(veil.reshape(token_map.side, token_map.side)).resize((TILE, TILE), Image.Resampling.NEAREST)
    tile = Image.composite(Image.new("RGB", picture.size, _FROZEN), picture, mask)
    _frames(tile, token_map.reused(stage), token_map.side)
    return tile


def _frames(tile: Image.Image, patches: Collection[int], side: int) -> None:
    pen, cell = ImageDraw.Draw(tile), TILE / side
    for patch in patches:
        row, column = divmod(patch, side)
        left, top = round(column * cell), round(row * cell)
        right, bottom = round((column + 1) * cell) - 1, round((row + 1) * cell) - 1
        if right > left and bottom > top:
            pen.rectangle((left, top, right, bottom), outline=_FRAME, width=2 if cell > 8 else 1)


def _heat(picture: Image.Image, token_map: TokenMap) -> Image.Image:
    colours = np.array(heat_colours(len(token_map.kept) + 1), np.uint8)
    cells = colours[np.array(token_map.usage()) - 1].reshape(token_map.side, token_map.side, 3)
    heat = Image.fromarray(cells).resize((TILE, TILE), Image.Resampling.NEAREST)
    return Image.blend(picture, heat, _HEAT_OPACITY)


def _captions(image: ImageTokens, token_map: TokenMap) -> list[str]:
    stages = [
        f"{count} kept, {again} reused" if stage else f"{count} kept"
        for stage, (count, again) in enumerate(zip(image.counts, image.reused))
    ]
    usage = f"{np.mean(token_map.usage()):.2f} on average"
    return [f"{image.best.probability:.0%} {image.best.name}" if image.best else "", *stages, usage]


def _fitting(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return one line of characters that the font has, cut at the end of its column."""
    line = "".join(one if one.isascii() and one.isprintable() else "?" for one in words)
    if font.getlength(line) <= TILE:
        return line
    while line and font.getlength(f"{line}...") > TILE:
        line = line[:-1]
    return f"{line}..."
