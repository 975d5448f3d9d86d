"""Learning curves as numbers: one CSV of one run or several, small enough for a repository."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_system.report.runs import Run, load_run

COLUMNS = (
    "elapsed_s",
    "agent_steps",
    "simulator_steps",
    "updates",
    "episodes",
    "train/return_mean",
    "train/return_se",
    "eval/return_mean",
    "eval/return_se",
    "rate/updates_per_s",
    "learner/busy_percent",
    "actor/busy_percent",
    "wait/actors_for_learner_percent",
    "wait/learner_for_actors_percent",
    "wait/learner_for_replay_percent",
    "replay/insert_wait_s",
    "replay/sample_wait_s",
    "loss/contrastive",
    "loss/reconstruction",
    "loss/kl",
    "loss/reward",
)
LINES_PER_RUN = 150


def write_curves(directories: Sequence[str | Path], output: str | Path) -> Path:
    """Write the learning curves of runs as one CSV and return its path.

    The columns are `run`, `seed` and `COLUMNS`, named as in metrics.jsonl; the rows are one run
    after the other, oldest line first. What a line does not hold is an empty cell. A long run is
    thinned to `LINES_PER_RUN` lines at even distances, but every line with an evaluation stays, and
    so does the last.

    Raises:
        UserError: A directory is no run, or holds no metrics.
    """
    runs = [load_run(Path(directory)) for directory in directories]
    output = Path(output).absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("run", "seed", *COLUMNS))
        for run in runs:
            seed = _seed(run)
            for line in thin(run.lines):
                writer.writerow((run.name, seed, *(_cell(line.get(name)) for name in COLUMNS)))
    partial.replace(output)
    return output


def thin(lines: Sequence[dict[str, Any]], count: int = LINES_PER_RUN) -> list[dict[str, Any]]:
    """Return about `count` of the lines in their order: evaluations, the last, and even distances.

    There are more than `count` only where there are more evaluations than that.
    """
    kept = {index for index, line in enumerate(lines) if "eval/return_mean" in line}
    kept |= {len(lines) - 1} if lines else set()
    others = [index for index in range(len(lines)) if index not in kept]
    room = max(0, count - len(kept))
    if room >= len(others):
        return list(lines)
    kept |= {others[place * len(others) // room] for place in range(room)}
    return [lines[index] for index in sorted(kept)]


def _seed(run: Run) -> Any:
    return run.settings.get("run", {}).get("seed", run.facts.get("seed", ""))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
