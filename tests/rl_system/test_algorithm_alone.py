"""The algorithm in a process where nobody started Ray."""

from __future__ import annotations

import ray

from rl_system.resources import required_cpus
from tests.rl_system.tiny_run import tiny_config


def test_ray_is_started_with_the_cpus_of_the_run_where_none_runs() -> None:
    assert not ray.is_initialized()
    config = tiny_config()
    algorithm = config.build_algo()
    try:
        assert ray.cluster_resources()["CPU"] >= required_cpus(config.resolved())
        assert algorithm.train()["metrics"]["agent_steps"] > 0
    finally:
        algorithm.stop()
        ray.shutdown()
