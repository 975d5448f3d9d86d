"""What every replay table promises, as tests that an implementation inherits.

    class TestMyTable(TableContract):
        def make_table(self, schema: Schema, capacity: int) -> Table:
            return Table(MyStore(schema, ...))

Beside the tests written out here, random inserts of several actors are compared with a model: plain
lists of steps, which lose a segment when the table says that it removes one.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay import ChunkError, ReplayError, ReplayShard
from replay.schema import Batch, Chunk, ChunkKey, Field, Schema
from replay.table import EPISODES_REMEMBERED, Segment, Table
from tests.replay.episodes import assert_windows_are_whole, chunk, episode
from tests.replay.table_model import (
    INSERTS,
    SCHEMA,
    Insert,
    Model,
    assert_equal,
    noise_chunk,
    some_chunk,
)


def stored(table: Table) -> list[tuple[int, int, int]]:
    """Episode, first step and length of every segment, oldest first."""
    return [(segment.episode, segment.start, segment.length) for segment in table]


def fill(table: Table, number: int, length: int, actor: str = "a") -> None:
    for part in episode(actor, number, length, schema=SCHEMA):
        table.insert(part)


def fill_until_removal(table: Table, actor: str = "filler") -> None:
    """Inserts episodes of 24 steps until the oldest segment has left."""
    for number in range(100_000):
        if table.removed_agent_steps:
            return
        for part in (noise_chunk(actor, number, 8 * i, 8, last=i == 2) for i in range(3)):
            table.insert(part)
    raise AssertionError("Nothing was ever removed.")


def windows(table: Table, ordinal: int, start: int, length: int, count: int = 1) -> Batch:
    return table.gather(np.full(count, ordinal), np.full(count, start), length)


class TableContract:
    """Inherit it and say how the table is made."""

    def make_table(self, schema: Schema, capacity: int) -> Table:
        """An empty table with room for `capacity` agent steps that come in chunks of 8, and for
        not much more.
        """
        raise NotImplementedError

    # Insertion

    def test_chunks_of_one_episode_join_and_read_back_as_written(self) -> None:
        table = self.make_table(SCHEMA, 64)
        for part in episode("a", 3, 20, schema=SCHEMA):
            assert table.insert(part) == len(part)
        assert stored(table) == [(3, 0, 20)]
        assert table.finished_episodes == 1
        batch = table.gather(np.array([0, 0]), np.array([0, 9]), 11)
        assert_windows_are_whole(batch)
        assert batch["reward"][0].tolist() == [0, 9]
        assert batch["observation"].shape == (11, 2, 16, 16, 3)
        assert batch["is_last"][-1].tolist() == [False, True]

    @pytest.mark.parametrize("noisy", [False, True])
    def test_no_view_of_the_callers_arrays_is_kept(self, noisy: bool) -> None:
        table = self.make_table(SCHEMA, 64)
        part, untouched = (some_chunk("a", 0, 0, 8, noisy=noisy) for _ in range(2))
        table.insert(part)
        for array in part.steps.values():
            array[...] = 99
        assert_equal(table.read(0, 0, 8), dict(untouched.steps))

    @pytest.mark.parametrize("noisy", [False, True])
    def test_what_is_read_belongs_to_the_caller(self, noisy: bool) -> None:
        table = self.make_table(SCHEMA, 64)
        part = some_chunk("a", 0, 0, 8, noisy=noisy)
        table.insert(part)
        for batch in (table.read(0, 0, 8), windows(table, 0, 0, 8)):
            for array in batch.values():
                array[...] = 99
        assert_equal(table.read(0, 0, 8), dict(part.steps))

    def test_chunks_with_strides_of_their_own_are_stored_by_value(self) -> None:
        table = self.make_table(SCHEMA, 64)
        part = noise_chunk("a", 0, 0, 8)
        backwards = {name: array[::-1].copy()[::-1] for name, array in part.steps.items()}
        table.insert(Chunk(part.key, backwards))
        assert_equal(table.read(0, 0, 8), dict(part.steps))

    def test_steps_after_the_last_of_their_episode_are_refused_also_after_a_restore(self) -> None:
        table = self.make_table(SCHEMA, 64)
        fill(table, 0, 16)
        late = chunk("a", 0, 16, 8, schema=SCHEMA)
        restored = self.make_table(SCHEMA, 64)
        restored.restore_state(table.state())
        for each in (table, restored):
            with pytest.raises(ChunkError, match=r"ended before with step 15 \(is_last\)"):
                each.insert(late)
        assert stored(table) == [(0, 0, 16)] and table.gaps == 0

    def test_a_repeated_chunk_changes_nothing_even_after_its_episode_was_removed(self) -> None:
        table = self.make_table(SCHEMA, 64)
        parts = list(episode("a", 0, 16, schema=SCHEMA))
        for part in [*parts, *parts, parts[0]]:
            table.insert(part)
        assert stored(table) == [(0, 0, 16)]
        assert (table.repeated_chunks, table.inserted_agent_steps) == (3, 16)
        fill_until_removal(table)
        before = (stored(table), table.inserted_agent_steps, table.agent_steps)
        assert not table.has(0)
        assert [table.insert(part) for part in parts] == [0, 0]
        assert before == (stored(table), table.inserted_agent_steps, table.agent_steps)

    def test_an_overlapping_chunk_counts_as_a_repeat(self) -> None:
        table = self.make_table(SCHEMA, 64)
        table.insert(chunk("a", 0, 0, 8, schema=SCHEMA))
        assert table.insert(chunk("a", 0, 4, 8, schema=SCHEMA)) == 0
        assert stored(table) == [(0, 0, 8)]

    def test_repeats_are_told_even_for_episodes_too_old_to_be_remembered(self) -> None:
        table = self.make_table(SCHEMA, 32)
        for number in range(EPISODES_REMEMBERED + 10):
            table.insert(chunk("a", number, 0, 1, last=True, schema=SCHEMA))
        assert table.insert(chunk("a", 2, 0, 1, last=True, schema=SCHEMA)) == 0
        assert table.insert(chunk("b", 2, 0, 1, last=True, schema=SCHEMA)) == 1

    def test_a_missing_chunk_ends_the_segment_and_the_rest_stands_by_itself(self) -> None:
        table = self.make_table(SCHEMA, 64)
        table.insert(chunk("a", 0, 0, 8, schema=SCHEMA))
        table.insert(chunk("a", 0, 16, 8, schema=SCHEMA))
        table.insert(chunk("a", 0, 24, 4, last=True, schema=SCHEMA))
        assert stored(table) == [(0, 0, 8), (0, 16, 12)]
        assert table.gaps == 1
        assert table.insert(chunk("a", 0, 8, 8, schema=SCHEMA)) == 0  # late: its place is behind us
        assert_windows_are_whole(windows(table, 1, 0, 12))

    def test_an_episode_that_lost_its_beginning_is_stored_from_where_it_goes_on(self) -> None:
        table = self.make_table(SCHEMA, 64)
        assert table.insert(chunk("a", 0, 8, 8, schema=SCHEMA)) == 8
        assert stored(table) == [(0, 8, 8)]
        assert (table.gaps, table.insert(chunk("a", 0, 0, 8, schema=SCHEMA))) == (1, 0)

    def test_episodes_grow_side_by_side(self) -> None:
        table = self.make_table(SCHEMA, 200)
        parts = [list(episode(actor, i, 40, schema=SCHEMA)) for i, actor in enumerate("abcd")]
        for together in zip(*parts, strict=True):
            for part in together:
                table.insert(part)
        assert stored(table) == [(i, 0, 40) for i in range(4)]
        for ordinal in range(4):
            batch = windows(table, ordinal, 0, 40)
            assert_windows_are_whole(batch)
            assert (batch["action"][..., 0] == ordinal).all()

    @pytest.mark.parametrize(
        ("name", "wrong", "got"),
        [
            ("observation", np.zeros((8, 16, 16, 1), np.uint8), r"uint8 \(8, 16, 16, 1\)"),
            ("observation", np.zeros((8, 16, 16, 3), np.float32), r"float32 \(8, 16, 16, 3\)"),
            ("reward", np.zeros((7,), np.float32), r"float32 \(7,\)"),
            ("action", [[0.0, 0.0]] * 8, "list"),
        ],
    )
    def test_a_field_that_does_not_fit_is_named_with_what_was_expected_and_nothing_is_stored(
        self, name: str, wrong: object, got: str
    ) -> None:
        store = self.make_table(SCHEMA, 64).store
        shard = ReplayShard(store)
        part = chunk("a", 0, 0, 8, schema=SCHEMA)
        field = next(field for field in SCHEMA.fields if field.name == name)
        expected = rf"{field.dtype} \(8, .*\)|{field.dtype} \(8,\)"
        with pytest.raises(ChunkError, match=rf"'{name}' expected ({expected}), got .*{got}"):
            shard.insert(Chunk(part.key, {**part.steps, name: wrong}))  # type: ignore[dict-item]
        assert (store.agent_steps, shard.table.segments) == (0, 0)
        assert shard.insert(part).agent_steps == 8

    def test_a_missing_and_an_unknown_field_are_named(self) -> None:
        shard = ReplayShard(self.make_table(SCHEMA, 64).store)
        part = chunk("a", 0, 0, 8, schema=SCHEMA)
        without = {name: array for name, array in part.steps.items() if name != "reward"}
        with pytest.raises(ChunkError, match="reward"):
            shard.insert(Chunk(part.key, without))
        with pytest.raises(ChunkError, match="depth"):
            shard.insert(Chunk(part.key, {**part.steps, "depth": part.steps["reward"]}))

    def test_every_shape_and_dtype_of_a_schema_comes_back(self) -> None:
        fields = (
            Field("picture", (40, 40), "uint8"), Field("depth", (64,), "float64"),
            Field("nothing", (0,), "float32"), Field("code", (9, 2, 2), "int16"),
            Field("is_first", (), "bool"), Field("is_last", (), "bool"),
        )  # fmt: skip
        schema = Schema(fields)
        table = self.make_table(schema, 64)
        generator = np.random.default_rng(0)
        steps = {
            field.name: generator.integers(0, 100, (16, *field.shape)).astype(field.dtype)
            for field in fields
        }
        steps["picture"][...] = 3
        steps["is_first"][...] = np.arange(16) == 0
        steps["is_last"][...] = False
        table.insert(Chunk(ChunkKey("a", 0, 0), steps))
        assert_equal(table.read(0, 0, 16), steps)
        expected = {name: array[2:12, None] for name, array in steps.items()}
        assert_equal(windows(table, 0, 2, 10), expected)

    # Removal and its bound

    def test_room_is_made_for_what_the_table_was_made_for(self) -> None:
        table = self.make_table(SCHEMA, 96)
        for number in range(4):
            for start in (0, 8, 16):
                table.insert(noise_chunk("a", number, start, 8, last=start == 16))
        assert stored(table) == [(number, 0, 24) for number in range(4)]
        fill_until_removal(table)
        assert table.removed_agent_steps == 24

    def test_an_episode_longer_than_the_table_keeps_its_newest_part(self) -> None:
        table = self.make_table(SCHEMA, 24)
        for start in range(0, 4000, 8):
            assert table.insert(noise_chunk("a", 0, start, 8)) == 8
            assert table.store.bytes_resident <= table.store.bytes_capacity
        (segment,) = table
        assert segment.start + segment.length == 4000
        assert segment.length < 4000
        assert windows(table, segment.ordinal, segment.length - 1, 1)["reward"][0, 0] == 3999

    def test_a_chunk_larger_than_the_table_names_the_settings_to_raise_and_removes_nothing(
        self,
    ) -> None:
        table = self.make_table(SCHEMA, 16)
        fill(table, 0, 16)
        length = table.store.bytes_capacity // SCHEMA.bytes_per_step + 1
        with pytest.raises(ReplayError, match=r"replay\.capacity_agent_steps"):
            table.insert(noise_chunk("a", 1, 0, length))
        assert stored(table) == [(0, 0, 16)]
        fill(table, 1, 8)
        assert stored(table)[-1] == (1, 0, 8)

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
    )
    @given(INSERTS, st.integers(16, 80), st.integers(0, 2**32 - 1))
    def test_random_inserts_agree_with_a_list_of_steps_within_the_bytes(
        self, inserts: list[Insert], capacity: int, seed: int
    ) -> None:
        table = self.make_table(SCHEMA, capacity)
        model = Model(table)
        generator = np.random.default_rng(seed)
        episodes = dict.fromkeys("abc", 0)
        for actor, kind, length, last, noisy in inserts:
            number = episodes[actor]
            start = model.expected.get((actor, number), 0)
            if kind == "repeat" and start:
                start, last = 0, False
            elif kind == "gap":
                start += 3
            part = some_chunk(actor, number, start, length, last=last, noisy=noisy)
            model.insert(part)
            episodes[actor] += last
            assert 0 <= table.store.bytes_resident <= table.store.bytes_capacity
        model.compare(generator)

    def test_listeners_hear_of_growth_after_it_and_of_removal_before_it(self) -> None:
        heard: list[tuple[str, int, int]] = []

        class Listener:
            def grown(self, segment: Segment) -> None:
                newest = table.read(segment.ordinal, segment.length - 1, segment.length)
                assert newest["reward"][0] == segment.start + segment.length - 1
                heard.append(("grown", segment.ordinal, segment.length))

            def removed(self, segment: Segment) -> None:
                assert table.has(segment.ordinal)
                assert len(table.read(segment.ordinal, 0, segment.length)["reward"]) == 24
                heard.append(("removed", segment.ordinal, segment.length))

        table = self.make_table(SCHEMA, 48)
        table.listeners.append(Listener())
        fill_until_removal(table)
        grown = [entry for entry in heard if entry[0] == "grown"]
        ordinals = [ordinal for _, ordinal, _ in grown]
        assert ordinals == sorted(ordinals)
        assert grown[:4] == [("grown", 0, 8), ("grown", 0, 16), ("grown", 0, 24), ("grown", 1, 8)]
        assert [entry for entry in heard if entry[0] == "removed"] == [("removed", 0, 24)]
        at = heard.index(("removed", 0, 24))
        assert heard[at + 1][0] == "grown"  # by the chunk that needed the room

    # Reading

    def test_windows_land_in_the_callers_arrays(self) -> None:
        table = self.make_table(SCHEMA, 64)
        fill(table, 0, 20)
        fill(table, 1, 20)
        ordinals, starts = np.array([1, 0, 1]), np.array([4, 0, 10])
        out = SCHEMA.empty(10, 3)
        given_arrays = {name: id(array) for name, array in out.items()}
        batch = table.gather(ordinals, starts, 10, out)
        assert {name: id(array) for name, array in batch.items()} == given_arrays
        assert_equal(batch, table.gather(ordinals, starts, 10))
        assert_windows_are_whole(batch)

    def test_windows_land_in_part_of_a_larger_batch(self) -> None:
        table = self.make_table(SCHEMA, 64)
        fill(table, 0, 20)
        whole = {name: np.zeros_like(array) for name, array in SCHEMA.empty(10, 5).items()}
        part = {name: array[:, 2:4] for name, array in whole.items()}
        table.gather(np.array([0, 0]), np.array([3, 10]), 10, part)
        assert_windows_are_whole(part)
        for b in (0, 1, 4):
            assert not any(array[:, b].any() for array in whole.values())

    def test_windows_that_overlap_are_all_whole(self) -> None:
        table = self.make_table(SCHEMA, 64)
        fill(table, 0, 40)
        starts = np.arange(0, 29).repeat(2)
        batch = table.gather(np.zeros(len(starts), np.int64), starts, 12)
        assert_windows_are_whole(batch)
        assert batch["reward"][0].tolist() == starts.tolist()

    @pytest.mark.parametrize("start", [-1, 9, 19, 20, 1000])
    def test_a_window_beyond_its_segment_is_an_error_and_not_other_steps(self, start: int) -> None:
        table = self.make_table(SCHEMA, 64)
        fill(table, 0, 20)
        fill(table, 1, 20)
        with pytest.raises(IndexError, match="20"):
            table.gather(np.array([0]), np.array([start]), 12)

    def test_a_segment_that_is_gone_is_an_error(self) -> None:
        table = self.make_table(SCHEMA, 32)
        fill_until_removal(table)
        with pytest.raises(KeyError):
            windows(table, 0, 0, 8)
        with pytest.raises(KeyError):
            table.read(0, 0, 8)

    # Clearing and restoring

    def test_a_cleared_table_is_as_new(self) -> None:
        table = self.make_table(SCHEMA, 64)
        fill(table, 0, 20)
        table.listeners.append(Model(self.make_table(SCHEMA, 8)))
        table.clear()
        assert (stored(table), table.agent_steps, table.listeners) == ([], 0, [])
        assert (table.inserted_agent_steps, table.finished_episodes) == (0, 0)
        fill(table, 0, 20)
        assert stored(table) == [(0, 0, 20)]
        assert_windows_are_whole(windows(table, 0, 0, 20))
        fill_until_removal(table)

    def test_a_restored_table_goes_on_as_the_saved_one_would(self) -> None:
        table, copy = (self.make_table(SCHEMA, 96) for _ in range(2))
        fill(table, 0, 24)
        table.insert(noise_chunk("b", 0, 0, 8))
        table.insert(noise_chunk("b", 0, 16, 8))  # a gap: the last segment is open
        _restore(table, copy)
        assert copy.state() == table.state()
        for one in (table, copy):
            assert one.insert(noise_chunk("b", 0, 16, 8)) == 0
            assert one.insert(noise_chunk("b", 0, 24, 8, last=True)) == 8
            fill_until_removal(one)
        assert stored(copy) == stored(table)
        for segment in table:
            ordinal, length = segment.ordinal, segment.length
            assert_equal(copy.read(ordinal, 0, length), table.read(ordinal, 0, length))
        assert copy.state() == table.state()

    def test_a_smaller_table_restores_the_newest_segments(self) -> None:
        table, small = self.make_table(SCHEMA, 96), self.make_table(SCHEMA, 48)
        for number in range(4):
            for start in (0, 8, 16):
                table.insert(noise_chunk("a", number, start, 8, last=start == 16))
        _restore(table, small)
        kept = stored(small)
        assert kept == stored(table)[-len(kept) :]
        assert 2 <= len(kept) < 4
        assert small.store.bytes_resident <= small.store.bytes_capacity
        newest = list(small)[-1]
        assert_equal(small.read(newest.ordinal, 0, 24), table.read(newest.ordinal, 0, 24))
        assert small.insert(noise_chunk("a", 0, 0, 8)) == 0


def _restore(table: Table, other: Table) -> None:
    for segment in table:
        described = Segment(segment.ordinal, segment.actor, segment.episode, segment.start)
        described.finished = segment.finished
        other.restore_segment(described, table.read(segment.ordinal, 0, segment.length))
    other.restore_state(table.state())
