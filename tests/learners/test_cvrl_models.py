"""CVRL's networks: sizes of the published agent, and maths against independent formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from learners.cvrl import CVRLAgent
from learners.cvrl_settings import (
    CVRLBehaviorSettings,
    CVRLLearnerSettings,
    CVRLModelSettings,
    CVRLObjectiveSettings,
)
from learners.models.cvrl_world_model import ContrastiveTerm, CVRLWorldModel, ReconstructionTerm
from learners.models.decoder import PixelDecoder
from learners.models.encoder import FlatEncoder
from learners.models.layers import GaussianHead
from learners.models.policy import DreamerActor, tanh_gaussian_log_prob
from tests.learners.cvrl_agents import (
    ACTION_DIMS,
    BEHAVIOR,
    MODEL,
    OBJECTIVE,
    Pool,
    make_agent,
    make_batch,
    to_tensors,
)

CODE_HEADS = CVRLModelSettings(observation_code_dims=(400, 200), state_code_dims=(200, 200))
CODE_SCORE = CVRLObjectiveSettings(score="dot", contrastive_state="whole")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make_model(objective: CVRLObjectiveSettings = OBJECTIVE, **settings) -> CVRLWorldModel:
    return CVRLWorldModel(replace(MODEL, **settings), objective, ACTION_DIMS, crop_size=16)


# Sizes --------------------------------------------------------------------------------------------


def test_the_published_agent_has_the_parameter_counts_of_the_released_one():
    agent = CVRLAgent(
        CODE_HEADS, CODE_SCORE, CVRLBehaviorSettings(), CVRLLearnerSettings(), action_dims=6
    )
    model, behavior = agent.model, agent.behavior
    assert count(model.encoder) == 690_144
    assert count(model.rssm) == 557_920
    assert count(model.rssm.cell) == 241_200
    assert count(model.observation_term) == 576_600
    assert count(model.reward) == 253_201
    assert count(behavior.value) == 413_601
    assert count(behavior.actor) == 578_412
    assert count(behavior.sac.critics) == count(behavior.sac.target_critics) == 2 * 416_001
    assert model.state_dims == 230
    assert model.encoder.output_dims == 1024


def test_the_papers_heads_are_one_layer_each_and_a_square_matrix():
    term = ContrastiveTerm(CVRLModelSettings(), CVRLObjectiveSettings(), 1024, 230)
    assert count(term.observation_code) == 1024 * 200 + 200
    assert count(term.state_code) == 30 * 200 + 200
    assert term.bilinear is not None
    assert count(term.bilinear) == 200 * 200


def test_the_published_decoder_has_the_parameter_count_of_the_released_one():
    term = ReconstructionTerm(CVRLModelSettings(), 230, crop_size=64)
    assert count(term) == 3_795_555


def test_another_crop_or_proprioception_changes_what_the_posterior_reads():
    agent = make_agent(proprioception_size=4)
    encoder_dims = agent.model.encoder.output_dims
    entry = agent.model.rssm.posterior_head.network.entry
    assert entry.in_features == encoder_dims + 6 + MODEL.recurrent_dims
    assert agent.model.observation_term.observation_code.entry.in_features == encoder_dims + 6


# Initial weights ----------------------------------------------------------------------------------


def test_every_network_begins_with_glorot_weights_and_zero_biases():
    objective = replace(OBJECTIVE, observation="generative")
    for agent in (make_agent(proprioception_size=4), make_agent(objective=objective)):
        linear, recurrent = 0, 0
        for module in agent.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                linear += 1
                fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
                bound = math.sqrt(6.0 / (fan_in + fan_out))
                assert 0.8 * bound < module.weight.abs().max() <= bound
                assert module.bias is None or not module.bias.any()
            elif isinstance(module, nn.GRUCell):
                recurrent += 1
                product = module.weight_hh.t() @ module.weight_hh
                torch.testing.assert_close(product, torch.eye(len(product)), atol=1e-5, rtol=0.0)
                assert not module.bias_ih.any() and not module.bias_hh.any()
        assert linear > 10 and recurrent == 1
        critics = agent.behavior.sac.critics
        for weight in critics.weights:
            bound = math.sqrt(6.0 / (weight.shape[1] + weight.shape[2]))
            assert 0.8 * bound < weight.abs().max() <= bound
            assert not torch.equal(weight[0], weight[1])


# Encoder and decoder ------------------------------------------------------------------------------


def test_the_encoder_is_convolutions_with_relu_on_pixels_about_zero_and_nothing_behind():
    encoder = FlatEncoder(MODEL, crop_size=16)
    pixels = torch.rand(3, 3, 16, 16)
    maps = pixels - 0.5
    for layer in (encoder.convolutions[0], encoder.convolutions[2]):
        maps = F.relu(F.conv2d(maps, layer.weight, layer.bias, stride=2))
    features = encoder(pixels)
    assert features.shape == (3, encoder.output_dims) == (3, 4 * 2 * 2)
    torch.testing.assert_close(
        features.sort(1).values, maps.flatten(1).sort(1).values, atol=1e-5, rtol=1e-5
    )


def test_a_crop_that_the_convolutions_swallow_is_refused():
    with pytest.raises(ValueError, match=r"learner\.crop_size"):
        FlatEncoder(MODEL, crop_size=5)


def test_the_decoder_draws_pictures_of_the_size_asked_for_about_middle_grey():
    decoder = PixelDecoder(20, (8, 4), (6, 6), size=16)
    pictures = decoder(torch.zeros(7, 20))
    assert pictures.shape == (7, 3, 16, 16)
    assert torch.equal(pictures, torch.full_like(pictures, 0.5))
    states = torch.randn(2, 20)
    maps = decoder.linear(states)[:, :, None, None]
    first, second = decoder.convolutions[0], decoder.convolutions[2]
    maps = F.relu(F.conv_transpose2d(maps, first.weight, first.bias, stride=2))
    maps = F.conv_transpose2d(maps, second.weight, second.bias, stride=2)
    torch.testing.assert_close(decoder(states), maps + 0.5)


def test_a_decoder_that_draws_another_size_is_refused():
    with pytest.raises(ValueError, match=r"draws 16 x 16 .* learner\.crop_size is 64"):
        PixelDecoder(20, (8, 4), (6, 6), size=64)


@pytest.mark.parametrize("observation", ["contrastive", "generative"])
def test_bfloat16_convolutions_stay_close_and_give_float32(observation):
    agent = make_agent(objective=replace(OBJECTIVE, observation=observation))
    pixels, _, _, _ = to_tensors(make_batch())
    exact = agent.model.encode(pixels)
    agent.compute_in(torch.bfloat16)
    rough = agent.model.encode(pixels)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.cosine_similarity(exact, rough, -1).min() > 0.99
    if observation == "generative":
        decoder = agent.model.observation_term.decoder
        assert decoder.precision is torch.bfloat16
        assert decoder(torch.randn(2, agent.model.state_dims)).dtype == torch.float32


# Recurrent state-space model ----------------------------------------------------------------------


def test_the_unroll_steps_from_zero_and_then_from_each_state_and_the_action_taken_there():
    agent = make_agent()
    with torch.no_grad():  # biases begin at 0, and would hide a step from nothing
        for parameter in agent.model.rssm.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    pixels, actions, _, _ = to_tensors(make_batch())
    features, states = agent.observe(pixels, actions)
    rssm = agent.model.rssm
    recurrent, latent, before = torch.zeros(3, 14), torch.zeros(3, 6), torch.zeros(3, ACTION_DIMS)
    for t in range(len(actions)):
        hidden = F.elu(rssm.transition_input[0](torch.cat([latent, before], -1)))
        recurrent = gru(rssm.cell, hidden, recurrent)
        torch.testing.assert_close(states.recurrent[t], recurrent)
        posterior = rssm.posterior(features[t], recurrent)
        torch.testing.assert_close(states.posterior.mean[t], posterior.mean)
        torch.testing.assert_close(states.posterior.log_std[t], posterior.log_std)
        latent, before = states.latent[t], actions[t]


def gru(cell: nn.GRUCell, inputs: torch.Tensor, recurrent: torch.Tensor) -> torch.Tensor:
    """h' = (1 - u) n + u h with n = tanh(W x + b + r (U h + c)), gates written out."""
    from_input = inputs @ cell.weight_ih.t() + cell.bias_ih
    from_state = recurrent @ cell.weight_hh.t() + cell.bias_hh
    (r_x, u_x, n_x), (r_h, u_h, n_h) = from_input.chunk(3, -1), from_state.chunk(3, -1)
    update = torch.sigmoid(u_x + u_h)
    return (1 - update) * torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h) + update * recurrent


