"""What a control step and a reset of the door opening task cost, ours beside robosuite's own.

    python benchmarks/robosuite_rate.py [--robots panda jaco] [--seconds 120] [--json]

Needs the Python that `make robosuite` builds. All run in processes of that Python, in turn and
round after round: robosuite as CoRe's authors set it up (`peers.robosuite_door`), and ours at each
quality, from the same seeds. CPU time is that of the simulator's process, wall-clock time that of
the caller, the pipes included. Ratios are medians over rounds of robosuite's time over ours.
`difference` is the mean distance to robosuite's own pictures, in grey levels of 255.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from actors.environments import robosuite, robosuite_process
from actors.environments.catalog import make_environment
from actors.environments.robosuite import RobosuiteEnvironment
from actors.environments.server_process import ServerProcess
from actors.environments.settings import QUALITIES, EnvironmentSettings
from benchmarks.rounds import Timing, interleave, ratios, spread
from rl_system.machine import describe_machine

SEED = 3
STEPS = 10  # per round
PEER = Path(__file__).with_name("peers") / "robosuite_door.py"
PUBLISHED = "robosuite"


class Candidate:
    """One of the things that are timed, with the process that does the work."""

    def __init__(
        self,
        process_id: int,
        reset: Callable[[], np.ndarray],
        step: Callable[[np.ndarray], np.ndarray],
        close: Callable[[], None],
    ) -> None:
        self.reset, self.step, self.close = reset, step, close
        self.resets, self.steps = Timing(), Timing()
        self._process = psutil.Process(process_id)

    def round(self) -> None:
        """Times one reset and `STEPS` steps."""
        self._time(self.resets, lambda: self.reset(), 1)
        actions = iter(play(STEPS))
        self._time(self.steps, lambda: self.step(next(actions)), STEPS)

    def _time(self, timing: Timing, work: Callable[[], object], repeats: int) -> None:
        cpu, wall = self._cpu_s(), time.perf_counter()
        for _ in range(repeats):
            work()
        timing.wall_ms.append((time.perf_counter() - wall) * 1e3 / repeats)
        timing.cpu_ms.append((self._cpu_s() - cpu) * 1e3 / repeats)

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


def play(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1.0, 1.0, (count, 7))


def make_settings(robot: str, difficulty: str, quality: str) -> EnvironmentSettings:
    return EnvironmentSettings(
        name=f"robosuite/door-{robot}", image_size=144, difficulty=difficulty, quality=quality
    )


def make_published(robot: str, difficulty: str) -> Candidate:
    settings = make_settings(robot, difficulty, "exact")
    seeds = np.random.SeedSequence([SEED, zlib.crc32(b"train")]).generate_state(2)
    arguments = {
        "messages": str(Path(robosuite_process.__file__).parent),
        "robot": robot.capitalize(),
        "task_seed": int(seeds[0]),
        "looks_seed": int(seeds[1]),
        "randomize": [] if difficulty == "none" else ["color", "camera"],
    }
    python, variables = robosuite.find_python(settings), robosuite._variables(settings)
    server = ServerProcess(python, PEER, arguments, variables)
    server.receive("start", robosuite.START_TIMEOUT_S)

    def reset() -> np.ndarray:
        return server.call("reset", timeout_s=60.0)["picture"]

    def step(action: np.ndarray) -> np.ndarray:
        return server.call("step", action, timeout_s=60.0)["picture"]

    return Candidate(server.process_id, reset, step, server.close)


def make_ours(robot: str, difficulty: str, quality: str) -> Candidate:
    environment = make_environment(make_settings(robot, difficulty, quality), SEED)
    assert isinstance(environment, RobosuiteEnvironment)
    return Candidate(
        environment.process_id,
        lambda: environment.reset().observation,
        lambda action: environment.step(action).observation,
        environment.close,
    )


def compare(candidates: dict[str, Candidate]) -> dict[str, float]:
    """Returns the mean distance of each one's pictures to robosuite's own; starts all alike."""
    pictures: dict[str, list[np.ndarray]] = {}
    for name, candidate in candidates.items():
        pictures[name] = []
        for _ in range(2):
            pictures[name].append(candidate.reset())
            pictures[name] += [candidate.step(action) for action in play(4)]
    published = np.array(pictures[PUBLISHED], int)
    return {name: float(np.abs(np.array(own) - published).mean()) for name, own in pictures.items()}


def measure(robot: str, difficulty: str, seconds: float) -> dict[str, dict]:
    candidates = {PUBLISHED: make_published(robot, difficulty)}
    candidates |= {quality: make_ours(robot, difficulty, quality) for quality in QUALITIES}
    differences = compare(candidates)
    rounds = interleave({name: one.round for name, one in candidates.items()}, seconds)
    published = candidates[PUBLISHED]
    figures = {}
    for name, candidate in candidates.items():
        step = ratios(published.steps, candidate.steps)
        figures[name] = {
            "step": candidate.steps.summary(),
            "reset": candidate.resets.summary(),
            "step_ratio": {clock: spread(values)["median"] for clock, values in step.items()},
            "reset_ratio": statistics.median(ratios(published.resets, candidate.resets)["cpu"]),
            "difference": differences[name],
            "rounds": rounds,
        }
        candidate.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robots", nargs="+", default=["panda", "jaco"])
    parser.add_argument("--difficulties", nargs="+", default=["none", "randomized"])
    parser.add_argument("--seconds", type=float, default=120.0, help="time for all measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    cells = list(product(options.robots, options.difficulties))
    print(
        "| robot | difficulty | | step CPU ms | wall ms | ratio | reset CPU ms | ratio | off by |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    figures = {}
    for robot, difficulty in cells:
        found = measure(robot, difficulty, options.seconds / len(cells))
        figures[f"{robot}/{difficulty}"] = found
        for name, row in found.items():
            step, reset = row["step"], row["reset"]["cpu_ms"]["median"]
            print(
                f"| {robot} | {difficulty} | {name} | {step['cpu_ms']['median']:.1f} | "
                f"{step['wall_ms']['median']:.1f} | {row['step_ratio']['cpu']:.2f} | {reset:.0f} | "
                f"{row['reset_ratio']:.2f} | {row['difference']:.3f} |",
                flush=True,
            )
    if options.json:
        named = {
            f"{cell.replace('/', '_')}_{name}": row["step_ratio"]["cpu"]
            for cell, rows in figures.items()
            for name, row in rows.items()
            if name != PUBLISHED
        }
        print(json.dumps({"machine": describe_machine(), "figures": figures, "ratios": named}))


if __name__ == "__main__":
    main()
