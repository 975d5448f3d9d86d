"""Observations of a picture and numbers: from the environment through replay to the learner."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import dm_env
import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
import ray
from dm_env import specs
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SPACES

import actors.runner
import rl_system.evaluation
from actors.environments.interface import PixelEnvironment
from actors.environments.robosuite import RobosuiteMissing, find_python
from actors.environments.settings import EnvironmentSettings
from actors.runner import StreamingEnvRunner
from actors.stream import ChunkStream
from actors.worker import Worker
from learners.core_update import CoReUpdate
from replay.ring import Ring
from replay.schema import step_schema
from replay.table import Table
from rl_system.algorithm import CoReConfig
from rl_system.config import load_settings, settings_from_dict
from rl_system.plane import shared_settings
from rl_system.policy import build_agent, load_policy
from rl_system.settings import Settings
from tests.learners.conftest import acting_arrays
from tests.rl_system.tiny_run import TINY, train_until

LENGTH = 12  # agent steps of an episode


class Reaching(PixelEnvironment):
    """A target between -1 and 1 in the first proprioceptive number; pictures show only noise."""

    name, action_repeat, episode_agent_steps = "robosuite/door-panda", 1, LENGTH

    def __init__(self, settings: EnvironmentSettings, seed: int, split: str = "train") -> None:
        self._random = np.random.default_rng(seed)
        self._settings = settings
        self._number = self.simulator_steps = 0

    @property
    def time_s(self) -> float:  # type: ignore[override]
        return self._number / 20

    def observation(self) -> dict[str, np.ndarray]:
        size = self._settings.image_size
        picture = self._random.integers(0, 256, (size, size, 3), dtype=np.uint8)
        numbers = np.full(32, self._target, np.float32)
        return {"observation": picture, "proprioception": numbers}

    def reset(self) -> dm_env.TimeStep:
        self._number = self.simulator_steps = 0
        self._target = self._random.uniform(-1, 1)
        return dm_env.restart(self.observation())

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        self._number, self.simulator_steps = self._number + 1, 1
        reward = 1.0 - abs(float(action[0]) - self._target)
        self._target = self._random.uniform(-1, 1)
        end = dm_env.truncation if self._number == LENGTH else dm_env.transition
        return end(reward, self.observation())

    def render_frame(self, size: int = 240) -> np.ndarray:
        return np.full((size, size * 4 // 3, 3), 128, np.uint8)

    def action_spec(self) -> specs.BoundedArray:
        return specs.BoundedArray((7,), np.float32, -1.0, 1.0, name="action")

    def observation_spec(self) -> dict[str, specs.Array]:
        size = self._settings.image_size
        return {
            "observation": specs.BoundedArray((size, size, 3), np.uint8, 0, 255),
            "proprioception": specs.Array((32,), np.float32),
        }


@pytest.fixture
def settings() -> Settings:
    environment = {
        "name": "robosuite/door-panda",
        "image_size": 28,
        "difficulty": "randomized",
        "proprioception": True,
    }
    model = TINY["model"] | {"proprioception_dims": [16, 12]}
    return settings_from_dict(TINY | {"environment": environment, "model": model})


@pytest.fixture
def runner(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> StreamingEnvRunner:
    """An actor of RLlib in this process, with the environment above in place of a robot."""
    monkeypatch.setattr(actors.runner, "make_environment", Reaching)
    config = CoReConfig.from_settings(settings)
    config.plane = shared_settings(settings) | {"prefix": "none", "seed": 0, "deterministic": False}
    return StreamingEnvRunner(config=config)


def test_the_actors_module_is_built_for_both_parts_of_its_observation_space(
    runner: StreamingEnvRunner,
) -> None:
    spaces = runner.get_spaces()
    space = spaces[INPUT_ENV_SPACES][0]
    assert isinstance(space, gym.spaces.Dict) and set(space) == {"observation", "proprioception"}
    assert (space["observation"].shape, space["observation"].dtype) == ((28, 28, 3), np.uint8)
    assert (space["proprioception"].shape, space["proprioception"].dtype) == ((32,), np.float32)
    assert runner.module.agent.proprioception_size == 32
    seen = runner.environments[0].reset().observation
    stacked = {name: value[None] for name, value in seen.items()}
    state, first = runner.module.initial_state(1), np.ones(1, bool)
    action, _ = runner.module.act(stacked, state, first, explore=True)
    assert action.shape == (1, 7) and np.isfinite(action).all()


def test_the_learners_module_takes_the_actors_weights(runner: StreamingEnvRunner) -> None:
    spaces = {DEFAULT_MODULE_ID: runner.get_spaces()[DEFAULT_MODULE_ID]}
    learner = runner.config.build_learner(spaces=spaces)
    learner._agent.load_acting_tensors(acting_arrays(runner.module.agent))
    assert learner._core.agent.proprioception_size == 32
    names = set(acting_arrays(learner._agent))
    assert any(name.startswith("model.proprioception_encoder.") for name in names)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_robot_trains_on_ray_through_a_killed_simulator_and_its_policy_comes_back(
    tmp_path: Path,
) -> None:
    overrides = [
        "environment.quality=fast", "actors.random_agent_steps=40", "learner.batch_size=4",
        "replay.minimum_agent_steps=40", "learner.sequence_length=8", "run.iteration_s=1",
        "evaluation.every_agent_steps=null", "learner.report_updates=5", "learner.device=cpu",
        "actors.num_cpus_per_actor=0.5", "replay.cpus_per_shard=0.1",
    ]  # fmt: skip
    settings = load_settings("core/door-jaco-proprioception/tiny", overrides)
    try:
        find_python(settings.environment)
    except RobosuiteMissing as error:
        pytest.skip(str(error))
    ray.init(address="local", num_cpus=4, object_store_memory=150 * 2**20, include_dashboard=False)
    try:
        built = CoReConfig.from_settings(settings).build_algo()
        try:
            metrics = train_until(built, lambda m: m["updates"] >= 10, timeout_s=200.0)
            (simulator,) = built.env_runner_group.foreach_env_runner(
                lambda runner: runner.environments[0].process_id
            )
            os.kill(simulator, signal.SIGKILL)
            enough = metrics["agent_steps"] + 40
            metrics = train_until(built, lambda m: m["agent_steps"] >= enough, timeout_s=100.0)
            built.save_to_path(tmp_path)
        finally:
            built.stop()
    finally:
        ray.shutdown()
    assert np.isfinite(metrics["loss/contrastive"]) and metrics["replay/gaps"] == 0
    policy = load_policy(tmp_path, settings)
    observation = {
        "observation": np.zeros((2, 54, 54, 3), np.uint8),
        "proprioception": np.zeros((2, 40), np.float32),
    }
    action, _ = policy.act(observation, policy.initial_state(2), np.ones(2, bool), False)
    assert action.shape == (2, 7) and np.isfinite(action).all()


def test_steps_of_an_actor_become_batches_that_the_learner_trains_on(settings: Settings) -> None:
    agent = build_agent(settings, 7)
    schema = step_schema((28, 28, 3), 7, settings.proprioception_size)
    table = Table(Ring(schema, 400))
    environments = [Reaching(settings.environment, seed) for seed in range(2)]
    streams = [ChunkStream(table.insert, schema, f"a/{number}", 5) for number in range(2)]
    worker = Worker(environments, agent, streams, generator=np.random.default_rng(0))
    worker.run(rounds=4 * LENGTH)
    assert worker.take_report().episodes == 8
    batch = table.gather(np.arange(4), np.zeros(4, int), 8)
    # The reward of a step is for the target that its proprioception told of.
    told = batch["proprioception"][..., 0]
    np.testing.assert_allclose(
        batch["reward"], 1.0 - np.abs(batch["action"][..., 0] - told), atol=1e-6
    )
    update = CoReUpdate(agent, settings.learner, settings.objective, settings.behavior)
    before = {k: v.clone() for k, v in agent.model.proprioception_encoder.state_dict().items()}
    update.step(batch)
    assert all(np.isfinite(value) for value in update.metrics().values())
    after = agent.model.proprioception_encoder.state_dict()
    assert all((after[name] != value).any() for name, value in before.items())


def test_episodes_are_played_and_filmed_with_proprioception_beside_the_picture(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rl_system.evaluation, "make_environment", Reaching)

    class Reading:
        """Does what proprioception says."""

        def initial_state(self, count: int, /) -> None:
            return None

        def act(self, observation: Any, state: Any, is_first: Any, explore: bool, /) -> Any:
            told = observation["proprioception"][:, :1]
            return np.repeat(told, 7, axis=1), None

    wanted = replace(settings, evaluation=replace(settings.evaluation, parallel_episodes=2))
    path = tmp_path / "film.gif"
    result = rl_system.evaluation.evaluate(Reading(), wanted, episodes=3, video_path=path)
    assert result.returns == pytest.approx([LENGTH] * 3)
    assert len(imageio.mimread(path)) == LENGTH
