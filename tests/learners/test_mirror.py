"""Replay mirrored on a device: equal batches, each step uploaded once, nothing torn kept."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from learners.feed import Batch, BatchFeed
from learners.mirror import ReplayMirror
from replay import ReplayError, ReplaySettings
from replay.memory import SharedMemory
from replay.ring import Ring, Rows, RowsDrawn
from replay.sink import ArraySink, Sink
from tests.replay.episodes import SCHEMA, chunk
from tests.replay.ring_owner import EPISODE_AGENT_STEPS
from tests.replay.table_model import SCHEMA as OWNER_SCHEMA
from tests.replay.test_memory import CAPACITY as OWNER_CAPACITY
from tests.replay.test_memory import Owner

CPU = torch.device("cpu")
CAPACITY, LENGTH, SEQUENCES = 40, 6, 4
SETTINGS = ReplaySettings(shards=1, capacity_agent_steps=CAPACITY, minimum_agent_steps=1)

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="this system has no memory to share"
)


def put(ring: Ring, ordinal: int, agent_steps: int = 10) -> None:
    ring.append(ordinal, chunk("a", ordinal, 0, agent_steps).steps)


def filled_ring() -> Ring:
    """Four episodes of 10 agent steps."""
    ring = Ring(SCHEMA, CAPACITY)
    for ordinal in range(4):
        put(ring, ordinal)
    return ring


def rows_of(ring: Ring) -> Rows:
    return Rows(SCHEMA, ring.capacity, ring.memory)


def empty(device: torch.device = CPU, sequences: int = SEQUENCES) -> Batch:
    arrays = SCHEMA.empty(LENGTH, sequences)
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def new_mirror(device: torch.device = CPU, settings: ReplaySettings = SETTINGS) -> ReplayMirror:
    return ReplayMirror(SCHEMA, settings, device, batch_agent_steps=LENGTH * SEQUENCES)


def draw(ring: Ring, seed: int) -> RowsDrawn:
    generator = np.random.default_rng(seed)
    ordinals = generator.integers(0, 4, SEQUENCES)
    return ring.locate(ordinals, generator.integers(0, 10 - LENGTH + 1, SEQUENCES), LENGTH)


def deliver(sink: Sink, rows: Rows, drawn: RowsDrawn, columns: np.ndarray | None = None) -> None:
    """What a reader does with windows that nobody overwrites."""
    columns = np.arange(drawn.slots.shape[1]) if columns is None else columns
    sink.gather(0, rows, drawn.slots, columns)
    sink.keep(rows.generations[drawn.slots[0]] == drawn.generations)


def assert_equal(batch: Batch, arrays: dict[str, np.ndarray]) -> None:
    assert batch.keys() == arrays.keys()
    for name, array in arrays.items():
        assert batch[name].numpy().tobytes() == array.tobytes(), name


def test_batches_equal_those_copied_from_the_ring_bit_for_bit() -> None:
    ring, mirror, batch = filled_ring(), new_mirror(), empty()
    arrays = SCHEMA.empty(LENGTH, SEQUENCES)
    for seed in range(20):
        for sink in (mirror.into(batch), ArraySink(arrays)):
            deliver(sink, rows_of(ring), draw(ring, seed))
        assert_equal(batch, arrays)


def test_a_step_is_uploaded_when_it_is_drawn_first_and_never_again() -> None:
    ring, mirror = filled_ring(), new_mirror()
    seen: set[int] = set()
    for seed in range(20):
        drawn = draw(ring, seed)
        deliver(mirror.into(empty()), rows_of(ring), drawn)
        seen |= set(drawn.slots.ravel().tolist())
        assert mirror.uploaded_agent_steps == len(seen)
    assert len(seen) == CAPACITY


def test_slots_that_were_written_again_are_uploaded_again_and_no_others() -> None:
    ring, mirror, batch = filled_ring(), new_mirror(), empty()
    ordinals, starts = np.arange(4), np.zeros(4, int)
    deliver(mirror.into(batch), rows_of(ring), ring.locate(ordinals, starts, LENGTH))
    ring.release(1)
    put(ring, 7)  # takes its slots
    ordinals[1] = 7
    deliver(mirror.into(batch), rows_of(ring), ring.locate(ordinals, starts, LENGTH))
    assert mirror.uploaded_agent_steps == 4 * LENGTH + LENGTH
    assert batch["action"][0, :, 0].tolist() == [0.0, 7.0, 2.0, 3.0]


def test_a_window_may_lie_in_slots_that_were_written_more_and_less_often() -> None:
    ring, mirror, batch = filled_ring(), new_mirror(), empty(sequences=1)
    ring.release(0)
    ring.release(1)
    put(ring, 4, agent_steps=5)
    ring.release(4)
    for ordinal in (5, 6):
        put(ring, ordinal)
    drawn = ring.locate(np.array([6]), np.array([2]), LENGTH)
    assert len(set(rows_of(ring).generations[drawn.slots[:, 0]].tolist())) == 2
    for _ in range(2):
        deliver(mirror.into(batch), rows_of(ring), drawn)
        assert batch["reward"][:, 0].tolist() == list(range(2, 8))
        assert mirror.uploaded_agent_steps == LENGTH


def test_an_episode_that_grows_is_uploaded_as_far_as_it_was_drawn() -> None:
    ring, mirror, batch = Ring(SCHEMA, CAPACITY), new_mirror(), empty(sequences=1)
    put(ring, 0)
    deliver(mirror.into(batch), rows_of(ring), ring.locate(np.array([0]), np.array([4]), LENGTH))
    ring.append(0, chunk("a", 0, 10, 4).steps)
    deliver(mirror.into(batch), rows_of(ring), ring.locate(np.array([0]), np.array([8]), LENGTH))
    assert batch["reward"][:, 0].tolist() == list(range(8, 14))
    assert mirror.uploaded_agent_steps == 10


def test_windows_overwritten_while_they_were_copied_are_not_kept() -> None:
    ring, mirror, batch = filled_ring(), new_mirror(), empty()
    rows = rows_of(ring)
    drawn = ring.locate(np.arange(4), np.zeros(4, int), LENGTH)
    sink = mirror.into(batch)
    sink.gather(0, rows, drawn.slots, np.arange(4))
    ring.release(0)
    ring.release(2)
    put(ring, 8)
    put(ring, 9)
    whole = rows.generations[drawn.slots[0]] == drawn.generations
    assert whole.tolist() == [False, True, False, True]
    sink.keep(whole)
    assert mirror.uploaded_agent_steps == 2 * LENGTH
    again = ring.locate(np.array([9, 8]), np.zeros(2, int), LENGTH)
    deliver(sink, rows, again, np.flatnonzero(~whole))
    assert batch["action"][:, :, 0].tolist() == [[9.0, 1.0, 8.0, 3.0]] * LENGTH
    assert mirror.uploaded_agent_steps == 4 * LENGTH


def test_where_all_windows_were_overwritten_nothing_is_kept() -> None:
    ring, mirror, batch = filled_ring(), new_mirror(), empty()
    before = {name: value.clone() for name, value in batch.items()}
    drawn = draw(ring, 0)
    sink = mirror.into(batch)
    sink.gather(0, rows_of(ring), drawn.slots, np.arange(SEQUENCES))
    sink.keep(np.zeros(SEQUENCES, bool))
    assert mirror.uploaded_agent_steps == 0
    assert_equal(batch, {name: value.numpy() for name, value in before.items()})
    deliver(sink, rows_of(ring), drawn)
    assert mirror.uploaded_agent_steps == len(np.unique(drawn.slots))


def test_columns_far_apart_are_filled_and_others_left_alone() -> None:
    ring, mirror, batch = filled_ring(), new_mirror(), empty(sequences=7)
    batch["action"][...] = -1.0
    drawn = ring.locate(np.arange(4), np.zeros(4, int), LENGTH)
    deliver(mirror.into(batch), rows_of(ring), drawn, np.array([0, 2, 3, 6]))
    assert batch["action"][0, :, 0].tolist() == [0.0, -1.0, 1.0, 2.0, -1.0, -1.0, 3.0]


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.process.kill()
    made.process.communicate()


def test_what_another_process_overwrites_meanwhile_is_never_served_torn(owner: Owner) -> None:
    """The mirror holds whole steps only, also those that were drawn again later."""
    settings = replace(SETTINGS, capacity_agent_steps=OWNER_CAPACITY)
    agent_steps = 6 * EPISODE_AGENT_STEPS
    mirror = ReplayMirror(OWNER_SCHEMA, settings, CPU, batch_agent_steps=agent_steps)
    arrays = OWNER_SCHEMA.empty(EPISODE_AGENT_STEPS, 6)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    rows = owner.rows()
    oldest, newest = owner.ask(f"put {OWNER_CAPACITY // EPISODE_AGENT_STEPS}")
    generator = np.random.default_rng(0)
    served = overwritten = drawn_steps = 0
    for number in range(300):
        ordinals = generator.integers(oldest, newest, 6)
        drawn = owner.ask("locate " + " ".join(map(str, ordinals)))
        owner.send(f"put {number % 5}")  # meanwhile
        sink = mirror.into(batch)
        sink.gather(0, rows, drawn.slots, np.arange(6))
        whole = rows.generations[drawn.slots[0]] == drawn.generations
        sink.keep(whole)
        for b in np.flatnonzero(whole).tolist():
            assert (arrays["observation"][:, b] == ordinals[b] % 251).all()
            assert (arrays["action"][:, b, 0] == ordinals[b]).all()
        served += int(whole.sum())
        overwritten += int((~whole).sum())
        drawn_steps += len(np.unique(drawn.slots[:, whole]))
        oldest, newest = owner.answer()
    assert served > 100 and overwritten > 0
    assert 0 < mirror.uploaded_agent_steps < drawn_steps


def test_a_ring_in_new_memory_is_mirrored_anew() -> None:
    mirror, batch = new_mirror(), empty()
    first = filled_ring()
    drawn = draw(first, 0)
    deliver(mirror.into(batch), rows_of(first), drawn)
    second = Ring(SCHEMA, CAPACITY)  # as of a shard that was started again: equal generations
    for ordinal in range(10, 14):
        put(second, ordinal)
    deliver(mirror.into(batch), rows_of(second), drawn)
    assert (batch["action"][..., 0] >= 10).all()
    assert mirror.uploaded_agent_steps == 2 * len(np.unique(drawn.slots))


def test_a_mirror_lets_a_rings_memory_go() -> None:
    mirror, ring = new_mirror(), filled_ring()
    deliver(mirror.into(empty()), rows_of(ring), draw(ring, 0))
    memory: weakref.ref[SharedMemory] = weakref.ref(ring.memory)
    del ring
    gc.collect()
    assert memory() is None


def test_steps_that_come_as_copies_are_uploaded_and_a_warning_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ring, mirror, batch = filled_ring(), new_mirror(), empty()
    arrays = SCHEMA.empty(LENGTH, SEQUENCES)
    for seed in range(3):
        copies = SCHEMA.empty(LENGTH, 2)
        rows_of(ring).gather(draw(ring, seed).slots[:, :2], copies)
        rest = draw(ring, seed + 10).slots[:, :2]
        for sink in (mirror.into(batch), ArraySink(arrays)):
            sink.copy(1, copies, np.array([1, 3]))
            sink.gather(0, rows_of(ring), rest, np.array([0, 2]))
            sink.keep(np.ones(2, bool))
        assert_equal(batch, arrays)
    assert mirror.uploaded_agent_steps >= 3 * 2 * LENGTH
    (record,) = caplog.records
    assert "shard 1 cannot be mapped" in record.getMessage()


def test_importance_weights_are_uploaded_between_batches() -> None:
    ring, mirror, batch = filled_ring(), new_mirror(), empty()
    arrays = SCHEMA.empty(LENGTH, SEQUENCES)
    weights, out = np.linspace(0, 1, SEQUENCES, dtype=np.float32), torch.empty(SEQUENCES)
    for seed in range(10):
        for sink in (mirror.into(batch), ArraySink(arrays)):
            deliver(sink, rows_of(ring), draw(ring, seed))
        mirror.upload(weights + seed, out)
        assert_equal(batch, arrays)
        np.testing.assert_array_equal(out.numpy(), weights + seed)


def test_a_feed_hands_out_mirrored_batches_in_order() -> None:
    ring, mirror = filled_ring(), new_mirror()
    seeds = iter(range(10**6))

    def read(batch: Batch, _: float) -> int:
        seed = next(seeds)
        deliver(mirror.into(batch), rows_of(ring), draw(ring, seed))
        return seed

    feed = BatchFeed(read, lambda: SCHEMA.empty(LENGTH, SEQUENCES), CPU, depth=2, on_device=True)
    arrays = SCHEMA.empty(LENGTH, SEQUENCES)
    for expected in range(30):
        batch, seed = feed.get(5.0)
        assert seed == expected
        deliver(ArraySink(arrays), rows_of(ring), draw(ring, seed))
        assert_equal(batch, arrays)
    feed.close()


def test_a_closed_mirror_holds_no_tensors() -> None:
    ring, mirror = filled_ring(), new_mirror()
    deliver(mirror.into(empty()), rows_of(ring), draw(ring, 0))
    (held,) = mirror._rings.values()
    observation = weakref.ref(held.steps["observation"])
    del held
    mirror.close()
    assert observation() is None


def test_a_mirror_that_does_not_fit_says_what_to_lower() -> None:
    settings = replace(SETTINGS, shards=3, capacity_agent_steps=10**12)
    with pytest.raises(ReplayError, match=r"GiB of memory can be used on device cpu.*capacity"):
        new_mirror(settings=settings)


def test_compressed_replay_is_refused() -> None:
    with pytest.raises(ReplayError, match=r"replay\.compression is zstd: set it to none"):
        new_mirror(settings=replace(SETTINGS, compression="zstd"))


@pytest.mark.gpu
def test_a_mirror_that_does_not_fit_a_gpu_says_what_to_lower() -> None:
    with pytest.raises(ReplayError, match=r"can be used on device cuda.*capacity"):
        new_mirror(torch.device("cuda"), replace(SETTINGS, capacity_agent_steps=10**12))


@pytest.mark.gpu
def test_on_a_gpu_updates_read_the_mirrored_batch_that_was_drawn_for_them() -> None:
    device = torch.device("cuda")
    ring, mirror = filled_ring(), new_mirror(device)
    drawn_episodes = iter(np.random.default_rng(0).integers(0, 4, (10**6, SEQUENCES)))
    written = 4

    def read(batch: Batch, _: float) -> list[float]:
        nonlocal written
        oldest = written - 4
        ordinals = oldest + next(drawn_episodes)
        starts = np.zeros(SEQUENCES, int)
        deliver(mirror.into(batch), rows_of(ring), ring.locate(ordinals, starts, LENGTH))
        ring.release(oldest)
        put(ring, written)
        written += 1
        return ordinals.tolist()

    feed = BatchFeed(read, lambda: SCHEMA.empty(LENGTH, SEQUENCES), device, depth=2, on_device=True)
    found = []
    for _ in range(60):
        batch, ordinals = feed.get(30.0)
        torch.cuda._sleep(10_000_000)  # the batch is read long after `get` has returned
        found.append((batch["action"][..., 0].clone(), ordinals))
    feed.close()
    for episodes, ordinals in found:
        assert episodes.tolist() == [[float(ordinal) for ordinal in ordinals]] * LENGTH
