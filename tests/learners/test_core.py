"""Acting: the same filter as training, restarted at episode starts, with transferable weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learners.augment import centre_crop, to_pixels
from tests.learners.conftest import acting_arrays


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 20, 20, 3), dtype=np.uint8)


def test_acting_filters_as_the_training_unroll_does(make_update):
    agent = make_update().agent
    with torch.no_grad():  # almost no posterior noise, so that both see the same latent samples
        norm = agent.model.rssm.posterior_head.norm
        norm.weight[agent.model.rssm.latent_dims :] = 0.0
        norm.bias[agent.model.rssm.latent_dims :] = -9.0
    observations = frames(4)
    state, first = agent.initial_state(1), np.array([True])
    actions, recurrents = [], []
    for observation in observations:
        action, state = agent.act(observation[None], state, first, explore=False)
        actions.append(action)
        recurrents.append(state["recurrent"])
        first = np.array([False])
    pixels = to_pixels(centre_crop(torch.from_numpy(observations[:, None]), agent.crop_size))
    _, states = agent.observe(pixels, torch.from_numpy(np.stack(actions)))
    torch.testing.assert_close(torch.stack(recurrents), states.recurrent, atol=5e-3, rtol=0.0)


def test_an_episode_start_forgets_the_state_of_its_environment_only(make_update):
    agent = make_update().agent
    observation = frames(2)
    _, state = agent.act(observation, agent.initial_state(2), np.array([True, True]), True)
    _, state = agent.act(observation, state, np.array([False, False]), True)
    _, state = agent.act(observation, state, np.array([True, False]), True)
    assert state["recurrent"][0].abs().sum() == 0
    assert state["recurrent"][1].abs().sum() > 0


def test_actions_are_bounded_float32_and_deterministic_without_exploration(make_update):
    agent = make_update().agent
    observation, first = frames(3), np.array([True] * 3)
    observation.setflags(write=False)  # arrays from an object store are read-only
    state = agent.initial_state(3)
    still = [agent.act(observation, state, first, explore=False)[0] for _ in range(2)]
    moved = [agent.act(observation, state, first, explore=True)[0] for _ in range(2)]
    assert still[0].dtype == np.float32
    assert still[0].shape == (3, 2)
    np.testing.assert_array_equal(still[0], still[1])
    assert not np.array_equal(moved[0], moved[1])
    assert np.abs(moved[0]).max() <= 1.0


def test_acting_weights_transfer_to_another_agent(make_update):
    source, target = make_update(seed=1).agent, make_update(seed=2).agent
    weights = acting_arrays(source)
    assert not any("critic" in name or "decoder" in name for name in weights)
    target.load_acting_tensors(weights)
    observation, first = frames(2), np.array([True, True])
    actions = [
        agent.act(observation, agent.initial_state(2), first, explore=False)[0]
        for agent in (source, target)
    ]
    np.testing.assert_array_equal(actions[0], actions[1])


def test_published_weights_are_those_of_the_state_dict_and_make_another_agent_act_alike(
    make_update,
):
    source, target = make_update(seed=1).agent, make_update(seed=2).agent
    weights = source.acting_weights()
    flat = torch.empty(weights.size)
    weights.flatten(flat)
    by_name = acting_arrays(source)
    assert weights.layout == tuple((name, value.shape) for name, value in by_name.items())
    values = np.concatenate([value.ravel() for value in by_name.values()])
    np.testing.assert_array_equal(flat.numpy(), values)
    critics = [value.clone() for value in target.behavior.critics.parameters()]
    target.acting_weights().load((weights.layout, values))
    for name, value in acting_arrays(target).items():
        np.testing.assert_array_equal(value, by_name[name])
    for value, before in zip(target.behavior.critics.parameters(), critics, strict=True):
        assert torch.equal(value, before)


def test_weights_of_another_size_are_refused_and_nothing_changes(make_update):
    agent = make_update().agent
    weights = acting_arrays(agent)
    before = {name: value.copy() for name, value in weights.items()}
    name = next(iter(weights))
    weights = {key: value + 1.0 for key, value in weights.items()}
    weights[name] = np.zeros((1, 2, 3), np.float32)
    with pytest.raises(ValueError, match=r"settings\.yaml"):
        agent.load_acting_tensors(weights)
    for key, value in acting_arrays(agent).items():
        np.testing.assert_array_equal(value, before[key])
