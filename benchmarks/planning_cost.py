"""What choosing an action costs CVRL's actors, with and without planning.

    python -m benchmarks.planning_cost [--seconds 60] [--json]

At the sizes `tiny` and `paper`, on one thread, for 1, 4 and 16 environments that act together, in
turn and round after round within one process: the policy alone, and latent guided MPC with one and
with four gradient steps. Weights are those of the start: what they are does not change the work.
Milliseconds are medians over rounds; `per agent step` is a call divided by its environments, by the
wall clock and by CPU time, which says more on a machine with other work. The ratio of a way is the
median over rounds of (its CPU time / the policy's).
The last line with --json is one object of machine, figures and ratios.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.rounds import MIN_ROUNDS, Timing
from learners.cvrl import CVRLAgent
from rl_system.config import load_settings
from rl_system.machine import describe_machine, versions
from rl_system.policy import build_agent

ACTION_DIMS = 6
ENVIRONMENTS = (1, 4, 16)
SIZES = ("tiny", "paper")
WAYS = {
    "policy": ["behavior.mpc=false"],
    "one step": ["behavior.mpc_iterations=1"],
    "four steps": ["behavior.mpc_iterations=4"],
}
_CALLS = 5


def acting(size: str, way: str, environments: int) -> Callable[[], object]:
    """Return one call of an agent's `act`, in the middle of episodes, while data are collected."""
    settings = load_settings(f"cvrl/natural/walker-walk/{size}", WAYS[way])
    torch.manual_seed(0)
    agent = build_agent(settings, ACTION_DIMS)
    assert isinstance(agent, CVRLAgent)
    side = settings.environment.image_size
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (environments, side, side, 3), dtype=np.uint8)
    state, first = agent.initial_state(environments), np.zeros(environments, bool)
    return lambda: agent.act(pixels, state, first, explore=True)


def measure(seconds: float) -> dict[str, dict[str, Timing]]:
    """Return the timings of every case by size and environments, then by way."""
    cases: dict[str, dict[str, Callable[[], object]]] = {
        f"{size}, {count} environments": {way: acting(size, way, count) for way in WAYS}
        for size, count in itertools.product(SIZES, ENVIRONMENTS)
    }
    timings = {case: {way: Timing() for way in WAYS} for case in cases}
    for work in itertools.chain(*(ways.values() for ways in cases.values())):
        work()  # the first call loads libraries' kernels
    deadline, rounds = time.monotonic() + seconds, 0
    while rounds < MIN_ROUNDS or time.monotonic() < deadline:
        for case, ways in cases.items():
            for way, work in ways.items():
                timings[case][way].time(work, _CALLS)
        rounds += 1
    return timings


def figures(timings: dict[str, dict[str, Timing]]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the medians of every case, and how many times the policy's cost each way has."""
    numbers: dict[str, Any] = {}
    ratios = {}
    for case, ways in timings.items():
        count = int(case.split(", ")[1].split()[0])
        numbers[case] = {
            way: timing.summary()
            | {
                "wall_ms_per_agent_step": round(statistics.median(timing.wall_ms) / count, 3),
                "cpu_ms_per_agent_step": round(statistics.median(timing.cpu_ms) / count, 3),
            }
            for way, timing in ways.items()
        }
        for way, timing in ways.items():
            pairs = zip(timing.cpu_ms, ways["policy"].cpu_ms, strict=True)
            ratio = statistics.median(own / policy for own, policy in pairs)
            ratios[f"{case}, {way}"] = round(ratio, 3)
    return numbers, ratios


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="time to measure for (60)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(arguments)
    if not 0 < options.seconds < float("inf"):
        parser.error(f"--seconds {options.seconds}: give a number above 0.")
    torch.set_num_threads(1)
    numbers, ratios = figures(measure(options.seconds))
    print(f"{'ms per agent step':28}{'':12}{'wall':>10}{'CPU':>10}{'CPU, of the policy':>20}")
    for case, ways in numbers.items():
        for way, values in ways.items():
            wall, cpu = values["wall_ms_per_agent_step"], values["cpu_ms_per_agent_step"]
            print(f"{case:28}{way:12}{wall:10.2f}{cpu:10.2f}{ratios[f'{case}, {way}']:19.1f}x")
    if options.json:
        machine = describe_machine() | {"versions": versions()}
        print(json.dumps({"machine": machine, "figures": numbers, "ratios": ratios}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
