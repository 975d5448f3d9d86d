from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import ReplayError
from replay.ring import Ring, Rows
from replay.schema import Batch, Schema
from replay.table import Table
from tests.replay.episodes import assert_windows_are_whole, chunk
from tests.replay.table_contract import TableContract, fill, stored
from tests.replay.table_model import SCHEMA, assert_equal


def steps(seed: int, length: int) -> Batch:
    made = dict(chunk("a", seed, 0, length, schema=SCHEMA).steps)
    made["observation"] = np.random.default_rng(seed).integers(
        0, 256, made["observation"].shape, np.uint8
    )
    return made


def slots_of(ring: Ring, ordinal: int, length: int) -> list[int]:
    drawn = ring.locate(np.array([ordinal]), np.array([0]), length)
    return [int(slot) for slot in drawn.slots[:, 0]]


class TestRing(TableContract):
    def make_table(self, schema: Schema, capacity: int) -> Table:
        return Table(Ring(schema, capacity))

    def test_the_oldest_whole_episodes_leave_first(self) -> None:
        table = self.make_table(SCHEMA, 50)
        for number, length in enumerate([20, 20, 20, 9, 9, 12]):
            fill(table, number, length)
            assert table.agent_steps <= 50
        assert stored(table) == [(2, 0, 20), (3, 0, 9), (4, 0, 9), (5, 0, 12)]
        assert table.removed_agent_steps == 40


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 4)), max_size=60), st.integers(20, 50))
def test_slots_belong_to_one_step_each_however_episodes_come_and_go(
    appends: list[tuple[int, int]], capacity: int
) -> None:
    """Out of order, too: what leaves is not always what came first."""
    ring = Ring(SCHEMA, capacity)
    held: dict[int, list[Batch]] = {}
    for i, (length, choice) in enumerate(appends):
        made = steps(i, length)
        while not ring.fits(ring.prepare(made, length)):
            gone = sorted(held)[choice % len(held)]
            ring.release(gone)
            del held[gone]
        ordinal = sorted(held)[choice % len(held)] if held and i % 2 else i
        ring.append(ordinal, made)
        held.setdefault(ordinal, []).append(made)
    taken: list[int] = []
    for ordinal, parts in held.items():
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        length = len(whole["is_last"])
        assert_equal(ring.read(ordinal, 0, length), whole)
        taken += slots_of(ring, ordinal, length)
    assert len(set(taken)) == len(taken) == ring.agent_steps == capacity - ring.free_count
    assert all(0 <= slot < ring.touched for slot in taken)


def test_windows_across_the_end_of_the_memory_are_whole() -> None:
    ring = Ring(SCHEMA, 20)
    table = Table(ring)
    wrapped = 0
    for number in range(9):
        fill(table, number, 12)
        (segment,) = table
        slots = slots_of(ring, segment.ordinal, 12)
        wrapped += any(b < a for a, b in pairwise(slots))
        starts = np.array([0, 3, 5, 6])
        batch = table.gather(np.full(4, segment.ordinal), starts, 6)
        assert_windows_are_whole(batch)
        assert (batch["action"][..., 0] == number).all()
        assert batch["reward"][0].tolist() == starts.tolist()
    assert wrapped >= 3


def test_a_slot_gets_a_new_number_before_it_is_written_again() -> None:
    ring = Ring(SCHEMA, 16)
    ring.append(0, steps(0, 8))
    ring.append(1, steps(1, 8))
    drawn = ring.locate(np.array([0, 1]), np.array([2, 0]), 6)
    rows = Rows(SCHEMA, 16, ring.memory)
    assert (rows.generations[drawn.slots] == drawn.generations).all()
    ring.release(0)
    assert (rows.generations[drawn.slots[:, 0]] != drawn.generations[0]).all()
    assert (rows.generations[drawn.slots[:, 1]] == drawn.generations[1]).all()
    ring.append(2, steps(2, 8))
    again = ring.locate(np.array([2]), np.array([2]), 6)
    assert again.slots[:, 0].tolist() == drawn.slots[:, 0].tolist()
    assert again.generations[0] == drawn.generations[0] + 1


def test_clearing_gives_every_held_slot_a_new_number() -> None:
    ring = Ring(SCHEMA, 16)
    ring.append(0, steps(0, 12))
    drawn = ring.locate(np.array([0]), np.array([0]), 12)
    ring.clear()
    rows = Rows(SCHEMA, 16, ring.memory)
    assert (rows.generations[drawn.slots] != drawn.generations).all()
    assert (ring.agent_steps, ring.free_count) == (0, 16)
    ring.append(0, steps(1, 16))
    assert_equal(ring.read(0, 0, 16), steps(1, 16))


def test_a_reader_copies_the_same_steps_out_of_the_memory() -> None:
    ring = Ring(SCHEMA, 40)
    for ordinal in range(3):
        ring.append(ordinal, steps(ordinal, 12))
    ordinals, starts = np.array([2, 0, 1, 2]), np.array([0, 2, 3, 2])
    out = SCHEMA.empty(9, 4)
    Rows(SCHEMA, 40, ring.memory).gather(ring.locate(ordinals, starts, 9).slots, out)
    assert_equal(out, ring.gather(ordinals, starts, 9))


def test_an_append_beyond_the_free_slots_is_refused_and_changes_nothing() -> None:
    ring = Ring(SCHEMA, 16)
    ring.append(0, steps(0, 12))
    with pytest.raises(ReplayError, match="4 free slots, 5 are needed"):
        ring.append(1, steps(1, 5))
    assert ring.agent_steps == 12
    assert_equal(ring.read(0, 0, 12), steps(0, 12))


def test_giving_up_a_segment_twice_changes_nothing() -> None:
    ring = Ring(SCHEMA, 16)
    ring.append(0, steps(0, 12))
    ring.release(0)
    ring.release(0)
    ring.release(7)
    assert (ring.agent_steps, ring.free_count) == (0, 16)


def test_a_short_run_counts_only_the_memory_it_writes() -> None:
    ring = Ring(SCHEMA, 1_000_000)
    ring.append(0, steps(0, 100))
    assert 100 * SCHEMA.bytes_per_step <= ring.bytes_resident <= 110 * SCHEMA.bytes_per_step
    ring.clear()
    ring.append(1, steps(1, 50))
    assert ring.bytes_resident <= 110 * SCHEMA.bytes_per_step


@pytest.mark.parametrize("capacity", [0, -3])
def test_a_ring_without_slots_names_the_setting_to_raise(capacity: int) -> None:
    with pytest.raises(ReplayError, match=r"replay\.bytes_per_shard"):
        Ring(SCHEMA, capacity)
