from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from actors.environments.catalog import NATURAL_TASKS, PAPER_TASKS
from actors.environments.settings import NATURAL_MASKS
from benchmarks import contact_sheet


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
