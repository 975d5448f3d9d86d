"""A contact sheet: rows of pictures with captions, and names above the columns, in one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 4  # pixels between pictures
_CAPTION = 16  # height of a caption
_FONT_SIZE = 11
_PAPER, _INK = (250, 250, 250), (30, 30, 30)


@dataclass(frozen=True)
class Row:
    """One line of a sheet."""

    caption: str
    pictures: Sequence[np.ndarray]  # uint8 (height, width, 3), all of a sheet of one size


def write_contact_sheet(
    rows: Sequence[Row], path: str | Path, columns: int = 1, names: Sequence[str] = ()
) -> Path:
    """Draws rows below each other, in `columns` side by side, and returns the path of the PNG.

    Rows are filled in reading order: down the first column, then down the next. Captions and names
    that are too long end in "...".

    Args:
        rows: what to draw.
        path: where to; missing folders are made.
        columns: how many rows stand side by side.
        names: of the pictures of a row, written once above each column; none: no such line.

    Raises:
        ValueError: there is nothing to draw, or pictures differ in size.
        OSError: the file cannot be written.
    """
    sizes = {picture.shape[:2] for row in rows for picture in row.pictures}
    if len(sizes) != 1:
        raise ValueError(f"A contact sheet needs pictures of one size, not {sorted(sizes)}.")
    ((height, width),) = sizes
    columns = max(1, min(columns, len(rows)))
    lines = -(-len(rows) // columns)
    across = max(len(row.pictures) for row in rows)
    cell_width = across * (width + _GAP) + 2 * _GAP
    cell_height = _CAPTION + height + _GAP
    header = _CAPTION if names else 0
    extent = (columns * cell_width, header + lines * cell_height + _GAP)
    sheet = Image.new("RGB", extent, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_SIZE)
    for column in range(columns):
        for place, name in enumerate(names):
            corner = (column * cell_width + _GAP + place * (width + _GAP), 2)
            draw.text(corner, _fit(draw, font, name, width), fill=_INK, font=font)
    for index, row in enumerate(rows):
        left = index // lines * cell_width + _GAP
        top = header + index % lines * cell_height
        caption = _fit(draw, font, row.caption, cell_width - 2 * _GAP)
        draw.text((left, top + 2), caption, fill=_INK, font=font)
        for place, picture in enumerate(row.pictures):
            corner = (left + place * (width + _GAP), top + _CAPTION)
            sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), corner)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG", optimize=True)
    return path


def _fit(draw: ImageDraw.ImageDraw, font: Any, text: str, width: int) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "...", font=font) > width:
        text = text[:-1]
    return text + "..."