def test_standard_deviations_are_softplus_plus_the_least_one():
    head = GaussianHead([3, 8], 2, min_std=0.1)
    inputs = torch.randn(50, 3)
    mean, raw = head.network(inputs).chunk(2, -1)
    gaussian = head(inputs)
    torch.testing.assert_close(gaussian.mean, mean)
    torch.testing.assert_close(gaussian.log_std.exp(), torch.log1p(raw.exp()) + 0.1)
    assert head(1e4 * inputs).log_std.min() >= math.log(0.1) - 1e-6


def test_predicted_states_are_samples_of_the_prior_after_the_transition():
    rssm = make_agent().model.rssm
    latent, recurrent = torch.randn(4, 6), torch.randn(4, 14)
    action, noise = torch.randn(4, ACTION_DIMS), torch.randn(4, 6)
    found, following = rssm.predict(latent, recurrent, action, noise)
    torch.testing.assert_close(following, rssm.transition(latent, action, recurrent))
    prior = rssm.prior(following)
    torch.testing.assert_close(found, prior.mean + prior.log_std.exp() * noise)


# Observation terms and reward ---------------------------------------------------------------------


@pytest.mark.parametrize("score", ["bilinear", "dot"])
@pytest.mark.parametrize("seen", ["latent", "whole"])
def test_the_contrastive_score_is_the_product_of_codes_through_w_or_without(score, seen):
    objective = replace(OBJECTIVE, score=score, contrastive_state=seen)
    agent = make_agent(objective=objective)
    pixels, actions, _, _ = to_tensors(make_batch())
    features, states = agent.observe(pixels, actions)
    term = agent.model.observation_term
    loss, _ = term(features, states, pixels)
    state = states.latent if seen == "latent" else states.sampled()
    embedded = F.elu(term.state_code[0](state)).flatten(0, 1).detach().numpy()
    codes = F.elu(term.observation_code[0](features)).flatten(0, 1).detach().numpy()
    matrix = np.eye(10) if score == "dot" else term.bilinear.weight.detach().numpy().T
    scores = (codes @ matrix @ embedded.T).T.astype(np.float64)  # z^T W s' of state i, code j
    expected = np.log(np.exp(scores).sum(1)) - np.diag(scores)
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-5)
    if score == "dot":
        assert term.bilinear is None


