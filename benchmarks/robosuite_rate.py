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
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle, product
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from actors.environments import robosuite, robosuite_process
from actors.environments.catalog import make_environment
from actors.environments.robosuite import RobosuiteEnvironment
from actors.environments.server_process import ServerProcess
from actors.environments.settings import QUALITIES, EnvironmentSettings
from benchmarks.rounds import Candidate, interleave, ratios, spread
from rl_system.machine import describe_machine

SEED = 3
AGENT_STEPS = 10  # per round
PEER = Path(__file__).with_name("peers") / "robosuite_door.py"
PUBLISHED = "robosuite"


def play(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1.0, 1.0, (count, 7))


def make_settings(robot: str, difficulty: str, quality: str) -> EnvironmentSettings:
    return EnvironmentSettings(
        name=f"robosuite/door-{robot}", image_size=144, difficulty=difficulty, quality=quality
    )


def make_published(robot: str, difficulty: str, opened: ExitStack) -> Candidate:
    settings = make_settings(robot, difficulty, "exact")
    seeds = np.random.SeedSequence([SEED, zlib.crc32(b"train")]).generate_state(2)
    arguments = {
        "messages": str(Path(robosuite_process.__file__).parent),
        "robot": robot.capitalize(),
        "task_seed": int(seeds[0]),
        "looks_seed": int(seeds[1]),
        "randomize": [] if difficulty == "none" else ["color", "camera"],
    }
    variables = robosuite.list_variables(settings, robosuite.list_libraries(settings)[0])
    server = ServerProcess(robosuite.find_python(settings), PEER, arguments, variables)
    opened.callback(server.close)
    server.receive("start", robosuite.START_TIMEOUT_S)

    def reset() -> np.ndarray:
        return server.call("reset", timeout_s=60.0)["picture"]

    def step(action: np.ndarray) -> np.ndarray:
        return server.call("step", action, timeout_s=60.0)["picture"]

    return make_candidate(reset, step, server.process_id)


def make_ours(robot: str, difficulty: str, quality: str, opened: ExitStack) -> Candidate:
    environment = make_environment(make_settings(robot, difficulty, quality), SEED)
    assert isinstance(environment, RobosuiteEnvironment)
    opened.callback(environment.close)
    return make_candidate(
        lambda: environment.reset().observation,
        lambda action: environment.step(action).observation,
        environment.process_id,
    )


def make_candidate(
    reset: Callable[[], np.ndarray], step: Callable[[np.ndarray], np.ndarray], process_id: int
) -> Candidate:
    """Returns what is timed; every round plays the same actions."""
    process = psutil.Process(process_id)

    def cpu_clock() -> float:
        times = process.cpu_times()
        return times.user + times.system

    actions = cycle(play(AGENT_STEPS))
    return Candidate(reset, step, lambda: next(actions), AGENT_STEPS, cpu_clock)


def compare(candidates: dict[str, Candidate]) -> dict[str, float]:
    """Returns the mean distance of each one's pictures to robosuite's own; starts all alike."""
    pictures: dict[str, list[object]] = {}
    for name, candidate in candidates.items():
        pictures[name] = []
        for _ in range(2):
            pictures[name].append(candidate.reset())
            pictures[name] += [candidate.step(action) for action in play(4)]
    published = np.array(pictures[PUBLISHED], int)
    return {name: float(np.abs(np.array(own) - published).mean()) for name, own in pictures.items()}


def measure(robot: str, difficulty: str, seconds: float) -> dict[str, dict]:
    with ExitStack() as opened:
        candidates = {PUBLISHED: make_published(robot, difficulty, opened)}
        candidates |= {
            quality: make_ours(robot, difficulty, quality, opened) for quality in QUALITIES
        }
        differences = compare(candidates)
        rounds = interleave({name: one.round for name, one in candidates.items()}, seconds)
    published = candidates[PUBLISHED]
    figures = {}
    for name, candidate in candidates.items():
        step = ratios(published.agent_steps, candidate.agent_steps)
        figures[name] = {
            "step": candidate.agent_steps.summary(),
            "reset": candidate.resets.summary(),
            "step_ratio": {clock: spread(values)["median"] for clock, values in step.items()},
            "reset_ratio": statistics.median(ratios(published.resets, candidate.resets)["cpu"]),
            "difference": differences[name],
            "rounds": rounds,
        }
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
