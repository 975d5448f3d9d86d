"""SAC on stacked pictures: the stacks, what its update moves, and how it acts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from learners.augment import to_pixels
from learners.pixel_sac import PixelSACAgent
from learners.pixel_sac_settings import (
    PixelSACBehaviorSettings,
    PixelSACLearnerSettings,
    PixelSACModelSettings,
    PixelSACObjectiveSettings,
)
from learners.pixel_sac_update import PixelSACUpdate

MODEL = PixelSACModelSettings(
    conv_channels=(4, 4),
    conv_kernels=(3, 3),
    conv_strides=(2, 2),
    conv_paddings=(1, 1),
    feature_dims=10,
)
BEHAVIOR = PixelSACBehaviorSettings(actor_dims=(16,), critic_dims=(16,))
LEARNER = PixelSACLearnerSettings(crop_size=16, precision="float32")
OBJECTIVE = PixelSACObjectiveSettings()


@pytest.fixture
def agent() -> PixelSACAgent:
    torch.manual_seed(0)
    return PixelSACAgent(MODEL, OBJECTIVE, BEHAVIOR, LEARNER, action_dims=2)


def update_of(agent: PixelSACAgent) -> PixelSACUpdate:
    return PixelSACUpdate(agent, LEARNER, OBJECTIVE, BEHAVIOR, seed=1)


def test_each_stack_holds_the_newest_pictures_in_their_order(agent: PixelSACAgent) -> None:
    pixels = torch.arange(5.0)[:, None, None, None, None].expand(5, 2, 3, 4, 4)
    stacked = agent.stack(pixels)
    assert stacked.shape == (3, 2, 9, 4, 4)
    assert stacked[:, 0, ::3, 0, 0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_acting_sees_the_same_stacks_and_an_episode_begins_with_copies_of_its_first_picture(
    agent: PixelSACAgent,
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16, 3), dtype=np.uint8)
    state, seen = agent.initial_state(1), []
    for number, frame in enumerate(frames):
        _, state = agent.act(frame, state, np.array([number == 0]), explore=False)
        seen.append(state["pixels"])
    torch.testing.assert_close(
        torch.stack(seen[2:]), agent.stack(to_pixels(torch.from_numpy(frames)))
    )
    first = to_pixels(torch.from_numpy(frames[0]))
    torch.testing.assert_close(seen[0], first.repeat(1, 3, 1, 1))
    _, state = agent.act(frames[1], state, np.array([True]), explore=False)
    torch.testing.assert_close(
        state["pixels"], to_pixels(torch.from_numpy(frames[1])).repeat(1, 3, 1, 1)
    )


def test_critics_train_the_encoder_and_the_actor_does_not(agent: PixelSACAgent, batch) -> None:
    features = agent.model.encode(agent.stack(torch.rand(5, 3, 3, 16, 16)))
    actor, _, _ = agent.behavior.actor_loss(features[:-1])
    actor.backward()
    assert all(p.grad is None for p in agent.model.parameters())
    assert all(p.grad is None for p in agent.behavior.critics.parameters())
    assert all(p.grad is not None for p in agent.behavior.actor.parameters())
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    update_of(agent).step(batch)
    moved = {n for n, value in agent.state_dict().items() if not torch.equal(value, before[n])}
    assert {name.split(".")[0] for name in moved} == {"model", "behavior"}
    assert any(name.startswith("model.encoder.convolutions") for name in moved)
    assert "behavior.log_alpha" in moved


def test_an_update_repeats_bit_for_bit_and_gives_priorities_where_it_is_asked(batch) -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        agent = PixelSACAgent(MODEL, OBJECTIVE, BEHAVIOR, LEARNER, action_dims=2)
        update = update_of(agent)
        assert update.step(batch) is None
        update.metrics()  # batches drawn by priority have more of them
        priorities = update.step(batch | {"importance_weights": np.ones(3, np.float32)})
        assert priorities is not None and priorities.shape == (3,) and (priorities > 0).all()
        weights.append(agent.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_numbers_beside_the_newest_picture_are_seen(batch) -> None:
    torch.manual_seed(0)
    model = replace(MODEL, proprioception_dims=(8,))
    agent = PixelSACAgent(model, OBJECTIVE, BEHAVIOR, LEARNER, 2, proprioception_size=4)
    felt = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    update = update_of(agent)
    update.step(batch | {"proprioception": felt})
    assert all(np.isfinite(value) for value in update.metrics().values())
    observation = {"observation": batch["observation"][0], "proprioception": felt[0]}
    action, _ = agent.act(observation, agent.initial_state(3), np.ones(3, bool), explore=True)
    assert action.shape == (3, 2) and np.abs(action).max() <= 1.0
