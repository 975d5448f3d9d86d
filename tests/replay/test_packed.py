from __future__ import annotations

import gc
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import ReplayError
from replay.packed import BLOCK_AGENT_STEPS, PackedStore
from replay.schema import Batch, Schema, step_schema
from replay.table import Table
from tests.replay.episodes import chunk
from tests.replay.table_contract import TableContract, stored
from tests.replay.table_model import SCHEMA, assert_equal, noise_chunk

PICTURES = step_schema((64, 64, 3), 6)
KINDS = ("flat", "noise", "moving")


def pictures(kind: str, length: int, seed: int = 0) -> Batch:
    """Steps whose pictures zstd shrinks a lot, not at all, or a few times."""
    steps = dict(chunk("a", 0, 0, length, schema=PICTURES).steps)
    generator = np.random.default_rng(seed)
    shape = steps["observation"].shape
    if kind == "flat":
        steps["observation"] = np.full(shape, seed % 256, np.uint8)
    elif kind == "noise":
        steps["observation"] = generator.integers(0, 256, shape, np.uint8)
    else:
        texture = generator.integers(0, 256, (64, 64, 3), np.uint8)
        steps["observation"] = np.stack([np.roll(texture, t, axis=1) for t in range(length)])
    steps["action"] = generator.uniform(-1, 1, steps["action"].shape).astype(np.float32)
    return steps


def append(store: PackedStore, ordinal: int, steps: Batch) -> None:
    store.append(ordinal, store.prepare(steps, len(steps["is_last"])))


class TestWithinAgentSteps(TableContract):
    def make_table(self, schema: Schema, capacity: int) -> Table:
        roomy = 16 * (capacity + 64) * schema.bytes_per_step
        return Table(PackedStore(schema, roomy, capacity=capacity))

    def test_the_oldest_whole_episodes_leave_first(self) -> None:
        table = self.make_table(SCHEMA, 50)
        for number, length in enumerate([20, 20, 20, 9, 9, 12]):
            for start in range(0, length, 8):
                size = min(8, length - start)
                last = start + size == length
                table.insert(chunk("a", number, start, size, last=last, schema=SCHEMA))
                assert table.agent_steps <= 50
        assert stored(table) == [(2, 0, 20), (3, 0, 9), (4, 0, 9), (5, 0, 12)]


class TestWithinBytes(TableContract):
    """Noise fills it as it is; what can be compressed takes far more steps."""

    def make_table(self, schema: Schema, capacity: int) -> Table:
        a_chunk = 8 * schema.bytes_per_step + 600
        return Table(PackedStore(schema, -(-capacity // 8) * a_chunk + 8 * 512))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 8, 32])
def test_the_count_of_bytes_is_what_python_allocates(kind: str, length: int) -> None:
    store = PackedStore(PICTURES, 64 << 20)
    append(store, 10_000, pictures(kind, length))  # what the compressor keeps for itself
    store.clear()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for i in range(120):
            append(store, i // 6, pictures(kind, length, seed=i))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # An allocator's own headers, which the trace does not see, are counted: hence not exactly.
    assert taken <= store.bytes_resident
    slack = 120 * 8 * 16 + 20 * 512 + 120 * 32
    assert store.bytes_resident <= taken * 1.02 + slack


def test_bytes_come_back_when_segments_go() -> None:
    store = PackedStore(PICTURES, 64 << 20)
    for ordinal in range(5):
        append(store, ordinal, pictures("moving", 16, ordinal))
        append(store, ordinal, pictures("noise", 3, ordinal))
    assert store.agent_steps == 5 * 19
    full = store.bytes_resident
    store.release(2)
    assert store.agent_steps == 4 * 19
    assert store.bytes_resident == pytest.approx(full * 0.8, rel=0.1)
    store.release(2)  # gone already
    for ordinal in (0, 1, 3, 4):
        store.release(ordinal)
    assert (store.agent_steps, store.bytes_resident) == (0, 0)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 40), st.integers(0, 3)), max_size=40),
    st.integers(600_000, 2_000_000),
)
def test_the_bytes_are_never_passed(inserts: list[tuple[str, int, int]], nbytes: int) -> None:
    store = PackedStore(PICTURES, nbytes)
    oldest = 0
    for i, (kind, length, behind) in enumerate(inserts):
        prepared = store.prepare(pictures(kind, length, i), length)
        while not store.fits(prepared):
            store.release(oldest)
            oldest += 1
        store.append(max(oldest, i - behind), prepared)
        assert store.bytes_resident <= nbytes


def test_what_does_not_fit_is_refused_before_anything_changes() -> None:
    store = PackedStore(PICTURES, 400_000)
    steps = pictures("noise", 20)
    append(store, 0, steps)
    before = (store.agent_steps, store.bytes_resident)
    prepared = store.prepare(steps, 20)
    assert not store.fits(prepared)
    with pytest.raises(ReplayError, match=r"of 400000 bytes free .* no room for 20 of \d+ bytes"):
        store.append(0, prepared)
    assert before == (store.agent_steps, store.bytes_resident)
    assert_equal(store.read(0, 0, 20), steps)


def test_a_chunk_that_could_never_fit_says_how_large_it_is_compressed() -> None:
    store = PackedStore(PICTURES, 100_000)
    with pytest.raises(ReplayError, match=r"20 agent steps takes 24\d{4} bytes compressed"):
        store.prepare(pictures("noise", 20), 20)
    assert store.fits(store.prepare(pictures("flat", 20), 20))


