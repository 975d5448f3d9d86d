"""What a report reads: runs, and runs that differ only in their seed taken together."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rl_system.config import default_settings, settings_to_dict, system_of
from rl_system.errors import UserError
from rl_system.run_directory import RunDirectory
from rl_system.tally import standard_error

GRID_POINTS = 200  # of a curve over several seeds


@dataclass(frozen=True)
class Run:
    """One run directory as it lies on the disk; everything but the metrics may be absent."""

    path: Path
    lines: list[dict[str, Any]]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    trivial: dict[str, list[float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    def series(self, name: str, over: str = "agent_steps") -> tuple[np.ndarray, np.ndarray]:
        """Return x and y of a metric over a counter ("minutes" too), where both are there."""
        pairs = [
            (position, float(line[name]))
            for line in self.lines
            if isinstance(line.get(name), int | float)
            and math.isfinite(line[name])
            and (position := _position(line, over)) is not None
        ]
        xs, ys = zip(*pairs, strict=True) if pairs else ((), ())
        return np.array(xs, float), np.array(ys, float)

    def last(self, name: str) -> float | None:
        """Return the newest value of a metric, None if it never came."""
        for line in reversed(self.lines):
            if name in line:
                return float(line[name])
        return None


@dataclass(frozen=True)
class Curve:
    """A metric over a counter: mean and standard error at each x."""

    x: np.ndarray
    mean: np.ndarray
    se: np.ndarray


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed."""

    label: str
    runs: list[Run]

    def curve(self, name: str, over: str = "agent_steps") -> Curve | None:
        """Return the metric's mean and standard error over the runs; None if no run has it.

        Curves of several runs are interpolated to a common grid, which ends where the shortest
        does. For one run the error is the one logged beside the mean (`..._se`), else 0.
        """
        found = [(x, y) for x, y in (run.series(name, over) for run in self.runs) if len(x)]
        if not found:
            return None
        if len(self.runs) == 1:
            x, mean = found[0]
            se = np.zeros_like(mean)
            if name.endswith("_mean"):
                _, logged = self.runs[0].series(name.removesuffix("_mean") + "_se", over)
                se = logged if len(logged) == len(mean) else se
            return Curve(x, mean, se)
        low, high = max(x[0] for x, _ in found), min(x[-1] for x, _ in found)
        points = np.linspace(low, high, GRID_POINTS) if low < high else np.array([high])
        values = np.stack([np.interp(points, x, y) for x, y in found])
        se = np.array([standard_error(column) for column in values.T])
        return Curve(points, values.mean(0), se)

    def final(self, name: str = "eval/return") -> tuple[float, float, int] | None:
        """Return mean, standard error and count of the last evaluation.

        Over runs if there are several, else over the episodes of the one run.
        """
        last = [(run.last(f"{name}_mean"), run.last(f"{name}_se")) for run in self.runs]
        means = [mean for mean, _ in last if mean is not None]
        if not means:
            return None
        if len(means) == 1:
            mean, error = next(pair for pair in last if pair[0] is not None)
            assert mean is not None
            return mean, error or 0.0, 1
        return float(np.mean(means)), standard_error(means), len(means)

    @property
    def trivial(self) -> dict[str, tuple[float, float]]:
        """Mean and error of the trivial policies, of the first run that measured them."""
        for run in self.runs:
            if run.trivial:
                return {name: (pair[0], pair[1]) for name, pair in run.trivial.items()}
        return {}

    @property
    def best_trivial(self) -> tuple[str, float, float] | None:
        """Name, mean and error of the best trivial policy; None if none was measured."""
        trivial = self.trivial
        if not trivial:
            return None
        name = max(trivial, key=lambda policy: trivial[policy][0])
        return (name, *trivial[name])


def load_run(path: Path) -> Run:
    """Read a run directory; only metrics.jsonl has to be there.

    Raises:
        UserError: There is no line of metrics in it.
    """
    directory = RunDirectory.open(path)
    lines = directory.metrics()
    if not lines:
        raise UserError(
            f"{directory.metrics_file} holds no line of metrics: the run ended before its first "
            "iteration, so there is nothing to report."
        )
    settings: dict[str, dict[str, Any]] = {}
    if directory.settings_file.is_file():
        try:
            settings = settings_to_dict(directory.settings())
        except UserError:
            settings = {}  # of another version; the curves can be drawn all the same
    return Run(directory.path, lines, settings, directory.facts(), directory.trivial())


def group_by_settings(runs: Sequence[Run]) -> list[Group]:
    """Put runs together that differ in nothing but the seed and what the run section says."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_key(run), []).append(run)
    labels = _labels(list(groups.values()))
    return [Group(label, found) for label, found in zip(labels, groups.values(), strict=True)]


def changed_settings(settings: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Return value and default of every setting that is not at its system's default."""
    defaults = settings_to_dict(default_settings(system_of(settings)))
    return {
        f"{section}.{key}": (value, defaults.get(section, {}).get(key))
        for section, values in settings.items()
        for key, value in values.items()
        if value != defaults.get(section, {}).get(key)
    }


def _position(line: dict[str, Any], over: str) -> float | None:
    if over == "minutes":
        seconds = line.get("elapsed_s")
        return None if seconds is None else float(seconds) / 60.0
    value = line.get(over)
    return None if value is None else float(value)


def _key(run: Run) -> str:
    if not run.settings:
        return re.sub(r"-?seed-?\d+(-\d{8}-\d{6})?", "", run.name)
    return repr({name: values for name, values in run.settings.items() if name != "run"})


def _labels(groups: list[list[Run]]) -> list[str]:
    """Name groups by the settings in which they differ, else by their first run."""
    if len(groups) == 1:
        return [_task(groups[0][0])]
    flat = [
        {
            f"{section}.{key}": str(value)
            for section, values in group[0].settings.items()
            if section != "run"
            for key, value in values.items()
        }
        for group in groups
    ]
    names = sorted(set().union(*flat))
    differing = [name for name in names if len({one.get(name) for one in flat}) > 1]
    if not differing or len(differing) > 3:
        return [_plain_name(group[0]) for group in groups]
    return [
        ", ".join(f"{name.split('.')[1]}={one.get(name, '?')}" for name in differing)
        for one in flat
    ]


def _task(run: Run) -> str:
    if run.settings:
        return str(run.settings["environment"]["name"]).rpartition("/")[2]
    return _plain_name(run)


def _plain_name(run: Run) -> str:
    return re.sub(r"-?seed-?\d+", "", re.sub(r"-\d{8}-\d{6}$", "", run.name)) or run.name
