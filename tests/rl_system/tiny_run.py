"""The smallest run that has every part: for tests on a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rl_system.algorithm import CoRe, CoReConfig

TINY: dict[str, dict[str, Any]] = {
    "environment": {"name": "dcs/cartpole-swingup", "image_size": 28, "quality": "fast"},
    "actors": {"random_agent_steps": 200, "chunk_agent_steps": 25, "num_cpus_per_actor": 0.5},
    "replay": {
        "shards": 2,
        "capacity_agent_steps": 4000,
        "minimum_agent_steps": 200,
        "timeout_s": 60.0,
    },
    "model": {
        "conv_channels": [4, 8],
        "conv_kernels": [3, 3],
        "conv_strides": [2, 2],
        "conv_paddings": [1, 1],
        "feature_dims": 16,
        "embedding_dims": 16,
        "recurrent_dims": 32,
        "latent_dims": 8,
        "hidden_dims": 32,
        "decoder_dims": 32,
        "head_dims": 32,
    },
    "behavior": {"actor_dims": [32, 32], "critic_dims": [32, 32]},
    "learner": {
        "batch_size": 4,
        "sequence_length": 8,
        "crop_size": 24,
        "count": 1,
        "device": "cpu",
        "update_order": "fused",
        "publish_updates": 20,
        "report_updates": 10,
    },
    "evaluation": {"every_agent_steps": None, "episodes": 1, "final_episodes": 1},
    "run": {"iteration_s": 1.0},
}


def tiny_config() -> CoReConfig:
    """Returns the configuration of the tiny run."""
    return CoReConfig().settings_update(**TINY)


def train_until(
    algorithm: CoRe, enough: Callable[[dict[str, Any]], bool], timeout_s: float = 90.0
) -> dict[str, Any]:
    """Trains until the metrics are `enough`; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        metrics = algorithm.train()["metrics"]
        if enough(metrics):
            return metrics
        assert time.monotonic() < deadline, f"not reached within {timeout_s:g} s: {metrics}"
