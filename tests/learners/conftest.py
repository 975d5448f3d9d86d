"""Small agents and batches shared by the learner tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from learners.agent import Agent
from learners.core import CoReAgent
from learners.core_update import CoReUpdate
from learners.settings import BehaviorSettings, LearnerSettings, ModelSettings, ObjectiveSettings

ACTION_DIMS = 2
MODEL = ModelSettings(
    conv_channels=(4, 4),
    conv_kernels=(3, 3),
    conv_strides=(2, 2),
    conv_paddings=(1, 1),
    feature_dims=10,
    embedding_dims=12,
    recurrent_dims=14,
    latent_dims=6,
    hidden_dims=16,
    decoder_dims=16,
    head_dims=8,
)
BEHAVIOR = BehaviorSettings(actor_dims=(16,), critic_dims=(16,))
LEARNER = LearnerSettings(batch_size=3, sequence_length=5, crop_size=16)


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    """A small Ray of this machine's own."""
    import ray  # here: most of these tests need none

    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def one_thread_and_a_fixed_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def make_update():
    """Return a factory of updates over small agents; keywords change learner or objective."""

    return _make


@pytest.fixture
def make_gpu_update():
    """The same on a GPU."""
    return partial(_make, device="cuda")


def _make(
    seed: int = 0, objective: ObjectiveSettings | None = None, device: str = "cpu", **learner
) -> CoReUpdate:
    torch.manual_seed(seed)
    objective = objective or ObjectiveSettings()
    settings = replace(LEARNER, **learner)
    agent = CoReAgent(MODEL, objective, BEHAVIOR, settings, ACTION_DIMS).to(device)
    return CoReUpdate(agent, settings, objective, BEHAVIOR, device=device, seed=seed)


def acting_arrays(agent: Agent) -> dict[str, np.ndarray]:
    """Return copies of the tensors that acting needs."""
    return {n: value.detach().numpy().copy() for n, value in agent.acting_tensors().items()}


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    """Return a random (T, B) = (5, 3) batch of 20-pixel frames."""
    random = np.random.default_rng(3)
    shape = (5, 3)
    return {
        "observation": random.integers(0, 256, (*shape, 20, 20, 3), dtype=np.uint8),
        "action": random.uniform(-1, 1, (*shape, ACTION_DIMS)).astype(np.float32),
        "reward": random.uniform(0, 1, shape).astype(np.float32),
        "is_first": np.zeros(shape, bool),
        "is_last": np.zeros(shape, bool),
        "discount": np.ones(shape, np.float32),
    }
