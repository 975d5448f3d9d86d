from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rl_system.cli import main
from rl_system.config import load_settings, save_settings
from rl_system.report.curves import COLUMNS, LINES_PER_RUN, thin, write_curves


def make_run(root: Path, name: str, count: int, seed: int | None = None) -> Path:
    path = root / name
    path.mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {"agent_steps": 100 * index, "elapsed_s": index / 3, "updates": 50 * index}
        for index in range(1, count + 1)
    ]
    for line in lines[99::100]:
        line |= {"eval/return_mean": 80.0, "eval/return_se": 1.5, "loss/reward": 0.25}
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if seed is not None:
        save_settings(load_settings("default", [f"run.seed={seed}"]), path / "settings.yaml")
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_curves_of_several_runs_are_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [make_run(tmp_path, "a", 3, seed=7), make_run(tmp_path, "old", 2)]
    output = tmp_path / "curves.csv"
    assert main(["report", *map(str, paths), "--csv", str(output)]) == 0
    assert capsys.readouterr().out == f"Curves: {output}\n"
    assert not (paths[0] / "report.html").exists()
    rows = read(output)
    assert tuple(rows[0]) == ("run", "seed", *COLUMNS)
    assert [(row["run"], row["seed"], row["agent_steps"]) for row in rows] == [
        ("a", "7", "100"), ("a", "7", "200"), ("a", "7", "300"), ("old", "", "100"),
        ("old", "", "200"),
    ]  # fmt: skip
    assert rows[0]["elapsed_s"] == "0.333333"
    assert rows[0]["train/return_mean"] == ""


def test_a_long_run_is_thinned_but_keeps_every_evaluation_and_the_last_line(
    tmp_path: Path,
) -> None:
    output = write_curves([make_run(tmp_path, "long", 1055)], tmp_path / "sub" / "curves.csv")
    rows = read(output)
    assert len(rows) == LINES_PER_RUN
    evaluated = [int(row["agent_steps"]) for row in rows if row["eval/return_mean"]]
    assert evaluated == [10_000 * index for index in range(1, 11)]
    steps = [int(row["agent_steps"]) for row in rows]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (100, 105_500)
    assert max(later - earlier for earlier, later in pairwise(steps)) <= 900


def test_evaluations_are_never_thinned_away() -> None:
    lines = [{"eval/return_mean": float(index)} for index in range(20)] + [{"updates": 1}] * 2
    assert thin(lines, 5) == [*lines[:20], lines[-1]]
    assert thin([], 5) == []
