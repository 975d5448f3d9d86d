"""One shard of replay, in this process: table, samplers, limiter and random generator under one
roof.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from replay.cut import TableCut, TableRestore
from replay.limiter import Limiter
from replay.samplers import SAMPLER_CLASSES, Sampler
from replay.schema import Batch, Chunk, Schema
from replay.table import Table

SAMPLERS_KEPT = 4  # window lengths indexed at once


class Receipt(NamedTuple):
    """The answer to an insert. `held_back`: nothing was stored, offer the chunk again later. A
    repeat stores 0 agent steps.
    """

    held_back: bool
    agent_steps: int


class ReplayShard:
    """Stores chunks of episodes and gives batches of windows.

    It needs no Ray, never blocks, and is not thread-safe.

        shard = ReplayShard(schema, capacity=100_000)
        shard.insert(Chunk(ChunkKey("actor-0", episode, start), steps))
        batch = shard.sample(length=32, sequences=16)  # None: limiter or empty table, "not yet"
    """

    def __init__(
        self,
        schema: Schema,
        capacity: int,
        *,
        sampler: str = "episodes",
        limiter: Limiter | None = None,
        seed: int = 0,
    ) -> None:
        """`capacity` is in agent steps; without a limiter every stored window may be sampled at
        once.
        """
        self.schema = schema
        self.limiter = limiter or Limiter(None, 1, 0.0)
        self.table = Table(schema, capacity)
        self.waiting_samples = 0  # requests that wait for this shard; kept by its owner
        self._sampler_class = SAMPLER_CLASSES[sampler]
        self._samplers: OrderedDict[int, Sampler] = OrderedDict()
        self._generator = np.random.default_rng(seed)

    def insert(self, chunk: Chunk) -> Receipt:
        """Stores a chunk at most once. Only an episode's first chunk can be held back by the
        limiter.

        Raises `ChunkError` if the chunk does not fit the schema.
        """
        self.schema.validate(chunk)
        if self.table.is_repeat(chunk.key):
            return Receipt(False, self.table.insert(chunk))
        if chunk.key.start == 0 and not self.would_admit(len(chunk)):
            return Receipt(True, 0)
        stored = self.table.insert(chunk)
        self.limiter.inserted_steps(stored)
        return Receipt(False, stored)

    def would_admit(self, agent_steps: int) -> bool:
        """Whether an episode whose first chunk has `agent_steps` may begin. Never refused while a
        sample request waits here.
        """
        return self.waiting_samples > 0 or self.limiter.may_insert(agent_steps)

    def would_give(self, length: int, sequences: int) -> bool:
        """Whether `sample(length, sequences)` would give a batch now."""
        return (
            self.limiter.may_sample(length * sequences, self.table.agent_steps)
            and self._sampler(length).eligible > 0
        )

    def sample(self, length: int, sequences: int, out: Batch | None = None) -> Batch | None:
        """Draws `sequences` windows of `length` steps: arrays (T, B, ...) that the caller owns, or
        None if it has to wait.

        With `out` (arrays of exactly that shape, such as pinned memory) the steps are copied there.
        """
        if not self.would_give(length, sequences):
            return None
        ordinals, starts = self._sampler(length).draw(self._generator, sequences)
        batch = self.table.gather(ordinals, starts, length, out)
        self.limiter.sampled_steps(length * sequences)
        return batch

    def why_not(self, length: int, sequences: int) -> str | None:
        """What a sample has to wait for, as a sentence; None if it would be given."""
        stored, minimum = self.table.agent_steps, self.limiter.minimum
        if stored < minimum:
            return (
                f"holds {stored} of the {minimum} agent steps it needs at first: waits for actors"
            )
        if self._sampler(length).eligible == 0:
            return (
                f"holds no episode of {length} steps or more: waits for actors "
                "(or batch_length is above the episode length)"
            )
        if not self.limiter.may_sample(length * sequences, stored):
            ahead = length * sequences - self.limiter.band - self.limiter.error
            return (
                f"has a learner that is {ahead:.0f} sampled agent steps too far ahead of "
                "samples per insert: waits for actors"
            )
        return None

    def stats(self) -> dict[str, float]:
        """Counts since the beginning of the run (restored with a snapshot); plain numbers."""
        table, limiter = self.table, self.limiter
        step = self.schema.bytes_per_step
        return {
            "agent_steps": table.agent_steps,
            "episodes": table.segments,
            "finished_episodes": table.finished_episodes,
            "capacity_agent_steps": table.ring.capacity,
            "bytes_resident": table.ring.touched * step,
            "bytes_capacity": table.ring.capacity * step,
            "inserted_agent_steps": limiter.inserted,
            "sampled_agent_steps": limiter.sampled,
            "removed_agent_steps": table.removed_agent_steps,
            "repeated_chunks": table.repeated_chunks,
            "gaps": table.gaps,
            "limiter_error_agent_steps": limiter.error,
            "insert_waits": limiter.insert_waits,
            "insert_wait_s": limiter.insert_wait_s,
            "sample_waits": limiter.sample_waits,
            "sample_wait_s": limiter.sample_wait_s,
            "waiting_samples": self.waiting_samples,
            "samples_per_insert": limiter.sampled / max(1, limiter.inserted - limiter.minimum),
        }

    def cut(self, path: str | os.PathLike[str]) -> TableCut:
        """Begins to save this moment; the caller iterates it, commits it and closes it, and may use
        the shard in between.
        """
        generator = self._generator.bit_generator.state
        return TableCut(
            self.table, path, {"limiter": self.limiter.state_dict(), "generator": generator}
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves everything, the limiter's counts and the random state included, as the directory
        `path`.
        """
        cut = self.cut(path)
        try:
            for _ in cut:
                pass
            cut.commit()
        finally:
            cut.close()

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replaces everything by what `save` wrote. Raises `SnapshotError`, with this shard
        untouched, if that is damaged.
        """
        self.apply(TableRestore(path, self.schema))

    def apply(self, restore: TableRestore) -> None:
        """Puts a checked snapshot in place of what the shard holds."""
        restore.apply(self.table)
        self._samplers.clear()
        self.limiter.load_state_dict(restore.owner["limiter"])
        self._generator.bit_generator.state = restore.owner["generator"]

    def _sampler(self, length: int) -> Sampler:
        sampler = self._samplers.get(length)
        if sampler is None:
            sampler = self._samplers[length] = self._sampler_class(self.table, length)
            if len(self._samplers) > SAMPLERS_KEPT:
                _, oldest = self._samplers.popitem(last=False)
                self.table.listeners.remove(oldest)
        self._samplers.move_to_end(length)
        return sampler
