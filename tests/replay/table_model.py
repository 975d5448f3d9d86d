"""A table as plain lists of steps, to compare a true one with, and random inserts for both."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from replay.schema import Batch, Chunk, step_schema
from replay.table import Segment, Table
from tests.replay.episodes import chunk

# Large enough that a chunk of 8 steps is worth compressing.
SCHEMA = step_schema((16, 16, 3), 2)


def noise_chunk(actor: str, number: int, start: int, length: int, *, last: bool = False) -> Chunk:
    """Steps of random pixels, the same whenever they are made."""
    made = chunk(actor, number, start, length, last=last, schema=SCHEMA)
    seed = [ord(actor[0]), number, start]
    pixels = np.random.default_rng(seed).integers(0, 256, made.steps["observation"].shape, np.uint8)
    made.steps["observation"][...] = pixels
    return made


def some_chunk(
    actor: str, number: int, start: int, length: int, *, last: bool = False, noisy: bool
) -> Chunk:
    """Steps that cannot be compressed, or that can."""
    if noisy:
        return noise_chunk(actor, number, start, length, last=last)
    return chunk(actor, number, start, length, last=last, schema=SCHEMA)


def assert_equal(got: Batch, expected: Batch) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        np.testing.assert_array_equal(got[name], array, err_msg=name)


class ModelSegment(NamedTuple):
    ordinal: int
    actor: str
    episode: int
    start: int
    steps: list[Batch]  # one entry a step

    def stacked(self, begin: int = 0, end: int | None = None) -> Batch:
        return {
            name: np.stack([step[name] for step in self.steps[begin:end]]) for name in self.steps[0]
        }


class Model:
    """A table as plain lists; a listener of the true one."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.segments: list[ModelSegment] = []
        self.expected: dict[tuple[str, int], int] = {}  # the next step, per episode
        self.open: dict[tuple[str, int], ModelSegment] = {}
        self.begun = self.stored_ever = 0
        self._offered: Chunk | None = None
        table.listeners.append(self)

    def insert(self, part: Chunk) -> None:
        """Inserts into both, and compares what the table answers."""
        actor, number, start = part.key
        repeat = start < self.expected.get((actor, number), 0)
        self._offered = None if repeat else part
        assert self.table.insert(part) == (0 if repeat else len(part))
        if repeat:
            return
        segment = self.open.get((actor, number))
        if segment is None or segment.start + len(segment.steps) != start:
            segment = ModelSegment(self.begun, actor, number, start, [])
            self.begun += 1
            self.segments.append(segment)
            self.open[actor, number] = segment
        for t in range(len(part)):
            segment.steps.append({name: array[t].copy() for name, array in part.steps.items()})
        self.expected[actor, number] = start + len(part)
        self.stored_ever += len(part)
        if part.is_last:
            del self.open[actor, number]

    def grown(self, segment: Segment) -> None:
        assert self._offered is not None and segment.episode == self._offered.key.episode

    def removed(self, segment: Segment) -> None:
        """The oldest leaves whole, readable to the end, and not while there is room."""
        assert self._offered is not None, "A repeat removed something."
        store, steps = self.table.store, self._offered.steps
        assert not store.fits(store.prepare(steps, len(self._offered)))
        oldest = self.segments.pop(0)
        assert segment.ordinal == oldest.ordinal
        assert_equal(self.table.read(oldest.ordinal, 0, segment.length), oldest.stacked())
        if self.open.get((oldest.actor, oldest.episode)) is oldest:
            del self.open[oldest.actor, oldest.episode]

    def compare(self, generator: np.random.Generator) -> None:
        """Compares segments, counts, whole reads and a batch of random windows."""
        assert [
            (segment.ordinal, segment.actor, segment.episode, segment.start, segment.length)
            for segment in self.table
        ] == [(s.ordinal, s.actor, s.episode, s.start, len(s.steps)) for s in self.segments]
        agent_steps = sum(len(segment.steps) for segment in self.segments)
        assert self.table.agent_steps == agent_steps
        assert self.table.inserted_agent_steps == self.stored_ever
        assert self.table.removed_agent_steps == self.stored_ever - agent_steps
        for segment in self.segments:
            assert self.table.has(segment.ordinal)
            assert self.table.length_of(segment.ordinal) == len(segment.steps)
            begin, end = sorted(generator.integers(0, len(segment.steps) + 1, 2).tolist())
            if begin < end:
                assert_equal(
                    self.table.read(segment.ordinal, begin, end), segment.stacked(begin, end)
                )
        length = int(generator.integers(1, 12))
        long_enough = [s for s in self.segments if len(s.steps) >= length]
        if not long_enough:
            return
        chosen = [long_enough[i] for i in generator.integers(0, len(long_enough), 5)]
        starts = np.array([generator.integers(0, len(s.steps) - length + 1) for s in chosen])
        batch = self.table.gather(np.array([s.ordinal for s in chosen]), starts, length)
        columns = [s.stacked(i, i + length) for s, i in zip(chosen, starts.tolist(), strict=True)]
        expected = {name: np.stack([c[name] for c in columns], 1) for name in columns[0]}
        assert_equal(batch, expected)


class Insert(NamedTuple):
    """One insert: what the actor does next in its episode."""

    actor: str
    kind: str  # next, repeat (from the episode's beginning), gap (some steps are lost)
    length: int
    last: bool
    noisy: bool


INSERTS = st.lists(
    st.builds(
        Insert,
        st.sampled_from("abc"),
        st.sampled_from(["next"] * 6 + ["repeat", "gap"]),
        st.integers(1, 12),
        st.sampled_from([False, False, False, True]),
        st.booleans(),
    ),
    min_size=1,
    max_size=60,
)