def test_pictures_that_shrink_take_less_and_noise_takes_what_it_is() -> None:
    taken = {}
    for kind in KINDS:
        store = PackedStore(PICTURES, 64 << 20)
        append(store, 0, pictures(kind, 32))
        taken[kind] = store.bytes_resident / (32 * PICTURES.bytes_per_step)
    assert taken["flat"] < 0.05
    assert taken["moving"] < 0.5
    assert 1.0 < taken["noise"] < 1.02


def test_what_shrinks_less_than_the_ratio_is_kept_as_it_is() -> None:
    steps = pictures("noise", 16)
    steps["observation"] = steps["observation"] // 2  # 7 bits of 8
    raw = 16 * PICTURES.bytes_per_step
    strict, lenient = (PackedStore(PICTURES, 64 << 20, ratio=ratio) for ratio in (1.5, 1.05))
    for store in (strict, lenient):
        append(store, 0, steps)
        assert_equal(store.read(0, 0, 16), steps)
    assert strict.bytes_resident > raw
    assert lenient.bytes_resident < 0.95 * raw


def test_fields_of_one_chunk_are_judged_one_by_one() -> None:
    schema = step_schema((64, 64, 3), 2, views={"wrist": (64, 64, 3)})
    store = PackedStore(schema, 64 << 20)
    steps = {name: np.zeros_like(array) for name, array in schema.empty(16).items()}
    steps["wrist"] = pictures("noise", 16)["observation"]
    append(store, 0, steps)
    assert store.bytes_resident < 0.55 * 16 * schema.bytes_per_step
    assert_equal(store.read(0, 0, 16), steps)


def test_a_higher_level_shrinks_more() -> None:
    taken = []
    for level in (1, 12):
        store = PackedStore(PICTURES, 64 << 20, level=level)
        append(store, 0, pictures("moving", 32))
        taken.append(store.bytes_resident)
    assert taken[1] < taken[0]


class Counting:
    """A decompressor that counts."""

    def __init__(self, inner: object) -> None:
        self.inner, self.calls = inner, 0

    def decompress(self, blob: bytes) -> bytes:
        self.calls += 1
        return self.inner.decompress(blob)  # type: ignore[attr-defined]


def test_a_batch_decompresses_each_block_that_it_touches_once() -> None:
    store = PackedStore(PICTURES, 64 << 20)
    for ordinal in range(4):
        for i in range(8):
            append(store, ordinal, pictures("moving", 32, 100 * ordinal + i))
    store._decompressor = counting = Counting(store._decompressor)  # type: ignore[assignment]
    starts = np.array([0, 5, 40, 63, 64])  # blocks 0, 0-1, 1-2, 1-2, 2 of segment 1
    store.gather(np.ones(5, np.int64), starts, 20)
    assert counting.calls == 3
    counting.calls = 0
    store.read(3, 32, 64)
    assert counting.calls == 1


def test_long_chunks_are_cut_so_that_a_window_of_a_restored_episode_stays_cheap() -> None:
    store = PackedStore(PICTURES, 64 << 20)
    steps = pictures("moving", 500)
    append(store, 0, steps)
    store._decompressor = counting = Counting(store._decompressor)  # type: ignore[assignment]
    batch = store.gather(np.array([0]), np.array([250]), BLOCK_AGENT_STEPS)
    assert counting.calls <= 2
    assert_equal(batch, {name: a[250 : 250 + BLOCK_AGENT_STEPS, None] for name, a in steps.items()})


def test_what_a_batch_costs_does_not_grow_with_what_is_stored() -> None:
    store = PackedStore(PICTURES, 256 << 20)
    generator = np.random.default_rng(0)

    def median_s(segments: int) -> float:
        times = []
        for _ in range(15):
            ordinals = generator.integers(0, segments, 8)
            starts = generator.integers(0, 97, 8)
            begin = time.process_time()
            store.gather(ordinals, starts, 32)
            times.append(time.process_time() - begin)
        return sorted(times)[7]

    prepared = [store.prepare(pictures("moving", 128, i), 128) for i in range(4)]
    for ordinal in range(20):
        store.append(ordinal, prepared[ordinal % 4])
    few = median_s(20)
    for ordinal in range(20, 1500):
        store.append(ordinal, prepared[ordinal % 4])
    assert median_s(1500) < 2 * few


def test_chunks_of_uneven_lengths_are_found_by_their_steps() -> None:
    table = Table(PackedStore(SCHEMA, 64 << 20))
    lengths, start = [1, 7, 30, 2, 2, 45, 1, 12], 0
    parts = []
    for length in lengths:
        parts.append(noise_chunk("a", 0, start, length))
        table.insert(parts[-1])
        start += length
    whole = {name: np.concatenate([p.steps[name] for p in parts]) for name in parts[0].steps}
    for length in (1, 2, 33, 100):
        starts = np.arange(0, 100 - length + 1)
        batch = table.gather(np.zeros(len(starts), np.int64), starts, length)
        for b in starts:
            np.testing.assert_array_equal(
                batch["observation"][:, b], whole["observation"][b : b + length]
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nbytes": 0}, r"replay\.bytes_per_shard"),
        ({"nbytes": 10**6, "ratio": 1.0}, "ratio above 1, got 1"),
        ({"nbytes": 10**6, "ratio": float("nan")}, "ratio above 1, got nan"),
        ({"nbytes": 10**6, "level": 0}, "levels 1 to 22, got 0"),
        ({"nbytes": 10**6, "level": 23}, "levels 1 to 22, got 23"),
        ({"nbytes": 10**6, "capacity": 0}, r"replay\.capacity_agent_steps"),
        ({"nbytes": 2**50}, r"replay\.capacity_agent_steps.*replay\.bytes_per_shard"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options: dict[str, float], message: str) -> None:
    with pytest.raises(ReplayError, match=message):
        PackedStore(PICTURES, **options)  # type: ignore[arg-type]
