"""Who will use the replay service and how much: what the limiter's band and the object store's size
follow from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from replay.errors import ReplayError
from replay.schema import Schema
from replay.settings import ReplaySettings


@dataclass(frozen=True)
class Workload:
    """The traffic of one run.

    `samples_per_insert` is updates per agent step x batch size x batch length (all readers
    together); None takes the limiter off.
    """

    samples_per_insert: float | None = None
    batch_length: int = 32  # T
    batch_size: int = 32  # B of one reader
    readers: int = 1  # learners that draw batches of this size
    writers: int = 1  # actors that write
    environments_per_writer: int = 1  # episodes that an actor has open at once
    chunk_length: int = 32  # agent steps of a chunk, the longest

    def __post_init__(self) -> None:
        """Refuses numbers that cannot work, by name."""
        counts = (
            "batch_length",
            "batch_size",
            "readers",
            "writers",
            "environments_per_writer",
            "chunk_length",
        )
        for name in counts:
            if (count := getattr(self, name)) < 1:
                raise ReplayError(f"{name} of a workload must be 1 or more, got {count}.")
        ratio = self.samples_per_insert
        if ratio is not None and not (math.isfinite(ratio) and ratio > 0):
            raise ReplayError(
                f"samples_per_insert must be a positive number or None (no limit), got {ratio}."
            )

    def band(self, settings: ReplaySettings) -> float:
        """The limiter's band of one shard, in sampled agent steps.

        The least band with which both sides can move in turn is half of one chunk's worth plus one
        batch share. The computed one leaves room for every request that the readers keep in flight
        and for one chunk of every open episode, so that prefetching is not throttled. Raises
        `ReplayError` if `replay.limiter_band_agent_steps` is below the least.
        """
        if self.samples_per_insert is None:
            return 0.0
        settings = settings.on_nodes(1)  # unless it says how many shards there are
        sample = -(-self.batch_size // settings.shards) * self.batch_length
        chunk = self.samples_per_insert * self.chunk_length
        if settings.limiter_band_agent_steps is None:
            episodes = -(-self.writers * self.environments_per_writer // settings.shards)
            return chunk * max(1, episodes) + sample * self.readers * settings.requests_in_flight
        band = settings.limiter_band_agent_steps * self.samples_per_insert
        if band < (chunk + sample) / 2:
            raise ReplayError(
                f"replay.limiter_band_agent_steps is {settings.limiter_band_agent_steps:g}; with "
                f"chunks of {self.chunk_length} agent steps and "
                f"{sample} sampled agent steps per batch and shard it must be at least "
                f"{(chunk + sample) / 2 / self.samples_per_insert:g}, or null (computed)."
            )
        return band

    def object_store_bytes(self, schema: Schema, settings: ReplaySettings, nodes: int = 1) -> int:
        """Bytes of the object store that frames in flight need on a cluster of `nodes` nodes.

        Between nodes all of them: every writer's chunks and every reader's batches, twice over. On
        one node chunks and batches go through memory that the processes share; only compressed
        steps come by value, and room for one batch of each reader is kept for processes that cannot
        reach a shard's memory.
        """
        in_flight = settings.requests_in_flight
        if nodes == 1 and settings.compression == "none":
            in_flight = 1
        agent_steps = self.readers * in_flight * self.batch_size * self.batch_length
        if nodes > 1:
            open_episodes = self.writers * self.environments_per_writer
            agent_steps += open_episodes * settings.chunks_in_flight * self.chunk_length
        return 2 * schema.bytes_per_step * agent_steps


def shares(sequences: int, shards: int, turn: int) -> list[int]:
    """Sequences that each of `shards` shards gives to a batch of `sequences`.

    They differ by one at most, and it is another shard's turn with each batch to give one more.
    """
    each, more = divmod(sequences, shards)
    return [each + ((shard - turn) % shards < more) for shard in range(shards)]
