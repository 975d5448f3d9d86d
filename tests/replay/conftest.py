from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from replay import ReplaySettings, Workload
from replay.service import ReplayService
from tests.replay.episodes import SCHEMA

Make = Callable[..., ReplayService]


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    """A small Ray of this machine's own."""
    # No `runtime_env`: processes would then be started anew that Ray holds ready without.
    ray.init(
        address="local",
        num_cpus=8,
        object_store_memory=150 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture
def make(cluster: None, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes small services and stops them after the test."""
    made: list[ReplayService] = []

    def create(
        *, workload: Workload | None = None, seed: int = 0, **settings: Any
    ) -> ReplayService:
        small = {
            "shards": 2,
            "capacity_agent_steps": 400,
            "minimum_agent_steps": 2,
            "timeout_s": 30.0,
            "cpus_per_shard": 0.1,
        }
        chosen = ReplaySettings(**(small | settings))
        load = workload or Workload(batch_length=6, batch_size=4, chunk_length=8)
        service = ReplayService.create(
            f"{request.node.name}-{len(made)}", SCHEMA, chosen, load, seed=seed
        )
        made.append(service)
        return service

    yield create
    for service in made:
        service.stop()
