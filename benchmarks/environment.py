"""One agent step and one reset of an environment, beside the published package and the limits.

    rl-system bench env [--json] [--seconds 120]

For each task, in turn and round after round within one process: the `distracting-control` package
as CoRe uses it (see `peers.distracting_suite`), ours at each quality with the same videos, level,
action repeat and picture size, ours undistracted, and dm_control's physics without any drawing.
Before that, both are brought into the same state and their pictures are compared.

Ratios are medians over rounds of (package's time / our time), above 1: ours is faster.
`distraction_cost` is our distracted frame time over our undistracted one. A ratio whose task is not
measured is null. Both clocks are given:
`<name>` compares CPU time of the process, `<name>_wall` compares wall-clock time. The last line
with --json is one object of machine, figures and ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.environments import published
from actors.environments.backend import GraphicsUnavailable
from actors.environments.catalog import UnknownEnvironment, find, make_environment
from actors.environments.interface import PixelEnvironment
from actors.environments.settings import QUALITIES, EnvironmentSettings
from actors.environments.videos import VideoFolderError, davis
from benchmarks import moving_pictures
from benchmarks.peers.distracting_suite import PackageEnvironment
from benchmarks.rounds import Candidate, Timing, interleave, ratios, spread
from rl_system.cli import EXIT_USER_ERROR
from rl_system.machine import describe_machine, versions

TASKS = ("dcs/cheetah-run", "dcs/walker-walk", "dcs/cartpole-swingup", "dcs/reacher-easy")
RATIOS = (
    "cheetah_exact",
    "cheetah_paper",
    "cheetah_fast",
    "walker_paper",
    "cartpole_paper",
    "reset_paper",
    "distraction_cost",
)
COLUMNS = ("package", *QUALITIES, "paper_clean", "fast_clean", "physics_only")
LEVEL = "medium"
SEED = 3
_COMPARED_EPISODES, _COMPARED_AGENT_STEPS = 2, 4  # per episode, after its first picture
_WARM_RESETS = 30  # enough that a level's eight videos are all cached
_FIRST_RESETS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="rl-system-bench-") as scratch:
        # Frames are decoded here, not found decoded from an earlier run.
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch, "cache"))
        try:
            _check(options)
            videos = options.videos or moving_pictures.write(Path(scratch, "videos"))
            result = measure(options, Path(videos), Path(scratch))
        except (UnknownEnvironment, VideoFolderError, GraphicsUnavailable) as error:
            print(f"rl-system bench env: {error}", file=sys.stderr)
            return EXIT_USER_ERROR
    _print(result)
    if options.json:
        print(json.dumps(result))
    return 0


def _check(options: argparse.Namespace) -> None:
    """Finds mistakes in the options before minutes go by."""
    for name in options.tasks:
        if find(name).family != "dcs":
            raise UnknownEnvironment(f"{name} is no task of the package: choose one of dcs/.")
    if options.videos is None:
        return
    needed = davis.TRAIN_VIDEOS[: published.NUM_VIDEOS[LEVEL]]
    missing = [name for name in needed if not Path(options.videos, name).is_dir()]
    if missing:
        raise VideoFolderError(
            f"{options.videos} has no video {missing[0]}: the package shows the first "
            f"{len(needed)} of DAVIS's training list; give a folder such as DAVIS/JPEGImages/480p."
        )


def measure(options: argparse.Namespace, videos: Path, scratch: Path) -> dict[str, Any]:
    """Measures every task; returns the object of machine, figures and ratios."""
    figures: dict[str, Any] = {
        "level": f"{LEVEL}, dynamic",
        "image_size": options.size,
        "seconds": options.seconds,
        "first_reset": _first_resets(options.size, scratch),
        "tasks": {},
    }
    by_round: dict[str, dict[str, list[float]]] = {}
    for name in options.tasks:
        print(f"{name}: making environments, then measuring ...", file=sys.stderr, flush=True)
        task = _Task(name, options, videos)
        figures["renderer"] = task.renderer()
        figures["tasks"][name], task_ratios = task.measure(options.seconds / len(options.tasks))
        by_round |= task_ratios
    return {
        "machine": describe_machine() | {"versions": versions()},
        "figures": figures | {"ratios": _spreads(by_round)},
        "ratios": _headline(by_round),
    }


class _Task:
    """All candidates of one task."""

    def __init__(self, name: str, options: argparse.Namespace, videos: Path) -> None:
        from actors.environments.distractions import stream_seeds

        self._entry, self._size, self._videos = find(name), options.size, videos
        self._ours = {quality: self._make(LEVEL, quality) for quality in QUALITIES}
        self._clean = {
            f"{quality}_clean": self._make("none", quality) for quality in ("paper", "fast")
        }
        self._peer = PackageEnvironment(
            self._entry.domain,
            self._entry.task,
            videos,
            stream_seeds(SEED),
            action_repeat=self._entry.action_repeat,
            image_size=self._size,
            difficulty=LEVEL,
        )

    def _make(self, difficulty: str, quality: str) -> PixelEnvironment:
        settings = EnvironmentSettings(
            name=self._entry.name,
            difficulty=difficulty,
            quality=quality,
            image_size=self._size,
            videos=str(self._videos),
        )
        return make_environment(settings, SEED)

    def renderer(self) -> str:
        """The OpenGL renderer that draws, in its own words."""
        from OpenGL import GL

        environment: Any = next(iter(self._ours.values()))
        environment.reset()
        with environment.physics.contexts.gl.make_current() as context:
            return str(context.call(GL.glGetString, GL.GL_RENDERER).decode())

    def measure(self, seconds: float) -> tuple[dict[str, Any], dict[str, dict[str, list[float]]]]:
        """Returns the task's figures, and its ratios by name, clock and round."""
        figures: dict[str, Any] = {
            "action_repeat": self._entry.action_repeat,
            "difference_grey_levels": self._compare(),
        }
        candidates = self._candidates()
        for candidate in candidates.values():
            candidate.step(candidate.action())
        figures["rounds"] = interleave(
            {name: candidate.round for name, candidate in candidates.items()}, seconds
        )
        for name, candidate in candidates.items():
            figures[name] = candidate.summary()
        self._close()
        return figures, self._ratios(candidates)

    def _candidates(self) -> dict[str, Candidate]:
        generator = np.random.default_rng(SEED)

        def action() -> np.ndarray:
            return generator.uniform(-1.0, 1.0, self._entry.action_dims)

        self._peer.reset()
        candidates = {"package": Candidate(self._peer.reset, self._peer.step, action, 3)}
        for name, environment in (self._ours | self._clean).items():
            for _ in range(_WARM_RESETS):
                environment.reset()
            candidates[name] = Candidate(environment.reset, environment.step, action, 10)
        reset, step = self._physics_only()
        candidates["physics_only"] = Candidate(reset, step, action, 100)
        return candidates

    def _physics_only(self) -> tuple[Callable[[], object], Callable[[np.ndarray], None]]:
        from actors.environments.tasks import load_task

        control = load_task(self._entry, SEED)
        control.reset()

        def step(action: np.ndarray) -> None:
            for _ in range(self._entry.action_repeat):
                control.step(action)

        return control.reset, step

    def _compare(self) -> dict[str, dict[str, float]]:
        """Mean absolute differences of our pictures from the package's at the same states."""
        generator = np.random.default_rng(SEED)
        differences: dict[str, list[float]] = {quality: [] for quality in self._ours}

        def note(reference: np.ndarray, ours: dict[str, np.ndarray]) -> None:
            for quality, picture in ours.items():
                error = np.abs(picture.astype(np.int16) - reference)
                differences[quality].append(float(error.mean()))

        # Made anew, since whoever asked for the renderer has already reset one of them.
        twins = {quality: self._make(LEVEL, quality) for quality in self._ours}
        for _ in range(_COMPARED_EPISODES):
            note(self._peer.reset(), {q: twin.reset().observation for q, twin in twins.items()})
            for _ in range(_COMPARED_AGENT_STEPS):
                action = generator.uniform(-1.0, 1.0, self._entry.action_dims)
                reference = self._peer.step(action)
                note(reference, {q: twin.step(action).observation for q, twin in twins.items()})
        for twin in twins.values():
            twin.close()
        return {
            quality: {
                "mean": round(statistics.mean(values), 3),
                "worst_picture": round(max(values), 3),
            }
            for quality, values in differences.items()
        }

    def _ratios(self, candidates: dict[str, Candidate]) -> dict[str, dict[str, list[float]]]:
        domain = self._entry.domain
        paper, clean = candidates["paper"].agent_steps, candidates["paper_clean"].agent_steps
        found = {f"{domain}/distraction_cost": ratios(paper, clean)}
        found[f"{domain}/over_physics"] = ratios(paper, candidates["physics_only"].agent_steps)
        package = candidates["package"]
        for quality in self._ours:
            ours = candidates[quality]
            found[f"{domain}/{quality}"] = ratios(package.agent_steps, ours.agent_steps)
            found[f"{domain}/reset_{quality}"] = ratios(package.resets, ours.resets)
        return found

    def _close(self) -> None:
        for environment in (self._ours | self._clean).values():
            environment.close()
        self._peer.close()


