from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from benchmarks.video_memory import memory


def test_private_memory_is_told_apart_from_mapped_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(50_000_000, np.uint8))
    before = memory()
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert mapped.max() == 1
    between = memory()
    held = mmap.mmap(-1, 30_000_000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # new pages
    np.frombuffer(held, np.uint8)[:] = 1  # with nothing else that takes memory for a moment
    after = memory()
    assert between["mapped"] - before["mapped"] == pytest.approx(50, abs=5)
    assert between["private"] - before["private"] == pytest.approx(0, abs=5)
    assert after["private"] - between["private"] == pytest.approx(30, abs=5)
    assert after["peak"] >= after["private"] and held[0] == 1
