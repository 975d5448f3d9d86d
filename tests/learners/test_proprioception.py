"""Observations of a picture and numbers beside it: what the model makes of both."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from learners.augment import centre_crop, to_pixels
from learners.core import CoReAgent
from learners.core_update import CoReUpdate
from learners.settings import BehaviorSettings, LearnerSettings, ModelSettings, ObjectiveSettings
from tests.learners.conftest import ACTION_DIMS, BEHAVIOR, LEARNER, MODEL, acting_arrays

SIZE = 7
SMALL = replace(MODEL, proprioception_dims=(9, 8))
ROBOSUITE = ModelSettings(
    conv_channels=(32,) * 5,
    conv_kernels=(3,) * 5,
    conv_strides=(2, 2, 1, 1, 1),
    conv_paddings=(1, 1, 0, 0, 0),
)


def count(module: nn.Module | None) -> int:
    assert module is not None
    return sum(parameter.numel() for parameter in module.parameters())


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def make(seed: int = 0, size: int = SIZE, **learner) -> CoReUpdate:
    torch.manual_seed(seed)
    objective, settings = ObjectiveSettings(), replace(LEARNER, **learner)
    agent = CoReAgent(SMALL, objective, BEHAVIOR, settings, ACTION_DIMS, size)
    return CoReUpdate(agent, settings, objective, BEHAVIOR, seed=seed)


@pytest.fixture
def felt(batch) -> dict[str, np.ndarray]:
    """Return the random batch of pictures with proprioception beside them."""
    random = np.random.default_rng(4)
    return batch | {"proprioception": random.normal(size=(5, 3, SIZE)).astype(np.float32)}


def observe(agent: CoReAgent, batch: dict[str, np.ndarray]):
    """Return the tensors of one observed batch, with centre crops."""
    pixels = to_pixels(centre_crop(torch.from_numpy(batch["observation"]), agent.crop_size))
    actions, rewards = torch.from_numpy(batch["action"]), torch.from_numpy(batch["reward"])
    proprioception = torch.from_numpy(batch["proprioception"])
    features, states = agent.observe(pixels, actions, proprioception=proprioception)
    return features, states, actions, rewards


@pytest.mark.parametrize("size", [32, 40])
def test_the_model_of_the_door_has_the_parameters_of_its_closed_form(size: int) -> None:
    agent = CoReAgent(
        ROBOSUITE, ObjectiveSettings(), BehaviorSettings(), LearnerSettings(crop_size=128), 7, size
    )
    model = agent.model
    convolutions = (3 * 32 * 9 + 32) + 4 * (32 * 32 * 9 + 32)
    assert count(model.encoder) == convolutions + linear(26 * 26 * 32, 50) == 1_119_538
    numbers = linear(size, 200) + 2 * linear(200, 200)
    assert count(model.proprioception_encoder) == numbers
    assert count(model.rssm.embedding) == linear(250, 256) + linear(256, 256)
    assert count(model.decoder) == linear(264, 256) + linear(256, 256) + linear(256, 250)
    pictures = CoReAgent(
        ROBOSUITE, ObjectiveSettings(), BehaviorSettings(), LearnerSettings(crop_size=128), 7
    )
    more = 200 * 256 + linear(256, 200)  # into the embedding, out of the decoder
    assert count(model) == count(pictures.model) + numbers + more
    assert pictures.model.proprioception_encoder is None
    assert count(pictures.model) == 2_878_525
    assert count(model) == {32: 3_068_125, 40: 3_069_725}[size]


def test_features_are_those_of_the_picture_then_those_of_the_numbers(felt) -> None:
    agent = make().agent
    features = observe(agent, felt)[0]
    pixels = to_pixels(centre_crop(torch.from_numpy(felt["observation"]), agent.crop_size))
    image = agent.model.encoder(pixels.flatten(0, 1)).unflatten(0, (5, 3))
    assert features.shape == (5, 3, SMALL.feature_dims + 8)
    assert torch.equal(features[..., : SMALL.feature_dims], image)
    hidden = felt["proprioception"].astype(np.float64)
    for layer in list(agent.model.proprioception_encoder)[::2]:
        hidden = hidden @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        hidden = np.where(hidden > 0, hidden, np.expm1(hidden))  # ELU, behind the last one too
    np.testing.assert_allclose(
        features[..., SMALL.feature_dims :].detach().numpy(), hidden, atol=1e-5
    )


def test_predicted_features_are_normalised_over_both_parts_together() -> None:
    model = make().agent.model
    predicted = model.predict_features(torch.randn(4, 3, model.state_dims))
    assert predicted.shape == (4, 3, SMALL.feature_dims + 8)
    torch.testing.assert_close(predicted.mean(-1), torch.zeros(4, 3), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(
        predicted.var(-1, correction=0), torch.ones(4, 3), atol=1e-2, rtol=0.0
    )


def test_without_layers_the_numbers_themselves_are_features(felt) -> None:
    torch.manual_seed(0)
    settings = replace(MODEL, proprioception_dims=())
    agent = CoReAgent(settings, ObjectiveSettings(), BEHAVIOR, LEARNER, ACTION_DIMS, SIZE)
    features = observe(agent, felt)[0]
    np.testing.assert_array_equal(features[..., -SIZE:].detach().numpy(), felt["proprioception"])


def test_model_loss_and_bellman_error_both_train_the_encoder_of_the_numbers(felt) -> None:
    agent = make().agent
    features, states, actions, rewards = observe(agent, felt)
    discounts = torch.ones_like(rewards)
    losses = (
        agent.model_loss(features, states, actions, rewards)[0],
        agent.behavior.critic_loss(states.expected(), actions, rewards, discounts)[0],
    )
    for loss in losses:
        agent.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        for parameter in agent.model.proprioception_encoder.parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_acting_filters_as_the_training_unroll_does(felt) -> None:
    agent = make().agent
    with torch.no_grad():  # almost no posterior noise, so that both see the same latent samples
        norm = agent.model.rssm.posterior_head.norm
        norm.weight[agent.model.rssm.latent_dims :] = 0.0
        norm.bias[agent.model.rssm.latent_dims :] = -9.0
    state, first = agent.initial_state(3), np.ones(3, bool)
    actions, recurrents = [], []
    for t in range(5):
        seen = {name: felt[name][t] for name in ("observation", "proprioception")}
        for array in seen.values():
            array.setflags(write=False)  # arrays from an object store are read-only
        action, state = agent.act(seen, state, first, explore=False)
        actions.append(action)
        recurrents.append(state["recurrent"])
        first = np.zeros(3, bool)
    _, states, _, _ = observe(agent, felt | {"action": np.stack(actions)})
    torch.testing.assert_close(torch.stack(recurrents), states.recurrent, atol=5e-3, rtol=0.0)


def test_acting_weights_carry_the_encoder_of_the_numbers(felt) -> None:
    source, target = make(seed=1).agent, make(seed=2).agent
    weights = acting_arrays(source)
    encoders = [name for name in weights if name.startswith("model.proprioception_encoder.")]
    assert len(encoders) == 4
    target.load_acting_tensors(weights)
    seen = {name: felt[name][0] for name in ("observation", "proprioception")}
    first = np.ones(3, bool)
    actions = [
        agent.act(seen, agent.initial_state(3), first, explore=False)[0]
        for agent in (source, target)
    ]
    np.testing.assert_array_equal(actions[0], actions[1])
    with pytest.raises(ValueError, match=r"settings\.yaml"):
        make(size=0).agent.load_acting_tensors(weights)


def test_an_observation_of_the_other_kind_is_refused_by_the_setting_that_differs(felt) -> None:
    both, pictures = make().agent, make(size=0).agent
    seen = {name: felt[name][0] for name in ("observation", "proprioception")}
    first = np.ones(3, bool)
    with pytest.raises(ValueError, match=r"pictures alone.*environment\.proprioception"):
        both.act(seen["observation"], both.initial_state(3), first, explore=False)
    with pytest.raises(ValueError, match=r"and proprioception.*environment\.proprioception"):
        pictures.act(seen, pictures.initial_state(3), first, explore=False)


def test_an_agent_without_proprioception_ignores_it_in_a_batch(felt, batch) -> None:
    updates = [make(size=0), make(size=0)]
    for update, windows in zip(updates, (batch, felt), strict=True):
        update.step(windows)
    weights = [update.agent.state_dict() for update in updates]
    assert not any("proprioception" in name for name in weights[0])
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


@pytest.mark.parametrize("order", ["sequential", "fused"])
def test_updates_repeat_and_go_on_bit_for_bit(felt, order) -> None:
    whole, again = (make(seed=1, update_order=order) for _ in range(2))
    restored = make(seed=3, update_order=order)
    for update in (whole, again):
        update.step(felt)
    restored.agent.load_state_dict(copy.deepcopy(whole.agent.state_dict()))
    restored.load_state_dict(copy.deepcopy(whole.state_dict()))
    for update in (whole, again, restored):
        update.step(felt)
    for name, value in whole.agent.state_dict().items():
        assert torch.equal(value, again.agent.state_dict()[name]), name
        assert torch.equal(value, restored.agent.state_dict()[name]), name


def test_what_only_the_numbers_tell_is_learned_from_them(batch) -> None:
    """Pictures are blank and the reward is what the next proprioception says."""
    random = np.random.default_rng(0)
    update = make(model_rate=3e-3, update_order="fused", random_crop=False)
    losses = []
    for _ in range(150):
        told = random.uniform(-1, 1, (5, 3, 1)).astype(np.float32)
        reward = np.zeros((5, 3), np.float32)
        reward[:-1] = told[1:, :, 0]
        windows = batch | {
            "observation": np.zeros_like(batch["observation"]),
            "proprioception": np.repeat(told, SIZE, -1),
            "reward": reward,
        }
        update.step(windows)
        losses.append(update.metrics()["loss/reward"])
    guessing = 0.5 * (1 / 3)  # half the variance of what is told
    assert np.mean(losses[:10]) > 0.7 * guessing
    assert np.mean(losses[-20:]) < 0.3 * guessing
