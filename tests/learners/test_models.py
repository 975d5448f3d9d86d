"""Networks: sizes of the paper preset and maths against independent formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from learners.core import CoReAgent
from learners.models.encoder import PixelEncoder
from learners.models.layers import Gaussian, LayerNormGRUCell
from learners.models.policy import Actor, TwinCritic, tanh_gaussian_log_prob
from learners.models.world_model import core_rssm
from learners.settings import BehaviorSettings, LearnerSettings, ModelSettings, ObjectiveSettings
from tests.learners.conftest import MODEL


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_paper_preset_has_the_parameter_counts_of_the_released_model():
    agent = CoReAgent(
        ModelSettings(), ObjectiveSettings(), BehaviorSettings(), LearnerSettings(), action_dims=6
    )
    model, rssm, behavior = agent.model, agent.model.rssm, agent.behavior
    assert count(model.encoder) == 1_988_690
    assert count(rssm.embedding) == 78_848
    assert count(rssm.transition_input) == 188_800
    assert count(rssm.cell) == 361_200
    assert count(rssm.prior_head) == 452_784
    assert count(rssm.posterior_head) == 394_784
    assert count(model.decoder) == 146_482
    assert count(model.reward) == 50_561
    assert count(model.inverse) == 84_998
    assert count(model) == 3_747_148
    assert count(behavior.actor) == 2_382_860
    assert count(behavior.critics) == count(behavior.target_critics) == 4_755_458


def test_gru_cell_follows_the_layer_normalised_equations():
    cell = LayerNormGRUCell(3, 4)
    with torch.no_grad():
        cell.norm.weight.uniform_(0.5, 1.5)
        cell.norm.bias.uniform_(-0.5, 0.5)
    inputs, recurrent = torch.randn(2, 3), torch.randn(2, 4)
    weight = cell.gates.weight.detach().numpy().astype(np.float64)
    joined = np.concatenate([inputs.numpy(), recurrent.numpy()], 1).astype(np.float64)
    gates = joined @ weight.T
    gates = (gates - gates.mean(1, keepdims=True)) / np.sqrt(gates.var(1, keepdims=True) + 1e-5)
    gates = gates * cell.norm.weight.detach().numpy() + cell.norm.bias.detach().numpy()

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    reset, candidate, update = np.split(gates, 3, 1)
    candidate = np.tanh(sigmoid(reset) * candidate)
    update = sigmoid(update - 1)
    expected = update * candidate + (1 - update) * recurrent.numpy()
    np.testing.assert_allclose(cell(inputs, recurrent).detach().numpy(), expected, atol=1e-6)


def test_first_state_of_a_window_skips_the_transition():
    rssm = core_rssm(MODEL, action_dims=2)
    features, actions = torch.randn(4, 3, MODEL.feature_dims), torch.randn(4, 3, 2)
    states = rssm.observe(features, actions)
    assert torch.equal(states.recurrent[0], torch.zeros(3, MODEL.recurrent_dims))
    posterior = rssm.posterior(rssm.embedding(features[0]), states.recurrent[0])
    torch.testing.assert_close(states.posterior.mean[0], posterior.mean)
    torch.testing.assert_close(states.posterior.log_std[0], posterior.log_std)


def test_unroll_equals_stepping_the_transition_and_the_posterior_one_by_one():
    rssm = core_rssm(MODEL, action_dims=2)
    features, actions = torch.randn(5, 3, MODEL.feature_dims), torch.randn(5, 3, 2)
    states = rssm.observe(features, actions, torch.Generator().manual_seed(1))
    for t in range(1, 5):
        recurrent = rssm.transition(states.latent[t - 1], actions[t - 1], states.recurrent[t - 1])
        torch.testing.assert_close(recurrent, states.recurrent[t])
        posterior = rssm.posterior(rssm.embedding(features[t]), recurrent)
        torch.testing.assert_close(posterior.mean, states.posterior.mean[t])


def test_features_have_the_norm_of_a_layer_norm_without_scale():
    encoder = PixelEncoder(MODEL, crop_size=16)
    features = encoder(torch.rand(7, 3, 16, 16))
    torch.testing.assert_close(
        features.norm(dim=-1), torch.full((7,), math.sqrt(MODEL.feature_dims)), rtol=1e-2, atol=0.0
    )


def test_bfloat16_convolutions_stay_close_to_float32_features():
    encoder = PixelEncoder(MODEL, crop_size=16)
    pixels = torch.rand(7, 3, 16, 16)
    exact = encoder(pixels)
    encoder.precision = torch.bfloat16
    assert encoder(pixels).dtype == torch.float32
    assert torch.cosine_similarity(exact, encoder(pixels)).min() > 0.99


def test_convolutions_start_delta_orthogonal_or_as_asked():
    weight = PixelEncoder(MODEL, crop_size=16).convolutions[0].weight
    taps = weight.abs().sum((0, 1))
    assert taps[1, 1] > 0
    assert taps.sum() == taps[1, 1]
    kaiming = replace(MODEL, conv_init="kaiming")
    weight = PixelEncoder(kaiming, crop_size=16).convolutions[0].weight
    assert (weight.abs().sum((0, 1)) > 0).all()
    with pytest.raises(ValueError, match="conv_init"):
        PixelEncoder(replace(MODEL, conv_init="zeros"), crop_size=16)


def test_a_crop_that_the_convolutions_swallow_is_refused():
    with pytest.raises(ValueError, match=r"learner\.crop_size"):
        PixelEncoder(ModelSettings(), crop_size=5)


def test_squashed_log_probability_matches_torch_distributions():
    mean, log_std = torch.randn(6, 2), torch.randn(6, 2) * 0.3
    unsquashed = mean + log_std.exp() * torch.randn(6, 2)
    distribution = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean.double(), log_std.double().exp()),
        torch.distributions.transforms.TanhTransform(cache_size=1),
    )
    expected = distribution.log_prob(torch.tanh(unsquashed.double())).sum(-1)
    actual = tanh_gaussian_log_prob(unsquashed, mean, log_std)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


def test_actor_bounds_its_mean_and_standard_deviation():
    settings = BehaviorSettings(actor_dims=(8,), log_std_min=-5.0, log_std_max=2.0)
    actor = Actor(settings, state_dims=4, action_dims=3)
    mean, log_std = actor.distribution(1e3 * torch.randn(50, 4))
    assert mean.abs().max() <= 5.0
    assert log_std.min() >= -5.0
    assert log_std.max() <= 2.0
    action, log_prob = actor.sample(torch.randn(50, 4))
    assert action.abs().max() < 1.0
    assert log_prob.shape == (50,)


def test_the_log_probability_is_that_of_the_bounded_action():
    settings = BehaviorSettings(actor_dims=(8,), log_std_min=4.0, log_std_max=5.0)
    actor = Actor(settings, state_dims=4, action_dims=1)
    states = torch.randn(200, 4)
    action, log_prob = actor.sample(states)
    mean, log_std = actor.distribution(states)
    assert action.abs().max() < 1.0
    inner = torch.atanh(action.double())
    expected = tanh_gaussian_log_prob(inner, mean.double(), log_std.double())
    torch.testing.assert_close(log_prob.double(), expected, rtol=0.05, atol=0.05)


def test_the_two_critics_are_independent_networks():
    settings = BehaviorSettings(critic_dims=(8, 8))
    critics = TwinCritic(4, 2, settings.critic_dims)
    states, actions = torch.randn(5, 3, 4), torch.randn(5, 3, 2)
    values = critics(states, actions)
    assert values.shape == (2, 5, 3)
    assert not torch.allclose(values[0], values[1])
    gradient = torch.autograd.grad(values[0].sum(), list(critics.weights))
    assert all(part[1].abs().sum() == 0 and part[0].abs().sum() > 0 for part in gradient)
    hidden = torch.cat([states, actions], -1)
    for index in range(3):
        hidden = hidden @ critics.weights[index][1] + critics.biases[index][1]
        hidden = hidden.relu() if index < 2 else hidden
    torch.testing.assert_close(values[1], hidden.squeeze(-1))


def test_gaussian_clamps_its_log_standard_deviation():
    gaussian = Gaussian.from_parameters(torch.tensor([[0.0, 50.0]]))
    assert gaussian.log_std.item() == 10.0
