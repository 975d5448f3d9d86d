from __future__ import annotations

import numpy as np
import pytest

from replay import ReplayError, ReplayShard
from replay.ring import Ring, check_memory
from replay.table import EPISODES_REMEMBERED, Table
from tests.replay.episodes import SCHEMA, assert_windows_are_whole, chunk, episode


def stored(table: Table) -> list[tuple[int, int, int]]:
    return [(segment.episode, segment.start, segment.length) for segment in table]


def fill(table: Table, number: int, length: int, actor: str = "a") -> None:
    for part in episode(actor, number, length):
        table.insert(part)


def test_chunks_of_one_episode_join_and_read_back_as_written() -> None:
    table = Table(SCHEMA, 64)
    for part in episode("a", 3, 20):
        assert table.insert(part) == len(part)
    assert stored(table) == [(3, 0, 20)]
    batch = table.gather(np.array([0, 0]), np.array([0, 9]), 11)
    assert_windows_are_whole(batch)
    assert batch["reward"][0].tolist() == [0, 9]
    assert batch["observation"].shape == (11, 2, 4, 4, 3)
    assert batch["is_last"][-1].tolist() == [False, True]


def test_no_view_of_the_callers_arrays_is_kept() -> None:
    table = Table(SCHEMA, 64)
    part = chunk("a", 0, 0, 8)
    table.insert(part)
    for array in part.steps.values():
        array[...] = 99
    assert_windows_are_whole(table.gather(np.array([0]), np.array([0]), 8))


def test_a_repeated_chunk_changes_nothing_even_after_its_episode_was_removed() -> None:
    table = Table(SCHEMA, 32)
    parts = list(episode("a", 0, 16))
    for part in [*parts, *parts, parts[0]]:
        table.insert(part)
    assert stored(table) == [(0, 0, 16)]
    assert table.repeated_chunks == 3
    fill(table, 1, 16)
    fill(table, 2, 16)
    assert [number for number, _, _ in stored(table)] == [1, 2]
    assert table.insert(parts[0]) == 0
    assert table.inserted_agent_steps == 48


def test_an_overlapping_chunk_counts_as_a_repeat() -> None:
    table = Table(SCHEMA, 64)
    table.insert(chunk("a", 0, 0, 8))
    assert table.insert(chunk("a", 0, 4, 8)) == 0
    assert stored(table) == [(0, 0, 8)]


def test_repeats_are_told_even_for_episodes_too_old_to_be_remembered() -> None:
    table = Table(SCHEMA, 32)
    for number in range(EPISODES_REMEMBERED + 10):
        table.insert(chunk("a", number, 0, 1, last=True))
    assert table.insert(chunk("a", 2, 0, 1, last=True)) == 0
    assert table.insert(chunk("b", 2, 0, 1, last=True)) == 1


def test_a_missing_chunk_ends_the_segment_and_the_rest_stands_by_itself() -> None:
    table = Table(SCHEMA, 64)
    table.insert(chunk("a", 0, 0, 8))
    table.insert(chunk("a", 0, 16, 8))
    table.insert(chunk("a", 0, 24, 4, last=True))
    assert stored(table) == [(0, 0, 8), (0, 16, 12)]
    assert table.gaps == 1
    assert table.insert(chunk("a", 0, 8, 8)) == 0  # late: its place is behind us


def test_the_oldest_whole_episodes_leave_first() -> None:
    table = Table(SCHEMA, 50)
    for number, length in enumerate([20, 20, 20, 9, 9, 12]):
        fill(table, number, length)
        assert table.agent_steps <= 50
    assert stored(table) == [(2, 0, 20), (3, 0, 9), (4, 0, 9), (5, 0, 12)]
    assert table.removed_agent_steps == 40


def test_episodes_that_grow_side_by_side_never_fragment_the_ring() -> None:
    table = Table(SCHEMA, 100)
    generator = np.random.default_rng(0)
    open_episodes = {actor: [0, 0] for actor in "abcde"}
    for _ in range(2000):
        actor = "abcde"[generator.integers(5)]
        number, start = open_episodes[actor]
        length, last = int(generator.integers(1, 7)), bool(generator.random() < 0.3)
        table.insert(chunk(actor, number, start, length, last=last))
        open_episodes[actor] = [number + 1, 0] if last else [number, start + length]
        assert sum(length for _, _, length in stored(table)) == table.agent_steps <= 100
    slots = np.concatenate([segment.slots for segment in table])
    assert len(set(slots.tolist())) == table.agent_steps
    for segment in table:
        batch = table.gather(np.array([segment.ordinal]), np.array([0]), segment.length)
        assert_windows_are_whole(batch)
        assert batch["reward"][0, 0] == segment.start


def test_an_episode_longer_than_the_table_keeps_its_newest_part() -> None:
    table = Table(SCHEMA, 20)
    fill(table, 0, 50)
    assert table.agent_steps <= 20
    assert_windows_are_whole(table.gather(np.array([next(iter(table)).ordinal]), np.array([0]), 2))


def test_a_chunk_larger_than_the_table_names_the_settings_to_raise() -> None:
    with pytest.raises(ReplayError, match=r"replay\.capacity_agent_steps"):
        Table(SCHEMA, 4).insert(chunk("a", 0, 0, 5))


def test_a_ring_that_cannot_fit_the_machine_names_the_settings_to_lower() -> None:
    with pytest.raises(ReplayError, match=r"replay\.capacity_agent_steps.*replay\.bytes_per_shard"):
        Ring(SCHEMA, 2**48 // SCHEMA.bytes_per_step)
    check_memory(1)


def test_a_short_run_claims_only_the_memory_it_writes() -> None:
    shard = ReplayShard(SCHEMA, 1_000_000)
    for part in episode("a", 0, 100):
        shard.insert(part)
    assert shard.stats()["bytes_resident"] == 100 * SCHEMA.bytes_per_step
