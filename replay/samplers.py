"""Which windows make a batch, at a cost of O(batch x log episodes) whatever the table holds."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from replay.ranks import RankIndex
from replay.table import Segment, Table


class Sampler(Protocol):
    """Draws windows of one length from one table, and follows the table's changes."""

    @property
    def eligible(self) -> int:
        """Windows (or episodes) to choose from; 0 while nothing can be drawn."""

    def draw(self, generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` windows as (segment ordinals, start steps), int64 each. Needs `eligible > 0`."""

    def grown(self, segment: Segment) -> None:
        """See `table.Listener`."""

    def removed(self, segment: Segment) -> None:
        """See `table.Listener`."""


class UniformWindows:
    """Every window of `length` stored steps is equally likely; draws are independent."""

    def __init__(self, table: Table, length: int) -> None:
        """Indexes what the table holds and follows it from here on."""
        self._length = length
        self._ranks = RankIndex()  # an episode's weight is its number of windows
        for segment in table:
            self.grown(segment)
        table.listeners.append(self)

    @property
    def eligible(self) -> int:
        """The number of windows."""
        return self._ranks.total

    def draw(self, generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Sampler`."""
        return self._ranks.find(generator.integers(0, self._ranks.total, count))

    def grown(self, segment: Segment) -> None:
        """Counts the windows that the new steps complete."""
        self._ranks.set(segment.ordinal, max(0, segment.length - self._length + 1))

    def removed(self, segment: Segment) -> None:
        """Forgets the episode's windows."""
        self._ranks.remove_through(segment.ordinal)


class UniformEpisodes:
    """Every episode of at least `length` steps is equally likely, and within it every window: what
    CoRe's code does.

    With more episodes than asked for, no episode is drawn twice in one call; with fewer, they are
    drawn with replacement; with exactly as many, each comes once, in order. (Facts of the code: one
    window per episode and batch, so long episodes are not favoured.) With several shards "one call"
    is one shard's share of a batch; an episode lies on one shard only, so no episode repeats in the
    batch either.
    """

    def __init__(self, table: Table, length: int) -> None:
        """Indexes what the table holds and follows it from here on."""
        self._length = length
        self._table = table
        self._ranks = RankIndex()  # weight 1 for an episode that is long enough
        for segment in table:
            self.grown(segment)
        table.listeners.append(self)

    @property
    def eligible(self) -> int:
        """The number of episodes that are long enough."""
        return self._ranks.total

    def draw(self, generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Sampler`."""
        episodes = self._ranks.total
        if episodes > count:
            ranks = distinct(generator, episodes, count)
        elif episodes == count:
            ranks = np.arange(count)
        else:
            ranks = generator.integers(0, episodes, count)
        ordinals, _ = self._ranks.find(ranks)
        windows = (
            np.array([self._table.length_of(ordinal) for ordinal in ordinals.tolist()], np.int64)
            - self._length
            + 1
        )
        return ordinals, generator.integers(0, windows)

    def grown(self, segment: Segment) -> None:
        """Admits the episode once it is long enough."""
        self._ranks.set(segment.ordinal, int(segment.length >= self._length))

    def removed(self, segment: Segment) -> None:
        """Forgets the episode."""
        self._ranks.remove_through(segment.ordinal)


def distinct(generator: np.random.Generator, population: int, count: int) -> np.ndarray:
    """`count` different integers of [0, population), every set equally likely, in O(count) (R.
    Floyd's algorithm, 1987).
    """
    tops = np.arange(population - count, population)
    chosen: dict[int, None] = {}  # a set that keeps order, so that equal seeds give equal batches
    for top, pick in zip(tops.tolist(), generator.integers(0, tops + 1).tolist(), strict=True):
        chosen[top if pick in chosen else pick] = None
    return np.fromiter(chosen, np.int64, count)


SAMPLER_CLASSES: dict[str, type[UniformEpisodes] | type[UniformWindows]] = {
    "episodes": UniformEpisodes,
    "windows": UniformWindows,
}
