"""What an agent step allocates, and what it costs, with and without memory of the caller's.

    python -m benchmarks.step_memory [--seconds 60] [--size 100] [--json]

For several ways to draw one task (cheetah-run), in turn and round after round within one process:
steps that give their observation in a new array, and steps of the same environment that write it
where the caller says (`observe_into`). Then `tracemalloc` counts the most bytes that Python and
NumPy hold at once in a step beyond what they held before it, the median of some steps. Memory that
C libraries take for themselves (Mesa, and Pillow while it resizes) is not counted.

The ratio of a way is the median over rounds of (time with a new array / time with given memory).
The last line with --json is one object of machine, figures and ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from actors.environments.catalog import find, make_environment
from actors.environments.settings import EnvironmentSettings
from benchmarks.rounds import Candidate, interleave, ratios, spread
from rl_system.machine import describe_machine, versions

TASK = "dcs/cheetah-run"
WAYS: dict[str, dict[str, Any]] = {
    "medium exact": {"difficulty": "medium", "quality": "exact"},
    "medium paper": {"difficulty": "medium"},
    "medium fast": {"difficulty": "medium", "quality": "fast"},
    "hard paper, blend 0.5": {"difficulty": "hard", "background_blend": 0.5},
    "clean paper": {"difficulty": "none"},
    "natural threshold": {"difficulty": "natural", "action_repeat": 4},
    "natural segmentation": {
        "difficulty": "natural",
        "natural_mask": "segmentation",
        "action_repeat": 4,
    },
}
SEED = 3
_WARM_AGENT_STEPS = 50
_COUNTED_AGENT_STEPS = 20


def count_bytes(step: Callable[[], object]) -> int:
    """Returns the most bytes that one call of `step` held at once, median of some calls."""
    peaks = []
    tracemalloc.start()
    try:
        for _ in range(_COUNTED_AGENT_STEPS):
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            step()
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    return int(statistics.median(peaks))


class _Way:
    """One environment, stepped both ways."""

    def __init__(self, size: int, settings: dict[str, Any]) -> None:
        environment = make_environment(EnvironmentSettings(TASK, image_size=size, **settings), SEED)
        memory = np.empty((size, size, 3), np.uint8)
        generator = np.random.default_rng(SEED)
        action_dims = find(TASK).action_dims

        def action() -> np.ndarray:
            return generator.uniform(-1.0, 1.0, action_dims)

        def step_into_memory(action: np.ndarray) -> None:
            environment.observe_into(memory)
            environment.step(action)

        self.close = environment.close
        self.new = Candidate(environment.reset, environment.step, action, 10)
        self.given = Candidate(environment.reset, step_into_memory, action, 10)
        environment.reset()
        for _ in range(_WARM_AGENT_STEPS):
            environment.step(action())

    def figures(self) -> dict[str, Any]:
        return {
            name: {
                "allocated_bytes": count_bytes(lambda c=candidate: c.step(c.action())),  # type: ignore
                "step": candidate.agent_steps.summary(),
            }
            for name, candidate in (("new", self.new), ("given", self.given))
        }


def measure(seconds: float, size: int) -> dict[str, Any]:
    """Measures every way; returns the object of machine, figures and ratios."""
    ways = {name: _Way(size, settings) for name, settings in WAYS.items()}
    rounds = interleave(
        {
            f"{name} {kind}": getattr(way, kind).round
            for name, way in ways.items()
            for kind in ("new", "given")
        },
        seconds,
    )
    figures: dict[str, Any] = {"task": TASK, "image_size": size, "rounds": rounds, "ways": {}}
    found = {}
    for name, way in ways.items():
        by_clock = ratios(way.new.agent_steps, way.given.agent_steps)
        figures["ways"][name] = way.figures() | {
            "new_over_given": {clock: spread(values) for clock, values in by_clock.items()}
        }
        found[name] = round(statistics.median(by_clock["cpu"]), 3)
        way.close()
    machine = describe_machine() | {"versions": versions()}
    return {"machine": machine, "figures": figures, "ratios": found}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for all rounds")
    parser.add_argument("--size", type=int, default=100, help="pixels of a picture's side")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args(arguments)
    result = measure(options.seconds, options.size)
    print("| way | bytes, new array | bytes, given memory | CPU ms, new | CPU ms, given | ratio |")
    print("|---|---|---|---|---|---|")
    for name, way in result["figures"]["ways"].items():
        kinds = [way[kind] for kind in ("new", "given")]
        held = " | ".join(f"{kind['allocated_bytes']:,}" for kind in kinds)
        cost = " | ".join(f"{kind['step']['cpu_ms']['median']:.3g}" for kind in kinds)
        ratio = way["new_over_given"]["cpu"]
        quartiles = f"{ratio['median']:.3f} ({ratio['q1']:.3f}-{ratio['q3']:.3f})"
        print(f"| {name} | {held} | {cost} | {quartiles} |")
    if options.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