def test_the_objective_says_whose_observations_are_in_the_sum():
    pixels, actions, _, _ = to_tensors(make_batch())
    agent = make_agent()
    features, states = agent.observe(pixels, actions)
    everyone = Pool(0, 2, torch.cat([observation_codes(agent, features)] * 2))
    found = []
    for positive, gather in ((True, False), (False, False), (True, True)):
        objective = replace(OBJECTIVE, positive_among_candidates=positive, gather_negatives=gather)
        term = make_agent(objective=objective).model.observation_term
        loss, metrics = term(features, states, pixels, everyone)
        found.append((loss.item(), round(metrics["contrastive/log_pairs"].exp().item())))
    assert [pairs for _, pairs in found] == [15, 15, 30]
    # Twice the same candidates: a sum twice as large.
    assert found[2][0] == pytest.approx(found[0][0] + math.log(2.0), rel=1e-5)
    assert found[1][0] < found[0][0] - 0.02


def observation_codes(agent: CVRLAgent, features: torch.Tensor) -> torch.Tensor:
    term = agent.model.observation_term
    return term.bilinear(term.observation_code(features)).flatten(0, 1)


def test_the_generative_term_is_half_the_squared_distance_summed_over_pixels():
    agent = make_agent(objective=replace(OBJECTIVE, observation="generative"))
    pixels, actions, _, _ = to_tensors(make_batch())
    features, states = agent.observe(pixels, actions)
    loss, metrics = agent.model.observation_term(features, states, pixels)
    drawn = agent.model.observation_term.decoder(states.sampled().flatten(0, 1))
    gap = (drawn.detach().numpy() - pixels.flatten(0, 1).numpy()).astype(np.float64)
    assert loss.item() == pytest.approx(0.5 * (gap**2).sum((1, 2, 3)).mean(), rel=1e-5)
    error = metrics["reconstruction/pixel_error"].item()
    assert error == pytest.approx(math.sqrt((gap**2).mean()), rel=1e-5)


def test_without_an_observation_term_there_is_no_loss_of_it():
    model = make_model(replace(OBJECTIVE, observation="none"))
    features = torch.randn(5, 3, 16, requires_grad=True)
    loss, metrics = model.observation_term(features, None, None)
    assert loss.item() == 0.0 and metrics == {}
    assert count(model.observation_term) == 0


