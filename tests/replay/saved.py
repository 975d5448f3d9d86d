"""Small shards to save, load and compare."""

from __future__ import annotations

import numpy as np

from replay import Limiter
from replay.ring import Ring
from replay.samplers import Window
from replay.shard import ReplayShard, Request
from replay.table import Store
from tests.replay.episodes import SCHEMA, assert_windows_are_whole, chunk, episode


def new_shard(
    capacity: int = 100, sampler: str = "episodes", store: Store | None = None, seed: int = 3
) -> ReplayShard:
    """An empty shard whose limiter lets everything pass."""
    limiter = Limiter(4.0, 10, 1e6)
    return ReplayShard(store or Ring(SCHEMA, capacity), sampler=sampler, limiter=limiter, seed=seed)


def filled(
    capacity: int = 100, sampler: str = "episodes", store: Store | None = None, seed: int = 3
) -> ReplayShard:
    """A shard that has received more than fits a capacity of 100: whole, open and broken-off
    episodes.
    """
    shard = new_shard(capacity, sampler, store, seed)
    for number in range(9):
        for part in episode("a", number, 17):
            shard.insert(part)
        shard.insert(chunk("b", number, 0, 6, last=number < 8))
    shard.insert(chunk("c", 0, 0, 3))
    shard.insert(chunk("c", 0, 5, 9))  # after a gap
    shard.sample(Request(Window(5), 4))
    return shard


def assert_equal_batches(one: ReplayShard, other: ReplayShard) -> None:
    """Both shards draw the same whole windows."""
    a, b = one.sample(Request(Window(5), 4)), other.sample(Request(Window(5), 4))
    assert a is not None and b is not None
    assert_windows_are_whole(a)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
