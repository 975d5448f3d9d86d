from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rl_system.contact_sheet import Row, write_contact_sheet


def row(caption: str, *levels: int, size: int = 20) -> Row:
    return Row(caption, [np.full((size, size, 3), level, np.uint8) for level in levels])


def test_every_picture_is_on_the_sheet_in_its_place(tmp_path: Path) -> None:
    path = write_contact_sheet([row("a", 10, 60), row("b", 110, 160)], tmp_path / "x" / "s.png")
    sheet = np.asarray(Image.open(path).convert("L"))
    places = {level: np.argwhere(sheet == level) for level in (10, 60, 110, 160)}
    assert all(len(found) >= 400 for found in places.values())
    centers = {level: found.mean(axis=0) for level, found in places.items()}
    assert centers[10][1] < centers[60][1] and centers[10][0] < centers[110][0]


def test_columns_stand_side_by_side(tmp_path: Path) -> None:
    rows = [row(str(index), 100) for index in range(6)]
    one = Image.open(write_contact_sheet(rows, tmp_path / "1.png"))
    two = Image.open(write_contact_sheet(rows, tmp_path / "2.png", columns=2))
    assert two.width == 2 * one.width and two.height < one.height


def test_names_stand_once_above_the_columns(tmp_path: Path) -> None:
    rows = [row("a", 10, 60, size=40), row("b", 110, 160, size=40)]
    plain = np.asarray(Image.open(write_contact_sheet(rows, tmp_path / "1.png")))
    names = ["left", "right"]
    named = np.asarray(Image.open(write_contact_sheet(rows, tmp_path / "2.png", names=names)))
    header = len(named) - len(plain)
    np.testing.assert_array_equal(named[header:], plain)
    inked = np.flatnonzero((named[:header] < 128).all(axis=2).any(axis=0))
    lefts = [int(np.argwhere((plain == level).all(axis=2))[0][1]) for level in (10, 60)]
    assert header > 0 and inked.min() - lefts[0] in range(4)
    assert np.any((inked >= lefts[1]) & (inked < lefts[1] + 40))


def test_a_caption_that_is_too_long_is_cut(tmp_path: Path) -> None:
    path = write_contact_sheet([row("a very long caption " * 10, 200)], tmp_path / "s.png")
    assert Image.open(path).width < 50


def test_a_caption_with_a_line_end_is_drawn_on_one_line(tmp_path: Path) -> None:
    broken = write_contact_sheet([row("a\nb", 200, size=40)], tmp_path / "1.png")
    whole = write_contact_sheet([row("a?b", 200, size=40)], tmp_path / "2.png")
    assert broken.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("rows", [[], [row("a", 1), row("b", 1, size=30)]])
def test_pictures_of_different_sizes_or_none_are_refused(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pictures of one size"):
        write_contact_sheet(rows, tmp_path / "s.png")
