"""Timing several things in turn, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

MIN_ROUNDS = 3


@dataclass
class Timing:
    """What one piece of work cost in each round, in milliseconds."""

    cpu_ms: list[float] = field(default_factory=list)  # of this process, all its threads
    wall_ms: list[float] = field(default_factory=list)

    def time(self, work: Callable[[], object], repeats: int = 1) -> None:
        """Does `work` a number of times and notes what one of them cost."""
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(repeats):
            work()
        self.wall_ms.append((time.perf_counter() - wall) * 1e3 / repeats)
        self.cpu_ms.append((time.process_time() - cpu) * 1e3 / repeats)

    def summary(self) -> dict[str, dict[str, float]]:
        """Returns median and quartiles of both clocks."""
        return {"cpu_ms": spread(self.cpu_ms), "wall_ms": spread(self.wall_ms)}


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
