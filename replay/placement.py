"""Where shards run, under which names, and whether there is room for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from replay.errors import ReplayError
from replay.memory import check_memory
from replay.schema import Schema
from replay.settings import ReplaySettings
from replay.workload import Workload

NAMESPACE = "replay"  # of the shards' names, so that every job of the cluster can find them
CONCURRENT_CALLS = 10_000  # calls that may wait in a shard at once; waiting costs it nothing


def shard_name(prefix: str, index: int) -> str:
    """The Ray actor name of a shard."""
    return f"{prefix}/shard-{index}"


def alive_nodes() -> list[str]:
    """The ids of the cluster's nodes, always in the same order."""
    return sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])


def check_name(prefix: str) -> None:
    """Raises `ReplayError` if a service of this name is running."""
    try:
        ray.get_actor(shard_name(prefix, 0), NAMESPACE)
    except ValueError:
        return
    raise ReplayError(
        f"A replay service named {prefix!r} is running already: stop it or choose another prefix."
    )


def check_settings(
    schema: Schema,
    settings: ReplaySettings,
    workload: Workload,
    nodes: Sequence[str],
    node_ids: Sequence[str] | None,
) -> None:
    """Raises `ReplayError` if shards of `settings` cannot work on a cluster of `nodes`."""
    workload.band(settings)
    nbytes = settings.shard_bytes(schema.bytes_per_step)
    capacity = settings.shard_capacity_agent_steps(schema.bytes_per_step)
    longest = max(workload.chunk_length, workload.batch_length)
    if longest > capacity:
        raise ReplayError(
            f"A shard holds {capacity} agent steps, but a chunk has up to {workload.chunk_length} "
            f"and a window {workload.batch_length}: raise replay.capacity_agent_steps or "
            "replay.bytes_per_shard, or use fewer shards."
        )
    _check_object_store(workload.object_store_bytes(schema, settings, len(nodes)))
    if len(nodes) == 1:
        check_memory(settings.shards * nbytes, "The arrays of all replay shards")
    if node_ids is not None and len(node_ids) != settings.shards:
        raise ReplayError(f"{len(node_ids)} node_ids were given for {settings.shards} shards.")


def shard_options(
    prefix: str, index: int, node: str, settings: ReplaySettings, reserved: bool
) -> dict[str, Any]:
    """Ray's options of shard `index` on `node`; `reserved`: somebody else reserves its CPUs."""
    return {
        "name": shard_name(prefix, index),
        "namespace": NAMESPACE,
        "num_cpus": 0 if reserved else settings.cpus_per_shard,
        # Soft: if its node is lost or full, the shard is started elsewhere.
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True),
        "max_restarts": -1,
        "max_task_retries": -1,  # every call may be repeated, see ShardServer
        "max_concurrency": CONCURRENT_CALLS,
        # Ray's record of every call: it costs time, and memory that grows with every insert.
        "enable_task_events": False,
    }


def _check_object_store(needed: int) -> None:
    present = int(ray.cluster_resources().get("object_store_memory", 0))
    if needed > present:
        raise ReplayError(
            f"Frames in flight need about {needed / 2**20:.0f} MiB of Ray's object store, which "
            f"has {present / 2**20:.0f} MiB. Start Ray "
            "with a larger object_store_memory (and /dev/shm: docker run --shm-size), or lower "
            "replay.requests_in_flight, "
            "replay.chunks_in_flight, the batch, or the number of actors."
        )