def test_the_reward_head_maps_each_state_to_one_number():
    model = make_model()
    states = torch.randn(5, 3, model.state_dims)
    hidden = F.elu(model.reward[0](states))
    expected = model.reward[2](hidden)[..., 0]
    assert model.predict_reward(states).shape == (5, 3)
    torch.testing.assert_close(model.predict_reward(states), expected)


@pytest.mark.parametrize("name", ["observation", "score", "contrastive_state"])
def test_unknown_forms_of_the_objective_name_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"objective\.{name}='guess': choose one of"):
        make_model(replace(OBJECTIVE, **{name: "guess"}))


def test_codes_of_unequal_widths_are_refused():
    with pytest.raises(ValueError, match=r"model\.observation_code_dims .* must be equal"):
        make_model(state_code_dims=(9,))


def test_proprioception_must_be_given_where_it_was_made_for_and_only_there():
    pixels, numbers = torch.rand(2, 3, 16, 16), torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"pictures alone.*environment\.proprioception"):
        make_agent(proprioception_size=4).model.encode(pixels)
    with pytest.raises(ValueError, match=r"environment\.proprioception"):
        make_agent().model.encode(pixels, numbers)


# Policy -------------------------------------------------------------------------------------------


def actor_of(**settings) -> DreamerActor:
    torch.manual_seed(0)
    return DreamerActor(replace(BEHAVIOR, **settings), state_dims=4, action_dims=ACTION_DIMS)


def test_the_actors_mean_is_bounded_and_its_spread_a_shifted_softplus():
    actor = actor_of(init_std=5.0)
    states = torch.randn(50, 4)
    raw_mean, raw_std = actor.network(states).chunk(2, -1)
    mean, log_std = actor.distribution(states)
    torch.testing.assert_close(mean, 5.0 * torch.tanh(raw_mean / 5.0))
    expected = torch.log1p((raw_std + math.log(math.expm1(5.0))).exp()) + 1e-4
    torch.testing.assert_close(log_std.exp(), expected)
    bounded, least = actor.distribution(1e4 * states)
    assert bounded.abs().max() <= 5.0
    assert least.exp().min() >= 0.99e-4


@pytest.mark.parametrize("std", [0.3, 5.0])
def test_the_actor_begins_with_the_standard_deviation_that_was_set(std):
    _, log_std = actor_of(init_std=std).distribution(torch.zeros(1, 4))
    assert log_std.exp()[0].tolist() == pytest.approx([std + 1e-4] * ACTION_DIMS, rel=1e-5)


def test_samples_are_bounded_with_the_log_probability_of_torch_distributions():
    actor, states = actor_of(init_std=0.5), torch.randn(20, 4)
    action, log_prob = actor.sample(states)
    assert action.shape == (20, ACTION_DIMS) and action.abs().max() < 1.0
    mean, log_std = (value.double() for value in actor.distribution(states))
    squashed = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()),
        torch.distributions.transforms.TanhTransform(),
    )
    expected = squashed.log_prob(action.double()).sum(-1)
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-3, atol=1e-3)


def test_an_action_of_given_noise_is_that_of_a_sample_with_the_same_noise():
    actor, states = actor_of(), torch.randn(20, 4)
    sample, _ = actor.sample(states, torch.Generator().manual_seed(2))
    noise = torch.randn(20, ACTION_DIMS, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(actor.action(states, noise), sample)


def test_the_mode_is_the_likeliest_of_its_samples_for_each_state():
    actor, states = actor_of(mode_samples=30), torch.randn(20, 4)
    mode = actor.mode(states, torch.Generator().manual_seed(2))
    mean, log_std = actor.distribution(states)
    noise = torch.randn(30, 20, ACTION_DIMS, generator=torch.Generator().manual_seed(2))
    unsquashed = mean + log_std.exp() * noise
    log_prob = tanh_gaussian_log_prob(unsquashed, mean, log_std).detach().numpy()
    for row in range(20):
        best = unsquashed[log_prob[:, row].argmax(), row]
        torch.testing.assert_close(mode[row], torch.tanh(best))


def test_without_samples_the_mode_is_the_squashed_mean():
    actor, states = actor_of(mode_samples=0), torch.randn(20, 4)
    mean, _ = actor.distribution(states)
    assert torch.equal(actor.mode(states), torch.tanh(mean))
