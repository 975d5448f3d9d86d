"""One environment's steps, cut into chunks and handed to replay."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from replay.errors import ReplayTimeout
from replay.schema import Chunk, ChunkKey, Schema


class ChunkStream:
    """Collects the steps of one environment into chunks of at most `chunk_agent_steps` agent steps.

    A chunk goes out when it is full and when its episode ends, so chunks of an episode follow each
    other without gaps. Its arrays are made anew for each chunk and belong to replay from then on:
    replay may still read them, so none is ever used again. Values may be written where they go
    (`memory`) before their step is appended.

    Args:
        write: Takes a chunk; raises `ReplayTimeout` when it may not go out yet. The chunk is then
            kept, `blocked` is set, and `retry` offers it again.
        schema: Fields of a step.
        actor: Name in the identity of the chunks; unique over all processes of a run, restarts too.
        chunk_agent_steps: Longest chunk.
    """

    def __init__(
        self, write: Callable[[Chunk], None], schema: Schema, actor: str, chunk_agent_steps: int
    ) -> None:
        self._write = write
        self._schema = schema
        self._actor = actor
        self._length = chunk_agent_steps
        self._episode = -1
        self._start = 0
        self._filled = 0
        self._arrays: dict[str, np.ndarray] = {}  # of the chunk that grows
        self._next_arrays: dict[str, np.ndarray] = {}  # of the one after it, if asked for early
        self._unsent: deque[Chunk] = deque()

    @property
    def blocked(self) -> bool:
        """Whether a chunk waits to be taken; no step may be appended then."""
        return bool(self._unsent)

    def begin(self, episode: int) -> None:
        """Starts episode number `episode`, new for this stream's actor name.

        Steps of an episode that did not end go out first, as a last chunk without `is_last`.
        """
        self._cut()
        self._episode, self._start = episode, 0

    def memory(self, ahead: int = 0) -> dict[str, np.ndarray]:
        """Returns where the values of a step will lie: an array of the field's shape for each.

        What is written there before its step is appended, and then appended, is not copied. It is
        lost if the episode ends or begins anew before that step.

        Args:
            ahead: 0 for the step that is appended next, 1 for the one after it.
        """
        row = self._filled + ahead
        if row < self._length:
            arrays = self._arrays = self._arrays or self._schema.empty(self._length)
        else:
            arrays = self._next_arrays = self._next_arrays or self._schema.empty(self._length)
            row -= self._length
        return {name: array[row, ...] for name, array in arrays.items()}

    def append(self, **step: Any) -> None:
        """Adds one step, a value for each field of the schema (see replay/schema.py).

        Raises:
            RuntimeError: no episode was begun, or the stream is blocked.
        """
        if self._episode < 0 or self.blocked:
            what = "is blocked: call retry" if self.blocked else "has no episode: call begin"
            raise RuntimeError(f"The stream of {self._actor} {what} first.")
        if not self._arrays:
            self._arrays = self._schema.empty(self._length)
        for name, array in self._arrays.items():
            array[self._filled] = step[name]  # nothing to do for what `memory` gave
        self._filled += 1
        if self._filled == self._length or step["is_last"]:
            self._cut()

    def retry(self) -> bool:
        """Offers what is blocked again; returns whether the stream is free now."""
        self._send()
        return not self.blocked

    def _cut(self) -> None:
        if not self._filled:
            return
        steps = {name: array[: self._filled] for name, array in self._arrays.items()}
        self._unsent.append(Chunk(ChunkKey(self._actor, self._episode, self._start), steps))
        self._start += self._filled
        self._filled, self._arrays, self._next_arrays = 0, self._next_arrays, {}
        self._send()

    def _send(self) -> None:
        while self._unsent:
            try:
                self._write(self._unsent[0])
            except ReplayTimeout:
                return
            self._unsent.popleft()
