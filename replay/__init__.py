"""Sharded replay of time-major sequences.

Exactly-once inserts, O(batch) sampling, a limiter of both sides, checked snapshots.

This package imports neither torch nor RLlib, and importing it does not import ray. Everything that
works in one process is exported here; `replay.service.ReplayService` (shards as Ray actors) and
`replay.writer`, `replay.reader` need ray.

    # in the driver
    service = ReplayService.create("replay", schema, settings, workload, seed=0)
    # in an actor
    writer = ReplayService.connect("replay").writer("actor-3", actor_index=3)
    writer.write(Chunk(ChunkKey("actor-3", episode, start), steps))
    # in a learner
    reader = ReplayService.connect("replay").reader()
    batch = reader.read()  # dict of (T, B, ...) arrays
"""

from replay.errors import ChunkError, ReplayError, ReplayTimeout, SnapshotError
from replay.limiter import Limiter
from replay.schema import Batch, Chunk, ChunkKey, Field, Schema, step_schema
from replay.seeds import seed_for
from replay.settings import ReplaySettings
from replay.shard import ReplayShard
from replay.workload import Workload

__all__ = [
    "Batch",
    "Chunk",
    "ChunkError",
    "ChunkKey",
    "Field",
    "Limiter",
    "ReplayError",
    "ReplaySettings",
    "ReplayShard",
    "ReplayTimeout",
    "Schema",
    "SnapshotError",
    "Workload",
    "seed_for",
    "step_schema",
]
