from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import step_memory


def test_the_most_that_a_step_holds_at_once_is_counted_even_if_it_is_freed() -> None:
    kept = []

    def step() -> None:
        np.empty(200_000, np.uint8)
        kept.append(np.empty(100_000, np.uint8))

    assert step_memory.count_bytes(step) == pytest.approx(200_000, abs=2000)
    assert step_memory.count_bytes(lambda: None) < 500


def test_steps_into_given_memory_hold_less_than_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ways = {name: step_memory.WAYS[name] for name in ("medium fast", "clean paper")}
    monkeypatch.setattr(step_memory, "WAYS", ways)
    assert step_memory.main(["--seconds", "0", "--size", "64", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result) == {"machine", "figures", "ratios"} and set(result["ratios"]) == set(ways)
    for way in result["figures"]["ways"].values():
        assert way["given"]["allocated_bytes"] < 4096
        assert way["new"]["allocated_bytes"] > 64 * 64 * 3
        assert way["given"]["step"]["cpu_ms"]["median"] > 0
