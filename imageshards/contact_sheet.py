"""The contact sheet: a few dozen prepared images side by side, with class name, split, head box and trimap outline."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from imageshards.display import BOX_COLOR, OUTLINE_COLOR
from imageshards.index import sample_hash
from imageshards.stored_rows import StoredRow

CELLS = 48
COLUMNS = 8

MAX_CELL_PX = 256
"""Side of a cell at most: images of a larger resolution are shown reduced."""

PREVIEW_WIDTHS_PX = (1000, 700, 400)
PREVIEW_BYTES = 130_000
"""Of a preview at most: it lies within an artifact, and Prefect loads all of an artifact's history to show it."""
_PREVIEW_QUALITIES = (80, 60, 40)

_GAP_PX = 12
_CAPTION_PX = 36
_HEADER_PX = 64
_TITLE_SIZE_PX, _NAME_SIZE_PX, _NOTE_SIZE_PX = 24, 15, 12
_GROUND, _TEXT, _QUIET_TEXT = (24, 26, 30), (240, 240, 240), (170, 174, 180)
_ELLIPSIS = "…"
_MAX_CHARACTERS = 200
"""Of any line; measuring a longer one takes seconds."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One image of the sheet: a row and its picture, drawn in already."""

    row: StoredRow
    image: Image.Image


def choose_rows(rows: Iterable[StoredRow], count: int = CELLS) -> list[StoredRow]:
    """Choose rows that spread over classes first and splits then, by the hash of their ids.

    Returns:
        At most `count` rows, those of a class side by side.
    """
    left = sorted(rows, key=lambda row: (sample_hash(row.image_id), row.image_id))
    classes: Counter[str | None] = Counter()
    splits: Counter[str] = Counter()
    pairs: Counter[tuple[str | None, str]] = Counter()
    chosen: list[StoredRow] = []
    while left and len(chosen) < count:
        row = min(left, key=lambda row: (classes[row.class_name], pairs[row.class_name, row.split], splits[row.split]))
        left.remove(row)
        chosen.append(row)
        classes[row.class_name] += 1
        splits[row.split] += 1
        pairs[row.class_name, row.split] += 1
    return sorted(chosen, key=lambda row: ((row.class_name or "").lower(), row.split, row.image_id))


def contact_sheet(cells: Sequence[Cell], *, title: str, side_px: int) -> Image.Image:
    """Lay out a contact sheet.

    Args:
        cells: The images, in order.
        title: Stands above them.
        side_px: Side of a cell; no image is larger.
    """
    columns = max(1, min(COLUMNS, len(cells)))
    rows = max(1, math.ceil(len(cells) / columns))
    step_x, step_y = side_px + _GAP_PX, side_px + _CAPTION_PX + _GAP_PX
    sheet = Image.new("RGB", (_GAP_PX + columns * step_x, _HEADER_PX + rows * step_y), _GROUND)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, title, sheet.width)
    for number, cell in enumerate(cells):
        left, top = _GAP_PX + number % columns * step_x, _HEADER_PX + number // columns * step_y
        sheet.paste(cell.image, (left + (side_px - cell.image.width) // 2, top + (side_px - cell.image.height) // 2))
        name = readable_class(cell.row.class_name)
        _draw_text(draw, (left, top + side_px + 3), name, _NAME_SIZE_PX, _TEXT, side_px)
        note = f"{cell.row.split} · {cell.row.image_id}"
        _draw_text(draw, (left, top + side_px + 20), note, _NOTE_SIZE_PX, _QUIET_TEXT, side_px)
    return sheet


def preview(sheet: bytes) -> bytes:
    """A contact sheet reduced for a page that shows it among other things.

    Args:
        sheet: The picture, in any format that Pillow reads.

    Returns:
        A WebP file of `PREVIEW_BYTES` at most, as wide and as good as that allows.
    """
    with Image.open(io.BytesIO(sheet)) as image:
        whole = image.convert("RGB")
    data = b""
    for width_px in PREVIEW_WIDTHS_PX:
        reduced = whole.copy()
        reduced.thumbnail((width_px, whole.height), Image.Resampling.LANCZOS)
        for quality in _PREVIEW_QUALITIES:
            buffer = io.BytesIO()
            reduced.save(buffer, "WEBP", quality=quality)
            data = buffer.getvalue()
            if len(data) <= PREVIEW_BYTES:
                return data
    return data


def readable_class(name: str | None) -> str:
    """A class name for people: `american_bulldog` is `american bulldog`."""
    return name.replace("_", " ") if name else "no class"


def _draw_header(draw: ImageDraw.ImageDraw, title: str, width: int) -> None:
    _draw_text(draw, (_GAP_PX, 8), title, _TITLE_SIZE_PX, _TEXT, width - 2 * _GAP_PX)
    x = _GAP_PX
    for color, text in ((BOX_COLOR, "head box"), (OUTLINE_COLOR, "trimap outline")):
        draw.rectangle((x, 44, x + 20, 50), fill=color)
        _draw_text(draw, (x + 26, 39), text, _NOTE_SIZE_PX, _QUIET_TEXT, width)
        x += 26 + round(draw.textlength(text, font=ImageFont.load_default(_NOTE_SIZE_PX))) + 20


def _draw_text(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size_px: int, color: tuple[int, int, int], width_px: int
) -> None:
    """Draw one line, cut short where it is too long; Pillow's own font, the same on every machine."""
    font = ImageFont.load_default(size_px)
    line = " ".join(text[:_MAX_CHARACTERS].split())
    if draw.textlength(line, font=font) > width_px:
        while line and draw.textlength(line + _ELLIPSIS, font=font) > width_px:
            line = line[:-1]
        line += _ELLIPSIS
    draw.text(at, line, fill=color, font=font)
