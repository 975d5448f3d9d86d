"""What one agent step of an environment costs on this machine, in CPU milliseconds of one process.

    python benchmarks/environment_rate.py [--json] [--tasks ...] [--sizes 64 100] [--seconds 40]

Settings are measured in turn, round after round, until the time is up; medians are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from itertools import product

import numpy as np

from actors.environments.catalog import find, make_environment
from actors.environments.settings import EnvironmentSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tasks", nargs="+", default=["dcs/cartpole-swingup", "dcs/cheetah-run"], metavar="NAME"
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 100], metavar="PIXELS")
    parser.add_argument("--qualities", nargs="+", default=["fast", "paper"])
    parser.add_argument("--difficulties", nargs="+", default=["none", "medium"])
    parser.add_argument("--seconds", type=float, default=40.0, help="time for all measurements")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()

    cells = list(product(options.tasks, options.sizes, options.qualities, options.difficulties))
    environments = {
        (task, size, quality, difficulty): make_environment(
            EnvironmentSettings(name=task, image_size=size, quality=quality, difficulty=difficulty),
            seed=0,
        )
        for task, size, quality, difficulty in cells
    }
    steps: dict[tuple, list[float]] = {cell: [] for cell in cells}
    resets: dict[tuple, list[float]] = {cell: [] for cell in cells}
    generator = np.random.default_rng(0)
    for environment in environments.values():  # makes videos and contexts before the clock runs
        for _ in range(8):
            environment.reset()
    deadline = time.monotonic() + options.seconds
    while time.monotonic() < deadline:
        for cell, environment in environments.items():
            start = time.process_time()
            environment.reset()
            middle = time.process_time()
            for _ in range(10):
                environment.step(generator.uniform(-1, 1, environment.action_spec().shape))
            resets[cell].append((middle - start) * 1e3)
            steps[cell].append((time.process_time() - middle) * 1e2)

    figures = {}
    print("| task | action repeat | pixels | quality | difficulty | step ms | reset ms |")
    print("|---|---|---|---|---|---|---|")
    for cell in cells:
        task, size, quality, difficulty = cell
        step, reset = statistics.median(steps[cell]), statistics.median(resets[cell])
        figures["/".join(map(str, cell))] = {"step_ms": step, "reset_ms": reset}
        repeat = find(task).action_repeat
        print(
            f"| {task} | {repeat} | {size} | {quality} | {difficulty} | {step:.2f} | {reset:.2f} |"
        )
    ratios = {
        "distraction_cost": statistics.median(
            figures[f"{task}/{size}/{quality}/medium"]["step_ms"]
            / figures[f"{task}/{size}/{quality}/none"]["step_ms"]
            for task, size, quality in product(options.tasks, options.sizes, options.qualities)
        )
        if {"none", "medium"} <= set(options.difficulties)
        else None
    }
    if options.json:
        machine = {
            "cpu_count": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "gl": os.environ.get("MUJOCO_GL"),
        }
        print(json.dumps({"machine": machine, "figures": figures, "ratios": ratios}))


if __name__ == "__main__":
    main()