def _first_resets(size: int, scratch: Path) -> dict[str, Any]:
    """First resets of new environments: with a video never seen before, and once it is cached.

    Both make the drawing context, so their difference is what decoding a video costs.
    """
    uncached, cached = Timing(), Timing()
    for index in range(_FIRST_RESETS):
        folder = moving_pictures.write(scratch / f"unseen-{index}", first=100 + index, count=1)
        settings = EnvironmentSettings(
            difficulty=LEVEL, videos=str(folder), num_videos=1, image_size=size
        )
        for timing in (uncached, cached):
            environment = make_environment(settings, SEED)
            timing.time(environment.reset)
            environment.close()
    return {"uncached": uncached.summary(), "cached": cached.summary()}


def _spreads(by_round: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    return {
        name: {clock: spread(values) for clock, values in clocks.items()}
        for name, clocks in by_round.items()
    }


def _headline(by_round: dict[str, dict[str, list[float]]]) -> dict[str, float | None]:
    """One number per name and clock; the two that concern all tasks are medians over tasks."""
    found: dict[str, float | None] = dict.fromkeys(RATIOS)
    for clock, suffix in (("cpu", ""), ("wall", "_wall")):
        shared: dict[str, list[float]] = {"reset_paper": [], "distraction_cost": []}
        for name, clocks in by_round.items():
            domain, _, kind = name.partition("/")
            median = statistics.median(clocks[clock])
            if kind in shared:
                shared[kind].append(median)
            elif kind in QUALITIES:
                found[f"{domain}_{kind}{suffix}"] = round(median, 2)
        for kind, medians in shared.items():
            if medians:
                found[kind + suffix] = round(statistics.median(medians), 3)
    return found


def _print(result: dict[str, Any]) -> None:
    """Prints the figures as tables in Markdown."""
    figures = result["figures"]
    print(
        f"{figures['level']}, {figures['image_size']} x {figures['image_size']} pixels, "
        f"{figures['renderer']}.\nCPU milliseconds, medians; behind x: how many times as long the "
        "package took (quartiles)."
    )
    for part, prefix, title in (("step", "", "agent step"), ("reset", "reset_", "reset")):
        rows = {}
        for name, task in figures["tasks"].items():
            domain = find(name).domain
            rows[f"{name.removeprefix('dcs/')} ({task['action_repeat']})"] = [
                _cell(
                    task.get(column, {}).get(part), figures["ratios"], f"{domain}/{prefix}{column}"
                )
                for column in COLUMNS
            ]
        _print_table(f"{title} (action repeat)", COLUMNS, rows)
    rates = {
        name.removeprefix("dcs/"): [
            f"{float(f'{rate:.3g}'):,g}" if (rate := _rate(task, column)) else "-"
            for column in COLUMNS
        ]
        for name, task in figures["tasks"].items()
    }
    _print_table("agent steps per second of CPU time", COLUMNS, rates)
    differences = {
        name.removeprefix("dcs/"): [
            f"{value['mean']:.2f} ({value['worst_picture']:.2f})"
            for value in task["difference_grey_levels"].values()
        ]
        for name, task in figures["tasks"].items()
    }
    _print_table("grey levels off the package's pictures (the worst)", QUALITIES, differences)
    first = {kind: timing["cpu_ms"]["median"] for kind, timing in figures["first_reset"].items()}
    print(
        f"\nFirst reset of a new environment: {first['uncached']:.0f} ms with a video never seen "
        f"before, {first['cached']:.0f} ms with a cached one.\n"
    )
    for name, value in result["ratios"].items():
        print(f"{name}: {'null (its task is not in --tasks)' if value is None else value}")


def _rate(task: dict[str, Any], column: str) -> float | None:
    return task[column]["agent_steps_per_cpu_s"] if column in task else None


def _print_table(title: str, columns: Sequence[str], rows: dict[str, list[str]]) -> None:
    print(f"\n| {title} | {' | '.join(columns).replace('_', ' ')} |")
    print("|---" * (len(columns) + 1) + "|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def _cell(summary: dict[str, Any] | None, by_name: dict[str, Any], name: str) -> str:
    if summary is None:
        return "-"
    text = f"{summary['cpu_ms']['median']:.3g}"
    if name in by_name:
        ratio = by_name[name]["cpu"]
        text += f" x{ratio['median']:.3g} ({ratio['q1']:.3g}-{ratio['q3']:.3g})"
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rl-system bench env",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="for all rounds; setting up is extra"
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="NAME")
    parser.add_argument("--size", type=int, default=100, help="pixels of a picture's side")
    parser.add_argument(
        "--videos", metavar="FOLDER", help="such as DAVIS/JPEGImages/480p; without: made up"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
