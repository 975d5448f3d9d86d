from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import ChunkError, Limiter, SnapshotError
from replay.resharding import Source, distributed, merged_table_state, part_of
from replay.ring import Ring
from replay.samplers import Window
from replay.shard import ReplayShard, Request
from replay.snapshot import read_manifest
from replay.table import EPISODES_REMEMBERED, Table
from tests.replay.episodes import SCHEMA, assert_windows_are_whole, chunk, episode

COUNTS = (
    "inserted_agent_steps",
    "sampled_agent_steps",
    "removed_agent_steps",
    "finished_episodes",
    "repeated_chunks",
    "gaps",
    "insert_waits",
    "sample_waits",
    "agent_steps",
    "skipped_agent_steps",
)


def new_shards(count: int, capacity: int = 1000, ratio: float = 4.0) -> list[ReplayShard]:
    return [
        ReplayShard(
            Ring(SCHEMA, capacity),
            sampler="prioritised",
            limiter=Limiter(ratio, -(-50 // count), 1e6),
            seed=index,
        )
        for index in range(count)
    ]


def saved(folder: Path, count: int) -> tuple[list[ReplayShard], tuple[str, ...]]:
    """Shards with episodes of all lengths, dealt out in turn, and where they were saved."""
    shards = new_shards(count)
    dice = np.random.default_rng(count)
    for number in range(24):
        shard = shards[number % count]
        for part in episode("a", number, int(dice.integers(1, 40))):
            shard.insert(part)
        shard.insert(chunk("a", number, 0, 1))  # a repeat
        if shard.table.agent_steps > 20:
            shard.sample(Request(Window(5), 1 + number % 3))
        shard.limiter.insert_waited(0.25)
    shards[0].insert(chunk("open", 0, 0, 3))
    for index, shard in enumerate(shards):
        for segment in shard.table:
            windows = Window(5).count(segment.length)
            if windows:
                shard.update_priorities(
                    Window(5),
                    np.full(windows, segment.ordinal),
                    np.arange(windows),
                    np.full(windows, segment.episode + 1.0),
                )
        shard.save(folder / f"shard-{index}")
    return shards, tuple(str(folder / f"shard-{index}") for index in range(count))


def loaded(parts: tuple[str, ...], count: int, **options: int) -> list[ReplayShard]:
    shards = new_shards(count, **options)
    for index, shard in enumerate(shards):
        shard.load(Source(parts, index, count))
    return shards


def episodes_of(shards: list[ReplayShard]) -> list[tuple[str, int, int, int]]:
    return sorted((s.actor, s.episode, s.start, s.length) for shard in shards for s in shard.table)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 4), (2, 1)])
def test_every_episode_and_every_count_is_kept_and_dealt_out_evenly(
    tmp_path: Path, before: int, after: int
) -> None:
    old, parts = saved(tmp_path, before)
    new = loaded(parts, after)
    assert episodes_of(new) == episodes_of(old)
    for name in COUNTS:
        assert sum(shard.stats()[name] for shard in new) == sum(s.stats()[name] for s in old), name
    assert sum(s.stats()["insert_wait_s"] for s in new) == pytest.approx(24 * 0.25)
    errors = [sum(s.limiter.error for s in shards) for shards in (new, old)]
    assert errors[0] == pytest.approx(errors[1])
    held = [shard.table.agent_steps for shard in new]
    assert max(held) - min(held) <= 40
    for shard in new:
        assert [s.ordinal for s in shard.table] == list(range(shard.table.segments))
        for origin in range(before):  # age order
            episodes = [s.episode for s in shard.table if s.episode % before == origin]
            assert [e for e in episodes if e] == sorted(e for e in episodes if e)
        batch = shard.sample(Request(Window(5), 8))
        assert batch is not None
        assert_windows_are_whole(batch)
        for number in range(24):  # every shard remembers what any had received
            assert shard.insert(chunk("a", number, 0, 1)).agent_steps == 0
    grown = [shard.insert(chunk("open", 0, 3, 4)).agent_steps for shard in new[:1]]
    assert grown == [4]


def test_priorities_follow_their_episodes(tmp_path: Path) -> None:
    _, parts = saved(tmp_path, 2)
    for shard in loaded(parts, 3):
        episodes = {segment.ordinal: segment.episode for segment in shard.table}
        draw = shard.redraw(Request(Window(5), 500))
        assert draw.probabilities is not None
        weights = np.array([(episodes[o] + 1.0) ** 0.6 for o in draw.ordinals.tolist()])
        np.testing.assert_allclose(draw.probabilities / weights * weights[0], draw.probabilities[0])


def test_the_same_snapshot_and_number_give_the_same_draws_and_shards_differ(
    tmp_path: Path,
) -> None:
    _, parts = saved(tmp_path, 2)
    one, two = loaded(parts, 3), loaded(parts, 3)
    draws = [shard.redraw(Request(Window(5), 30)).starts for shard in one]
    for shard, starts in zip(two, draws, strict=True):
        np.testing.assert_array_equal(shard.redraw(Request(Window(5), 30)).starts, starts)
    assert not np.array_equal(draws[0], draws[1])


