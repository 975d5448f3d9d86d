"""Episodes in a store: exactly-once insertion, removal of the oldest whole episodes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from replay.errors import ChunkError, ReplayError
from replay.schema import Batch, Chunk, ChunkKey, Schema

EPISODES_REMEMBERED = (
    1024  # per actor, for telling repeats; far above the episodes an actor has open at once
)
ACTORS_REMEMBERED = 4096


class Segment:
    """A gapless run of steps of one episode: normally the whole episode. `ordinal` counts segments
    in order of arrival.
    """

    __slots__ = ("actor", "episode", "finished", "length", "ordinal", "start")

    def __init__(self, ordinal: int, actor: str, episode: int, start: int, length: int = 0) -> None:
        """A segment whose first step is step `start` of the episode."""
        self.ordinal = ordinal
        self.actor = actor
        self.episode = episode
        self.start = start
        self.length = length
        self.finished = False


class Store(Protocol):
    """Where a table keeps the steps of its segments, within a number of bytes."""

    schema: Schema

    @property
    def agent_steps(self) -> int:
        """Steps stored now."""

    @property
    def bytes_resident(self) -> int:
        """Bytes that the steps take in memory."""

    @property
    def bytes_capacity(self) -> int:
        """Bytes that they can take at most."""

    def prepare(self, steps: Mapping[str, np.ndarray], length: int) -> Any:
        """Makes of (L, ...) arrays what `append` takes. Raises `ReplayError` if that would not even
        fit an empty store.
        """

    def fits(self, prepared: Any) -> bool:
        """Whether it can be appended now without passing `bytes_capacity`."""

    def append(self, ordinal: int, prepared: Any) -> None:
        """Copies the steps behind what segment `ordinal` holds."""

    def release(self, ordinal: int) -> None:
        """Gives up a segment."""

    def read(self, ordinal: int, begin: int, end: int) -> Batch:
        """Copies steps [begin, end) of a segment: (end - begin, ...) arrays."""

    def gather(
        self, ordinals: np.ndarray, starts: np.ndarray, length: int, out: Batch | None = None
    ) -> Batch:
        """Copies B windows of `length` steps: window b begins at step `starts[b]` of segment
        `ordinals[b]`. (T, B, ...) arrays, new or `out`.
        """

    def clear(self) -> None:
        """Gives up everything."""


class Listener(Protocol):
    """Told of every change of a table, in order."""

    def grown(self, segment: Segment) -> None:
        """Steps were appended to `segment` (or it was just begun)."""

    def removed(self, segment: Segment) -> None:
        """`segment`, the oldest, is about to go; its steps can still be read."""


class _Memory:
    """What was received from one actor: the step expected next, per recent episode."""

    def __init__(self) -> None:
        self.next_start: OrderedDict[int, int] = OrderedDict()
        self.ended: set[int] = set()  # those of them whose last step has come
        self.forgotten = -1  # every episode up to this number counts as received

    def expected(self, episode: int) -> int | None:
        """The first step of `episode` not received; None if the episode is too old to tell and
        counts as received.
        """
        if episode in self.next_start:
            return self.next_start[episode]
        return None if episode <= self.forgotten else 0

    def received(self, episode: int, end: int, is_last: bool) -> None:
        self.next_start[episode] = end
        if is_last:
            self.ended.add(episode)
        self.next_start.move_to_end(episode)
        while len(self.next_start) > EPISODES_REMEMBERED:
            oldest, _ = self.next_start.popitem(last=False)
            self.ended.discard(oldest)
            self.forgotten = max(self.forgotten, oldest)


class Table:
    """Segments of episodes, oldest first, whose steps a store keeps.

    Promises: a chunk is stored at most once, whatever is repeated, also after its episode was
    removed; steps of one segment are consecutive steps of one episode; a missing chunk ends a
    segment and begins another, so no window ever crosses a gap; when space is needed the oldest
    whole segments go, never a part of one; the stored steps never take more bytes than the store
    may.
    """

    def __init__(self, store: Store) -> None:
        """An empty table over an empty store, which nobody else may write to."""
        self.store = store
        self.schema = store.schema
        self.listeners: list[Listener] = []
        self.clear()

    def clear(self) -> None:
        """Forgets everything, counters included. Listeners are dropped: what they knew is gone."""
        self.store.clear()
        self.listeners.clear()
        self._segments: OrderedDict[int, Segment] = OrderedDict()
        self._open: dict[tuple[str, int], Segment] = {}
        self._memory: OrderedDict[str, _Memory] = OrderedDict()
        self._next_ordinal = 0
        self.inserted_agent_steps = 0
        self.removed_agent_steps = 0
        self.finished_episodes = 0  # ever received with their last step
        self.repeated_chunks = 0
        self.gaps = 0

    @property
    def agent_steps(self) -> int:
        """Agent steps stored now."""
        return self.store.agent_steps

    @property
    def segments(self) -> int:
        """Segments stored now; without gaps, episodes."""
        return len(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        """The stored segments, oldest first."""
        return iter(self._segments.values())

    def insert(self, chunk: Chunk) -> int:
        """Stores a validated chunk and returns the agent steps stored: its length, or 0 if it
        repeats what was received.

        Raises `ReplayError` if the chunk alone is larger than the table, `ChunkError` if its
        episode has ended.
        """
        actor, episode, start = chunk.key
        length = len(chunk)
        if self.is_repeat(chunk.key):
            self.repeated_chunks += 1
            return 0
        memory = self._recall(actor)
        if episode in memory.ended:
            raise ChunkError(
                f"chunk {tuple(chunk.key)}: its episode ended before with step "
                f"{memory.next_start[episode] - 1} (is_last). Count a new episode from 0 under the "
                "next number."
            )
        prepared = self.store.prepare(chunk.steps, length)
        while not self.store.fits(prepared):
            self._remove_oldest()
        if start != memory.expected(episode):
            self.gaps += 1
        # Absent if the episode's earlier part had to leave while it grew, ending elsewhere after a
        # gap: the rest stands by itself.
        segment = self._open.get((actor, episode))
        if segment is None or segment.start + segment.length != start:
            segment = self._begin(actor, episode, start)
        self.store.append(segment.ordinal, prepared)
        segment.length += length
        memory.received(episode, start + length, chunk.is_last)
        if chunk.is_last:
            segment.finished = True
            self.finished_episodes += 1
            del self._open[actor, episode]
        self.inserted_agent_steps += length
        for listener in self.listeners:
            listener.grown(segment)
        return length

    def is_repeat(self, key: ChunkKey) -> bool:
        """Whether the chunk, or a later one of its episode, was received before."""
        memory = self._memory.get(key.actor)
        if memory is None:
            return False
        expected = memory.expected(key.episode)
        return expected is None or key.start < expected

    def length_of(self, ordinal: int) -> int:
        """Steps stored of segment `ordinal`."""
        return self._segments[ordinal].length

    def has(self, ordinal: int) -> bool:
        """Whether segment `ordinal` is stored."""
        return ordinal in self._segments

    def read(self, ordinal: int, begin: int, end: int) -> Batch:
        """See `Store.read`."""
        return self.store.read(ordinal, begin, end)

    def gather(
        self, ordinals: np.ndarray, starts: np.ndarray, length: int, out: Batch | None = None
    ) -> Batch:
        """See `Store.gather`."""
        return self.store.gather(ordinals, starts, length, out)

    def state(self) -> dict[str, Any]:
        """Everything but the steps and the segments, as plain values."""
        return {
            "next_ordinal": self._next_ordinal,
            "inserted_agent_steps": self.inserted_agent_steps,
            "removed_agent_steps": self.removed_agent_steps,
            "finished_episodes": self.finished_episodes,
            "repeated_chunks": self.repeated_chunks,
            "gaps": self.gaps,
            "received": {
                actor: {
                    "forgotten": memory.forgotten,
                    "next_start": [list(pair) for pair in memory.next_start.items()],
                    "ended": sorted(memory.ended),
                }
                for actor, memory in self._memory.items()
            },
        }

    def restore_segment(self, described: Segment, steps: Batch) -> None:
        """Puts back a saved segment, in order of ordinals; if the table became smaller, the oldest
        leave as usual. `steps` are its (L, ...) arrays; its length is set to L.
        """
        described.length = len(steps["is_last"])
        try:
            prepared = self.store.prepare(steps, described.length)
        except ReplayError:  # it alone is larger than the table
            return
        while not self.store.fits(prepared):
            self._remove_oldest()
        self.store.append(described.ordinal, prepared)
        self._segments[described.ordinal] = described
        if not described.finished:
            self._open[described.actor, described.episode] = described

    def restore_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` returned, after the segments."""
        self._next_ordinal = state["next_ordinal"]
        self.inserted_agent_steps = state["inserted_agent_steps"]
        self.removed_agent_steps = state["removed_agent_steps"]
        self.finished_episodes = state["finished_episodes"]
        self.repeated_chunks = state["repeated_chunks"]
        self.gaps = state["gaps"]
        self._memory = OrderedDict()
        for actor, received in state["received"].items():
            memory = self._memory[actor] = _Memory()
            memory.forgotten = received["forgotten"]
            memory.next_start = OrderedDict(
                (episode, end) for episode, end in received["next_start"]
            )
            memory.ended = set(received["ended"])

    def _recall(self, actor: str) -> _Memory:
        memory = self._memory.setdefault(actor, _Memory())
        self._memory.move_to_end(actor)
        if len(self._memory) > ACTORS_REMEMBERED:
            self._memory.popitem(last=False)
        return memory

    def _begin(self, actor: str, episode: int, start: int) -> Segment:
        segment = Segment(self._next_ordinal, actor, episode, start)
        self._next_ordinal += 1
        self._segments[segment.ordinal] = self._open[actor, episode] = segment
        return segment

    def _remove_oldest(self) -> None:
        segment = next(iter(self._segments.values()))
        for listener in self.listeners:
            listener.removed(segment)
        del self._segments[segment.ordinal]
        if self._open.get((segment.actor, segment.episode)) is segment:
            del self._open[segment.actor, segment.episode]
        self.store.release(segment.ordinal)
        self.removed_agent_steps += segment.length
