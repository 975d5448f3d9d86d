"""A replay service over two Ray nodes with a shared folder: `python -m tests.replay.two_nodes DIR`.

Each shard is pinned to a node of its own; the service is saved twice, loaded, and a shard killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from replay import ReplayError, ReplaySettings, Workload
from replay.service import ReplayService
from tests.replay.episodes import SCHEMA, assert_windows_are_whole, episode

STORE = 100 * 2**20
ROOT = str(Path(__file__).parents[2])


def main(folder: Path) -> None:
    head = {"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2, object_store_memory=STORE)
    environment = {"env_vars": {"PYTHONPATH": ROOT}}
    ray.init(address=cluster.address, runtime_env=environment, log_to_driver=False)
    try:
        settings = ReplaySettings(  # a shard on every node
            capacity_agent_steps=1000, minimum_agent_steps=2, cpus_per_shard=0.5
        )
        service = ReplayService.create(
            "nodes",
            SCHEMA,
            settings,
            Workload(None, batch_length=6, batch_size=4, chunk_length=8),
            recovery_path=folder / "recovery",
        )
        where = [s.__ray_call__.remote(home) for s in service.shards]
        homes = set(ray.get(where, timeout=60))
        assert len(homes) == 2, homes
        exercise(service, folder / "snapshot")
        service.stop()
    finally:
        ray.shutdown()
        cluster.shutdown()


def home(_: object) -> str:
    return ray.get_runtime_context().get_node_id()


def exercise(service: ReplayService, path: Path) -> None:
    writer = service.writer("a")
    for number in range(6):
        for part in episode("a", number, 20):
            writer.write(part)
        if number == 3:
            writer.flush()
            service.save(path)
    writer.flush()
    service.save(path)
    service.load(path)
    os.kill(ray.get(service.shards[1].pid.remote()), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            shards = service.shard_stats()
        except ReplayError:
            continue
        if shards[1]["restarts"]:
            break
    assert [shard["agent_steps"] for shard in shards] == [60, 60], shards
    assert shards[1]["lost_agent_steps"] == 0
    reader = service.reader()
    assert_windows_are_whole(reader.read())
    reader.close()
    print("saved, loaded and recovered on two nodes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
