"""Figures of the runs of `benchmarks/representation_experiment.py` as one table over seeds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.representation_episodes import QUANTITIES
from benchmarks.representation_experiment import TRAINING, Experiment, Run, write_whole
from rl_system.machine import describe_machine, versions

COLUMNS = ("arm", "pictures", "tested_on", "figure", "mean", "standard_error", "seeds", "partial")


def table(runs: Sequence[Run], results: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Returns a row of `COLUMNS` for every figure of an arm: mean and standard error over seeds.

    Args:
        runs: All that are planned.
        results: Theirs, None for those that are not finished; rows they would belong to are
            partial. The standard error is None with less than two seeds.
    """
    rows = []
    finished = list(zip(runs, results, strict=True))
    for arm, pictures in dict.fromkeys((run.arm, run.pictures) for run in runs):
        of_kind = [result for run, result in finished if (run.arm, run.pictures) == (arm, pictures)]
        done = [result for result in of_kind if result is not None]
        for tested_on, names in done[0]["figures"].items() if done else ():
            for figure in names:
                values = np.array([result["figures"][tested_on][figure] for result in done])
                error = float(values.std(ddof=1) / len(values) ** 0.5) if len(done) > 1 else None
                rows.append(
                    {
                        "arm": arm,
                        "pictures": pictures,
                        "tested_on": tested_on,
                        "figure": figure,
                        "mean": float(values.mean()),
                        "standard_error": error,
                        "seeds": len(done),
                        "partial": len(done) < len(of_kind),
                    }
                )
    return rows


def report(experiment: Experiment, runs: Sequence[Run], command: str) -> dict[str, Any]:
    """Writes representation.json and .csv into the experiment's folder; returns the former."""
    results = [experiment.result(run) for run in runs]
    rows = table(runs, results)
    missing = [run.name for run, result in zip(runs, results, strict=True) if result is None]
    summary = {
        "command": command,
        "machine": describe_machine() | {"versions": versions(), "device": experiment.device},
        "setup": asdict(experiment.setup),
        "partial": bool(missing),
        "missing": missing,
        "train_mean_r2": experiment.train_mean_r2(),
        "rows": rows,
        "runs": [result for result in results if result is not None],
    }
    write_whole(experiment.folder / "representation.json", json.dumps(summary, indent=1))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(experiment.folder / "representation.csv", text.getvalue())
    return summary


def print_table(summary: dict[str, Any]) -> None:
    """Prints the R2 of a `report` in Markdown, and how many runs are still missing."""
    if summary["partial"]:
        print(f"\nPARTIAL: {len(summary['missing'])} runs are missing.")
    found = {tuple(row[name] for name in COLUMNS[:4]): row for row in summary["rows"]}
    print(f"\nR2\n| arm | tested on | {' | '.join(QUANTITIES)} | seeds |")
    print("|---" * (3 + len(QUANTITIES)) + "|")
    for arm, pictures, tested_on in dict.fromkeys(key[:3] for key in found):
        row = [found[arm, pictures, tested_on, f"r2/{name}"] for name in QUANTITIES]
        cells = [
            f"{one['mean']:.2f}"
            + ("" if one["standard_error"] is None else f" ± {one['standard_error']:.2f}")
            for one in row
        ]
        where = f"{pictures}, {tested_on}" if tested_on == TRAINING else tested_on
        print(f"| {arm} | {where} | {' | '.join(cells)} | {row[0]['seeds']} |", flush=True)
