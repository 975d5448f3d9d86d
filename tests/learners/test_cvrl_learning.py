"""CVRL's world model on pictures of a real simulator: contrast leaves chance behind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from actors.environments.catalog import make_environment
from actors.environments.settings import EnvironmentSettings
from learners.cvrl import CVRLAgent
from learners.cvrl_settings import (
    CVRLBehaviorSettings,
    CVRLLearnerSettings,
    CVRLModelSettings,
    CVRLObjectiveSettings,
)
from learners.cvrl_update import CVRLUpdate

LENGTH, WINDOWS, UPDATES = 12, 10, 1500
MODEL = CVRLModelSettings(
    conv_channels=(16, 32, 64, 128),
    recurrent_dims=64,
    latent_dims=16,
    hidden_dims=64,
    observation_code_dims=(64,),
    state_code_dims=(64,),
    reward_dims=(64, 64),
)
BEHAVIOR = CVRLBehaviorSettings(
    actor_dims=(16,), value_dims=(16,), critic_dims=(16,), horizon=2, mpc=False
)
LEARNER = CVRLLearnerSettings(
    batch_size=WINDOWS, sequence_length=LENGTH, model_rate=1e-3, precision="float32"
)


def play(episodes: int, agent_steps: int) -> list[dict[str, np.ndarray]]:
    """Return episodes of cartpole-swingup under random actions, each held for a few steps."""
    random = np.random.default_rng(0)
    settings = EnvironmentSettings(
        name="dcs/cartpole-swingup", image_size=64, quality="fast", action_repeat=2, view="square"
    )
    environment = make_environment(settings, seed=0)
    played = []
    for _ in range(episodes):
        time_step = environment.reset()
        steps: dict[str, list] = {"observation": [], "action": [], "reward": []}
        action = np.zeros(1, np.float32)
        for number in range(agent_steps):
            if number % 5 == 0:
                action = random.uniform(-1, 1, 1).astype(np.float32)
            steps["observation"].append(np.array(time_step.observation))
            time_step = environment.step(action)
            steps["action"].append(action)
            steps["reward"].append(time_step.reward)
        played.append({name: np.stack(values) for name, values in steps.items()})
    environment.close()
    return played


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_infonce_falls_from_log_120_below_two_and_a_half_on_clean_cartpole():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    episodes = play(40, 100)
    random = np.random.default_rng(1)
    objective = CVRLObjectiveSettings()
    agent = CVRLAgent(MODEL, objective, BEHAVIOR, LEARNER, action_dims=1)
    update = CVRLUpdate(agent, LEARNER, objective, BEHAVIOR)
    first: dict[str, float] = {}
    for number in range(UPDATES):
        windows = [
            (episodes[random.integers(len(episodes))], random.integers(100 - LENGTH + 1))
            for _ in range(WINDOWS)
        ]
        batch = {
            name: np.stack([episode[name][at : at + LENGTH] for episode, at in windows], axis=1)
            for name in ("observation", "action", "reward")
        }
        batch["reward"] = batch["reward"].astype(np.float32)
        update.step(batch | {"discount": np.ones((LENGTH, WINDOWS), np.float32)})
        if number == 4:
            first = update.metrics()
        elif number == UPDATES - 101:
            update.metrics()  # of the last hundred alone
    last = update.metrics()
    assert first["contrastive/log_pairs"] == pytest.approx(math.log(120), rel=1e-5)
    assert first["loss/contrastive"] == pytest.approx(math.log(120), abs=0.3)
    assert last["loss/contrastive"] < 2.5
    assert last["kl/nats"] > 0.5
