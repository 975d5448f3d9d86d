from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from replay import ReplayShard
from replay.ranks import RankIndex
from replay.samplers import UniformEpisodes, UniformWindows, distinct
from replay.table import Table
from tests.replay.episodes import SCHEMA, assert_windows_are_whole, chunk, episode


def table_of(*lengths: int, capacity: int = 1000) -> Table:
    table = Table(SCHEMA, capacity)
    for number, length in enumerate(lengths):
        for part in episode("a", number, length):
            table.insert(part)
    return table


def drawn(
    sampler: UniformEpisodes | UniformWindows, batches: int, count: int
) -> Counter[tuple[int, int]]:
    generator = np.random.default_rng(0)
    found: Counter[tuple[int, int]] = Counter()
    for _ in range(batches):
        ordinals, starts = sampler.draw(generator, count)
        found.update(zip(ordinals.tolist(), starts.tolist(), strict=True))
    return found


def test_a_rank_index_agrees_with_a_plain_list_under_random_changes() -> None:
    generator = np.random.default_rng(1)
    index, weights, head = RankIndex(), {}, 0
    for item in range(600):
        weights[item] = int(generator.integers(0, 5))
        index.set(item, weights[item])
        grown = int(generator.integers(head, item + 1))
        weights[grown] += 3
        index.set(grown, weights[grown])
        while len(weights) > 150 or (generator.random() < 0.3 and len(weights) > 1):
            index.remove_through(head)
            del weights[head]
            head += 1
        expected = [(i, r) for i in sorted(weights) for r in range(weights[i])]
        assert index.total == len(expected)
        items, rest = index.find(np.arange(index.total))
        assert list(zip(items.tolist(), rest.tolist(), strict=True)) == expected


def test_every_window_is_equally_likely_also_while_episodes_grow_and_leave() -> None:
    table = table_of(10, 4, 30, capacity=60)
    sampler = UniformWindows(table, 5)
    assert sampler.eligible == 6 + 0 + 26
    for part in list(episode("b", 0, 24))[:2]:  # a growing episode; the first leaves
        table.insert(part)
    table.insert(chunk("c", 0, 0, 8))
    windows = [(s.ordinal, start) for s in table for start in range(s.length - 4)]
    assert sampler.eligible == len(windows)
    found = drawn(sampler, 400, 100)
    assert set(found) == set(windows)
    expected = 40_000 / len(windows)
    assert sum((n - expected) ** 2 / expected for n in found.values()) < len(windows) + 5 * np.sqrt(
        2 * len(windows)
    )


def test_every_long_enough_episode_is_equally_likely_and_every_window_in_it() -> None:
    table = table_of(10, 4, 40, 5, 20)
    found = drawn(UniformEpisodes(table, 5), 4000, 2)
    by_episode: Counter[int] = Counter()
    for (ordinal, _), n in found.items():
        by_episode[ordinal] += n
    assert set(by_episode) == {0, 2, 3, 4}
    assert all(abs(n - 2000) < 200 for n in by_episode.values())
    assert {start for ordinal, start in found if ordinal == 0} == set(range(6))
    assert all(abs(found[0, start] - 2000 / 6) < 100 for start in range(6))


def test_no_episode_repeats_in_a_batch_when_there_are_more_than_asked_for() -> None:
    sampler = UniformEpisodes(table_of(*[8] * 20), 5)
    generator = np.random.default_rng(0)
    for _ in range(100):
        ordinals, _ = sampler.draw(generator, 19)
        assert len(set(ordinals.tolist())) == 19


def test_exactly_as_many_episodes_as_asked_for_come_once_each_in_order() -> None:
    ordinals, _ = UniformEpisodes(table_of(*[8] * 6), 5).draw(np.random.default_rng(0), 6)
    assert ordinals.tolist() == [0, 1, 2, 3, 4, 5]


def test_fewer_episodes_than_asked_for_are_drawn_with_replacement() -> None:
    ordinals, _ = UniformEpisodes(table_of(8, 8), 5).draw(np.random.default_rng(0), 30)
    assert set(ordinals.tolist()) == {0, 1}


def test_distinct_draws_every_subset_equally_often() -> None:
    generator = np.random.default_rng(0)
    found = Counter(frozenset(distinct(generator, 5, 2).tolist()) for _ in range(10_000))
    assert len(found) == 10
    assert all(abs(n - 1000) < 150 for n in found.values())


@pytest.mark.parametrize("sampler", ["episodes", "windows"])
def test_batches_are_whole_windows_and_equal_seeds_give_equal_batches(sampler: str) -> None:
    shards = [ReplayShard(SCHEMA, 80, sampler=sampler, seed=5) for _ in range(2)]
    for number in range(12):
        for part in episode("a", number, 11 + number):
            batches = []
            for shard in shards:
                shard.insert(part)
                batches.append(shard.sample(6, 4))
            if batches[0] is not None and batches[1] is not None:
                assert_windows_are_whole(batches[0])
                assert all((batches[0][name] == batches[1][name]).all() for name in batches[0])
    assert batches[0] is not None


def test_a_growing_episode_can_be_sampled_as_soon_as_a_window_is_stored() -> None:
    shard = ReplayShard(SCHEMA, 100)
    shard.insert(chunk("a", 0, 0, 7))
    assert shard.sample(8, 2) is None
    shard.insert(chunk("a", 0, 7, 1))
    assert shard.sample(8, 2) is not None


def test_no_window_crosses_a_gap() -> None:
    shard = ReplayShard(SCHEMA, 100, sampler="windows")
    shard.insert(chunk("a", 0, 0, 6))
    shard.insert(chunk("a", 0, 12, 6))
    assert shard.sample(7, 1) is None
    for _ in range(50):
        batch = shard.sample(6, 2)
        assert batch is not None
        assert_windows_are_whole(batch)


def test_a_batch_can_be_copied_into_given_arrays() -> None:
    shard = ReplayShard(SCHEMA, 100)
    for part in episode("a", 0, 20):
        shard.insert(part)
    out = SCHEMA.empty(6, 3)
    assert shard.sample(6, 3, out) is out
    assert_windows_are_whole(out)


def test_many_window_lengths_can_be_drawn_from_one_shard() -> None:
    shard = ReplayShard(SCHEMA, 60)
    for number in range(8):
        for part in episode("a", number, 20):
            shard.insert(part)
        for length in range(2, 12):
            batch = shard.sample(length, 2)
            assert batch is not None
            assert_windows_are_whole(batch)
    assert len(shard.table.listeners) <= 4
