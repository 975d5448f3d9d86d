"""This system's CVRL in training, measured by itself.

    python -m benchmarks.dreamer_ours

answers calls of `OurTraining` (`benchmarks.peers.worker_process`); one process trains once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.environments.catalog import find
from benchmarks.peers.worker_process import serve
from benchmarks.training_rate import Counts, measure_training
from learners.systems import SYSTEMS
from rl_system.config import load_settings
from rl_system.settings import Settings


class OurTraining:
    """One run of a preset with a Ray of its own."""

    def train(
        self,
        preset: str,
        overrides: Sequence[str],
        warm_up_updates: int,
        seconds: float,
        patience_s: float,
    ) -> dict[str, Any]:
        """Trains and returns what `TrainingRate.as_dict` gives, and `parameters`.

        Counted from the end of one episode to the end of another, since an actor takes an episode
        in one go.

        Args:
            preset: name of it.
            overrides: `section.key=value` each.
            warm_up_updates: see `measure_training`.
            seconds: see there.
            patience_s: see there.
        """
        settings = load_settings(preset, overrides)

        import ray

        from rl_system.algorithm import CONFIGS

        batch = settings.learner.batch_size * settings.learner.sequence_length
        algorithm = CONFIGS[settings.run.system].from_settings(settings).build_algo()
        try:

            def go_on() -> Counts:
                metrics = algorithm.train()["metrics"]
                updates, agent_steps = int(metrics["updates"]), int(metrics["agent_steps"])
                return Counts(updates, agent_steps, updates * batch, int(metrics["episodes"]))

            rate = measure_training(
                go_on, warm_up_updates, seconds, patience_s, whole_episodes=True
            )
            return rate.as_dict() | {"parameters": parameters_of(settings)}
        finally:
            algorithm.stop()
            ray.shutdown()


def parameters_of(settings: Settings) -> dict[str, int]:
    """Returns the trained parameters of the world model, and of actor and critics."""
    agent: Any = SYSTEMS[settings.run.system].agent(
        settings.model,
        settings.objective,
        settings.behavior,
        settings.learner,
        find(settings.environment.name).action_dims,
    )
    parts = {"world_model": agent.model, "behavior": agent.behavior}
    return {
        name: sum(p.numel() for p in part.parameters() if p.requires_grad)
        for name, part in parts.items()
    }


if __name__ == "__main__":
    serve(OurTraining())
