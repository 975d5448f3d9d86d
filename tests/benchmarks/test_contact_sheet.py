from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from actors.environments.catalog import NATURAL_TASKS, PAPER_TASKS
from actors.environments.settings import NATURAL_MASKS
from benchmarks import contact_sheet


def test_a_page_shows_every_picture_at_its_row_and_column() -> None:
    # Colours that no letter has: letters are grey.
    colors = {("first", "a"): 10, ("first", "b"): 20, ("second", "a"): 30, ("second", "b"): 40}
    pictures: dict[str, dict[str, np.ndarray]] = {"first": {}, "second": {}}
    for (row, column), red in colors.items():
        pictures[row][column] = np.full((16, 16, 3), (red, 255, 0), np.uint8)
    pixels = np.asarray(contact_sheet.lay_out(pictures))
    places = {
        cell: np.argwhere((pixels == (red, 255, 0)).all(axis=-1)) for cell, red in colors.items()
    }
    assert all(len(found) == 16 * 16 for found in places.values())
    (tops, lefts) = ({cell: found[0][axis] for cell, found in places.items()} for axis in (0, 1))
    assert tops["first", "a"] == tops["first", "b"] < tops["second", "a"] == tops["second", "b"]
    assert lefts["first", "a"] == lefts["second", "a"] < lefts["first", "b"] == lefts["second", "b"]


def test_pages_hold_all_tasks_levels_and_masks() -> None:
    dcs = contact_sheet.dcs_settings(64, "procedural")
    assert tuple(dcs) == PAPER_TASKS
    assert all(tuple(row) == contact_sheet.DCS_LEVELS for row in dcs.values())
    natural = contact_sheet.natural_settings(64, "procedural")
    assert tuple(natural) == NATURAL_TASKS
    assert all(tuple(row) == ("none", *NATURAL_MASKS) for row in natural.values())


@pytest.mark.slow
@pytest.mark.parametrize(("sheet", "shape"), [("dcs", (6, 6)), ("natural", (10, 4))])
def test_a_sheet_is_drawn(
    sheet: str, shape: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    output = tmp_path / "sheet.png"
    given = [sheet, "--size", "32", "--agent-steps", "1", "--output", str(output)]
    assert contact_sheet.main(given) == 0
    width, height = Image.open(output).size
    assert height > shape[0] * 32 and width > shape[1] * 32
