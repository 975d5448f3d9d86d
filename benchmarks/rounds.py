"""Timing several things in turn, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MIN_ROUNDS = 3


@dataclass
class Timing:
    """What one piece of work cost in each round, in milliseconds."""

    cpu_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)
    # CPU seconds so far of the process that does the work, all its threads; else of this one
    cpu_clock: Callable[[], float] = time.process_time

    def time(self, work: Callable[[], object], repeats: int = 1) -> None:
        """Does `work` a number of times and notes what one of them cost."""
        cpu, wall = self.cpu_clock(), time.perf_counter()
        for _ in range(repeats):
            work()
        self.wall_ms.append((time.perf_counter() - wall) * 1e3 / repeats)
        self.cpu_ms.append((self.cpu_clock() - cpu) * 1e3 / repeats)

    def summary(self) -> dict[str, dict[str, float]]:
        """Returns median and quartiles of both clocks."""
        return {"cpu_ms": spread(self.cpu_ms), "wall_ms": spread(self.wall_ms)}


class Candidate:
    """One of several environments that are compared: a reset, then agent steps, in every round.

    Args:
        reset: starts an episode.
        step: takes one agent step.
        action: gives the next action; the time that takes counts.
        agent_steps_per_round: how many are timed together.
        cpu_clock: CPU seconds so far of the process that simulates.

    Attributes:
        resets: what a reset cost.
        agent_steps: what an agent step cost.
    """

    def __init__(
        self,
        reset: Callable[[], object],
        step: Callable[[np.ndarray], object],
        action: Callable[[], np.ndarray],
        agent_steps_per_round: int,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.reset, self.step, self.action = reset, step, action
        self.agent_steps_per_round = agent_steps_per_round
        self.resets, self.agent_steps = Timing(cpu_clock=cpu_clock), Timing(cpu_clock=cpu_clock)

    def round(self) -> None:
        """Times one reset and this candidate's agent steps."""
        self.resets.time(self.reset)
        self.agent_steps.time(lambda: self.step(self.action()), self.agent_steps_per_round)

    def summary(self) -> dict[str, Any]:
        """Returns figures of both, and agent steps per second of CPU and of wall-clock time."""
        step = self.agent_steps.summary()
        return {
            "step": step,
            "reset": self.resets.summary(),
            "agent_steps_per_cpu_s": round(1e3 / step["cpu_ms"]["median"], 1),
            "agent_steps_per_s": round(1e3 / step["wall_ms"]["median"], 1),
        }


def interleave(rounds_of: Mapping[str, Callable[[], None]], seconds: float) -> int:
    """Runs every entry once per round until the time is up; at least `MIN_ROUNDS` rounds.

    Returns:
        The number of whole rounds.
    """
    deadline = time.monotonic() + seconds
    rounds = 0
    while rounds < MIN_ROUNDS or time.monotonic() < deadline:
        for work in rounds_of.values():
            work()
        rounds += 1
    return rounds


def ratios(slow: Timing, quick: Timing) -> dict[str, list[float]]:
    """Returns, round by round, how many times as long `slow` took as `quick`, by clock."""
    return {
        clock: [a / b for a, b in zip(getattr(slow, name), getattr(quick, name), strict=True)]
        for clock, name in (("cpu", "cpu_ms"), ("wall", "wall_ms"))
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median and quartiles, to four significant digits."""
    ordered = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values
    named = zip(("q1", "median", "q3"), list(ordered) * (3 // len(ordered)), strict=True)
    return {name: float(f"{value:.4g}") for name, value in named}
