"""Small CVRL agents, batches and toy worlds shared by CVRL's tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from learners.augment import centre_crop, to_pixels
from learners.collective import Collective
from learners.cvrl import CVRLAgent
from learners.cvrl_settings import (
    CVRLBehaviorSettings,
    CVRLLearnerSettings,
    CVRLModelSettings,
    CVRLObjectiveSettings,
)
from learners.cvrl_update import CVRLUpdate
from learners.models.rssm import States

ACTION_DIMS, LENGTH, WINDOWS, FRAME = 2, 5, 3, 20
MODEL = CVRLModelSettings(
    conv_channels=(4, 4),
    conv_kernels=(4, 4),
    conv_strides=(2, 2),
    conv_paddings=(0, 0),
    proprioception_dims=(6,),
    recurrent_dims=14,
    latent_dims=6,
    hidden_dims=16,
    observation_code_dims=(10,),
    state_code_dims=(10,),
    reward_dims=(12,),
    decoder_channels=(8, 4),
    decoder_kernels=(6, 6),
)
OBJECTIVE = CVRLObjectiveSettings()
BEHAVIOR = CVRLBehaviorSettings(
    actor_dims=(16,),
    value_dims=(12,),
    critic_dims=(16,),
    init_std=1.0,
    horizon=4,
    mode_samples=7,
    log_alpha_init=0.0,
    learn_temperature=False,
)
LEARNER = CVRLLearnerSettings(
    batch_size=WINDOWS, sequence_length=LENGTH, crop_size=16, precision="float32"
)
# Hardly any spread, and no entropy to speak of: values by hand then need no noise.
WITHOUT_NOISE = {"init_std": 1e-6, "min_std": 0.0, "log_alpha_init": -30.0}


def make_agent(
    seed: int = 0,
    *,
    model: CVRLModelSettings = MODEL,
    objective: CVRLObjectiveSettings = OBJECTIVE,
    learner: CVRLLearnerSettings = LEARNER,
    proprioception_size: int = 0,
    **behavior,
) -> CVRLAgent:
    """Return a small agent; keywords change its behaviour."""
    torch.manual_seed(seed)
    settings = replace(BEHAVIOR, **behavior)
    return CVRLAgent(model, objective, settings, learner, ACTION_DIMS, proprioception_size)


def make_update(
    seed: int = 0,
    *,
    model: CVRLModelSettings = MODEL,
    objective: CVRLObjectiveSettings = OBJECTIVE,
    learner: CVRLLearnerSettings = LEARNER,
    **behavior,
) -> CVRLUpdate:
    """Return updates of a small agent; keywords change its behaviour."""
    agent = make_agent(seed, model=model, objective=objective, learner=learner, **behavior)
    return CVRLUpdate(agent, learner, objective, agent.settings, seed=seed)


def make_batch(
    seed: int = 3, length: int = LENGTH, windows: int = WINDOWS
) -> dict[str, np.ndarray]:
    """Return a random (T, B) batch of 20-pixel frames."""
    random = np.random.default_rng(seed)
    shape = (length, windows)
    return {
        "observation": random.integers(0, 256, (*shape, FRAME, FRAME, 3), dtype=np.uint8),
        "action": random.uniform(-1, 1, (*shape, ACTION_DIMS)).astype(np.float32),
        "reward": random.uniform(0, 1, shape).astype(np.float32),
        "discount": np.ones(shape, np.float32),
    }


def make_frames(count: int) -> np.ndarray:
    """Return random frames (count, 20, 20, 3)."""
    shape = (count, FRAME, FRAME, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def to_tensors(batch: dict[str, np.ndarray]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a batch's centre crops, actions, rewards and discounts."""
    pixels = to_pixels(centre_crop(torch.from_numpy(batch["observation"]), LEARNER.crop_size))
    actions, rewards, discounts = (
        torch.from_numpy(batch[name]) for name in ("action", "reward", "discount")
    )
    return pixels, actions, rewards, discounts


def random_states(agent: CVRLAgent, length: int = LENGTH, windows: int = WINDOWS) -> States:
    """Return states that the agent filtered from random pictures."""
    pixels, actions, _, _ = to_tensors(make_batch(length=length, windows=windows))
    return agent.observe(pixels, actions, torch.Generator().manual_seed(1))[1]


class Pool(Collective):
    """What one of several learners sees of the others: values that are known beforehand."""

    def __init__(self, rank: int, size: int, everyone: Tensor) -> None:
        super().__init__()
        self.rank, self.size, self.everyone = rank, size, everyone

    def gather(self, values: Tensor) -> Tensor:
        first = self.rank * len(values)
        assert torch.equal(self.everyone[first : first + len(values)], values)
        return self.everyone

    def mean(self, value: Tensor) -> Tensor:
        return self.everyone


class LinearDynamics(nn.Module):
    """s' = A s + B a + noise / 10 and h' = C h + D s', in float64."""

    def __init__(self, latent_dims: int, recurrent_dims: int, action_dims: int) -> None:
        super().__init__()
        self.latent_dims, self.action_dims = latent_dims, action_dims
        self.from_latent = _linear(latent_dims, latent_dims)
        self.from_action = _linear(action_dims, latent_dims)
        self.from_recurrent = _linear(recurrent_dims, recurrent_dims)
        self.from_new_latent = _linear(latent_dims, recurrent_dims)

    def predict(
        self, latent: Tensor, recurrent: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        latent = self.from_latent(latent) + self.from_action(action) + 0.1 * noise
        return latent, self.from_recurrent(recurrent) + self.from_new_latent(latent)


class LinearWorld(nn.Module):
    """Linear dynamics with a linear reward, in float64."""

    def __init__(self, latent_dims: int, recurrent_dims: int, action_dims: int) -> None:
        super().__init__()
        self.rssm = LinearDynamics(latent_dims, recurrent_dims, action_dims)
        self.reward = _linear(latent_dims + recurrent_dims, 1)

    def predict_reward(self, states: Tensor) -> Tensor:
        return self.reward(states).squeeze(-1)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)
