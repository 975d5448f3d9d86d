"""RLlib's own DreamerV3 in training, measured by itself.

    python -m benchmarks.peers.rllib_dreamer

answers calls of `RllibTraining` (`benchmarks.peers.worker_process`); one process trains once.

It steps the same environments as this system, seen through Gymnasium, with pixels scaled to
[-1, 1) as float32, which its convolutions and its decoder's loss expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from benchmarks.peers.worker_process import serve
from benchmarks.training_rate import Counts, measure_training

ENVIRONMENT = "benchmark"


class ScaledPixels(gymnasium.ObservationWrapper):
    """Pictures as float32 in [-1, 1) instead of uint8, channels last."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        shape = env.observation_space.shape
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, shape, np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Returns one picture scaled."""
        return observation.astype(np.float32) / 128.0 - 1.0


class RllibTraining:
    """One run of DreamerV3 with a Ray of its own."""

    def train(
        self,
        environment: Mapping[str, Any],
        training: Mapping[str, Any],
        fragment_agent_steps: int,
        threads: int,
        warm_up_updates: int,
        seconds: float,
        patience_s: float,
    ) -> dict[str, Any]:
        """Trains and returns what `TrainingRate.as_dict` gives, and `parameters`.

        Args:
            environment: `name` and other fields of `GymnasiumView`.
            training: of `DreamerV3Config.training`.
            fragment_agent_steps: taken in a row, before the updates that they earn.
            threads: of torch, for everything: RLlib acts and learns in one process.
            warm_up_updates: see `measure_training`.
            seconds: see there.
            patience_s: see there.
        """
        # Chooses the OpenGL library, before RLlib imports dm_control.
        from actors.environments.gym_view import GymnasiumView

        # isort: split
        import ray
        import torch
        from ray.rllib.algorithms.dreamerv3 import DreamerV3Config
        from ray.rllib.utils.metrics import (
            ENV_RUNNER_RESULTS,
            NUM_ENV_STEPS_SAMPLED_LIFETIME,
            NUM_GRAD_UPDATES_LIFETIME,
        )
        from ray.tune import register_env

        torch.set_num_threads(threads)
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        register_env(ENVIRONMENT, lambda fields: ScaledPixels(GymnasiumView(**fields)))
        config = (
            DreamerV3Config()
            .environment(ENVIRONMENT, env_config=dict(environment))
            .training(**training)
            .env_runners(num_env_runners=0, rollout_fragment_length=fragment_agent_steps)
            .learners(num_learners=0)
        )
        algorithm = config.build_algo()
        batch = config.batch_size_B * config.batch_length_T
        try:
            module = algorithm.env_runner.module

            def go_on() -> Counts:
                result = algorithm.train()
                updates = int(result.get(NUM_GRAD_UPDATES_LIFETIME, 0))
                agent_steps = result[ENV_RUNNER_RESULTS][NUM_ENV_STEPS_SAMPLED_LIFETIME]
                return Counts(updates, int(agent_steps), updates * batch)

            rate = measure_training(go_on, warm_up_updates, seconds, patience_s).as_dict()
            return rate | {"parameters": _parameters(module)}
        finally:
            algorithm.stop()
            ray.shutdown()


def _parameters(module: Any) -> dict[str, int]:
    parts = {"world_model": (module.world_model,), "behavior": (module.actor, module.critic)}
    return {
        name: sum(p.numel() for part in several for p in part.parameters() if p.requires_grad)
        for name, several in parts.items()
    }


if __name__ == "__main__":
    serve(RllibTraining())
