"""An actor of the door opening task with robosuite inside it, and beside it, in one run.

    python benchmarks/robosuite_placement.py [--preset PRESET] [--seconds 120] [--json]

Needs the Python that `make robosuite` builds. Ray starts both on this machine as the Algorithm
would: one actor in robosuite's Python (`environment.robosuite_simulator=actor`), one in this Python
with a process of robosuite's (`process`). Each acts with the preset's own networks, untrained, in
rounds that take turns. CPU time and memory are those of an actor and its simulator together; memory
is what no file backs, since libraries are shared by all actors of a node. Ratios are medians over
rounds of the time of `process` over that of `actor`. The start ends with the first agent step.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from actors.environments.catalog import find, make_environment
from actors.environments.settings import ROBOSUITE_SIMULATORS
from actors.worker import stack_observations
from benchmarks.rounds import interleave, spread
from rl_system.cluster import WORKER_ENVIRONMENT
from rl_system.config import load_settings
from rl_system.machine import describe_machine
from rl_system.placement import acting_options
from rl_system.policy import build_agent
from rl_system.settings import Settings

AGENT_STEPS = 20  # per round
STORE_BYTES = 200 * 2**20


class Acting:
    """Steps one environment with one policy. Made into a Ray actor."""

    def __init__(self, settings: Settings) -> None:
        import torch

        torch.set_num_threads(1)
        self._environment: Any = make_environment(settings.environment, seed=3)
        self._agent = build_agent(settings, find(settings.environment.name).action_dims).eval()
        self._state = self._agent.initial_state(1)
        self._seen = self._environment.reset().observation
        self._is_first = np.ones(1, bool)
        numbers = {psutil.Process().pid, self._environment.process_id}
        self._processes = [psutil.Process(number) for number in numbers]

    def act(self, agent_steps: int) -> tuple[float, float]:
        """Returns wall-clock and CPU milliseconds of an agent step, resets included."""
        cpu, wall = self._cpu_s(), time.perf_counter()
        for _ in range(agent_steps):
            action, self._state = self._agent.act(
                stack_observations([self._seen]), self._state, self._is_first, explore=True
            )
            time_step = self._environment.step(action[0])
            self._seen, self._is_first = time_step.observation, np.array([time_step.first()])
        each = 1e3 / agent_steps
        return (time.perf_counter() - wall) * each, (self._cpu_s() - cpu) * each

    def memory_mib(self) -> float:
        """Returns the memory that is its own and no file's."""
        rollups = [Path(f"/proc/{one.pid}/smaps_rollup").read_text() for one in self._processes]
        sizes = [
            int(line.split()[1])
            for text in rollups
            for line in text.splitlines()
            if line.startswith("Anonymous:")
        ]
        return sum(sizes) / 1024  # the kernel writes KiB

    def _cpu_s(self) -> float:
        times = [one.cpu_times() for one in self._processes]
        return sum(one.user + one.system for one in times)


def measure(preset: str, seconds: float) -> dict[str, dict[str, Any]]:
    actors: dict[str, Any] = {}
    start_s = {}
    for kind in ROBOSUITE_SIMULATORS:
        settings = load_settings(preset, [f"environment.robosuite_simulator={kind}"])
        options = {"num_cpus": 0, "runtime_env": acting_options(settings.environment)}
        began = time.perf_counter()
        actors[kind] = ray.remote(**options)(Acting).remote(settings)
        ray.get(actors[kind].act.remote(1), timeout=300)
        start_s[kind] = time.perf_counter() - began
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in actors}

    def round_of(kind: str) -> None:
        times[kind].append(ray.get(actors[kind].act.remote(AGENT_STEPS), timeout=300))

    works = {kind: (lambda kind=kind: round_of(kind)) for kind in actors}
    rounds = interleave(works, seconds)
    figures: dict[str, Any] = {}
    for kind, actor in actors.items():
        wall_ms, cpu_ms = (spread(list(column)) for column in zip(*times[kind], strict=True))
        figures[kind] = {
            "wall_ms": wall_ms,
            "cpu_ms": cpu_ms,
            "agent_steps_per_s": round(1e3 / wall_ms["median"], 1),
            "memory_mib": round(ray.get(actor.memory_mib.remote(), timeout=60)),
            "start_s": round(start_s[kind], 1),
            "rounds": rounds,
        }
    pairs = list(zip(times["process"], times["actor"], strict=True))
    figures["process_over_actor"] = {
        name: spread([beside[column] / within[column] for beside, within in pairs])
        for column, name in enumerate(("wall", "cpu"))
    }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="core/door-panda/small")
    parser.add_argument("--seconds", type=float, default=120.0, help="time for the rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": WORKER_ENVIRONMENT},
    )
    try:
        figures = measure(options.preset, options.seconds)
    finally:
        ray.shutdown()
    print("| simulator in | agent steps/s | step, ms | CPU ms | memory, MiB | start, s |")
    print("|---|---|---|---|---|---|")
    for kind in ROBOSUITE_SIMULATORS:
        one = figures[kind]
        print(
            f"| {kind} | {one['agent_steps_per_s']} | {one['wall_ms']['median']} "
            f"| {one['cpu_ms']['median']} | {one['memory_mib']} | {one['start_s']} |"
        )
    ratios = figures["process_over_actor"]
    print(f"process over actor: wall {ratios['wall']}, CPU {ratios['cpu']}")
    if options.json:
        print(json.dumps({"machine": describe_machine(), "figures": figures}))


if __name__ == "__main__":
    main()