def test_resharded_shards_save_and_load_with_identical_manifests(tmp_path: Path) -> None:
    _, parts = saved(tmp_path, 2)
    (shard,) = loaded(parts, 1)
    shard.save(tmp_path / "one")
    (again,) = new_shards(1)
    again.load(tmp_path / "one")
    again.save(tmp_path / "two")
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (
        tmp_path / "two" / "manifest.json"
    ).read_bytes()


def test_what_does_not_fit_leaves_oldest_first_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, parts = saved(tmp_path, 3)
    with caplog.at_level(logging.WARNING):
        (small,) = loaded(parts, 1, capacity=120)
    assert 80 < small.table.agent_steps <= 120
    assert "were left out" in caplog.text
    for origin in range(3):
        kept = [s.episode for s in small.table if s.actor == "a" and s.episode % 3 == origin]
        assert kept and kept == list(range(24 + origin - 3 * len(kept), 24, 3))
    assert small.stats()["inserted_agent_steps"] == sum(
        shard.stats()["inserted_agent_steps"] for shard in old
    )


def test_damage_in_one_shard_is_found_by_whoever_needs_the_file(tmp_path: Path) -> None:
    _, parts = saved(tmp_path, 2)
    name = read_manifest(parts[1]).content["blocks"][0][0]
    path = Path(parts[1]) / name
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(SnapshotError, match=name):
        loaded(parts, 1)
    (shard,) = new_shards(1)
    shard.load(Source(parts, 0, 1), damaged="skip")
    lost = sum(row[4] for row in read_manifest(parts[1]).content["segments"])
    assert shard.stats()["skipped_agent_steps"] == lost


def test_limits_set_at_run_time_stay_and_settings_that_changed_win(tmp_path: Path) -> None:
    shards, parts = saved(tmp_path, 2)
    error = sum(shard.limiter.error for shard in shards)
    assert error != 0
    for shard, part in zip(shards, parts, strict=True):
        shard.limiter.configure(samples_per_insert=2.0, minimum=30)
        shard.save(part)
    (same,) = loaded(parts, 1)
    assert (same.limiter.samples_per_insert, same.limiter.minimum) == (2.0, 60)
    (other,) = loaded(parts, 1, ratio=8)
    assert other.limiter.samples_per_insert == 8.0 and other.limiter.error == 0.0


@settings(deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.lists(st.integers(1, 50), max_size=12), min_size=1, max_size=4),
    count=st.integers(1, 5),
)
def test_segments_are_dealt_out_once_evenly_and_in_order(
    lengths: list[list[int]], count: int
) -> None:
    shares = distributed(lengths, count)
    dealt = [pair for share in shares for pair in share]
    assert sorted(dealt) == [(s, p) for s, shard in enumerate(lengths) for p in range(len(shard))]
    held = [sum(lengths[s][p] for s, p in share) for share in shares]
    assert max(held) - min(held) <= max((max(shard, default=0) for shard in lengths), default=0)
    for share in shares:
        for shard in range(len(lengths)):
            places = [place for s, place in share if s == shard]
            assert places == sorted(places)


@given(total=st.integers(0, 10**9), count=st.integers(1, 9))
@settings(deadline=None, derandomize=True)
def test_parts_of_a_count_are_counts_that_add_up(total: int, count: int) -> None:
    parts = [part_of(total, index, count) for index in range(count)]
    assert sum(parts) == total and max(parts) - min(parts) <= 1
    assert all(type(part) is int for part in parts)


def test_merged_memories_take_the_furthest_and_stay_bounded() -> None:
    tables = [Table(Ring(SCHEMA, 10)) for _ in range(2)]
    for number in range(EPISODES_REMEMBERED + 60):
        tables[number % 2].insert(chunk("a", number, 0, 2, last=True))
    tables[0].insert(chunk("b", 5, 0, 4))
    tables[1].insert(chunk("b", 5, 0, 2))
    state = json.loads(json.dumps(merged_table_state([t.state() for t in tables], 0, 1)))
    merged = Table(Ring(SCHEMA, 10))
    merged.restore_state(state | {"next_ordinal": 0})
    assert merged.is_repeat(chunk("a", 3, 2, 1).key)  # forgotten, and so received
    assert merged.is_repeat(chunk("a", 700, 1, 1).key)
    assert not merged.is_repeat(chunk("a", 700, 2, 1).key)
    assert merged.is_repeat(chunk("b", 5, 3, 1).key)
    assert not merged.is_repeat(chunk("b", 5, 4, 1).key)
    with pytest.raises(ChunkError, match=r"ended before with step 1 \(is_last\)"):
        merged.insert(chunk("a", 700, 2, 1))
    assert merged.insert(chunk("b", 5, 4, 1)) == 1
    assert len(state["received"]["a"]["next_start"]) == EPISODES_REMEMBERED
