"""CVRL's agent: its losses, who learns from which, and how it acts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learners.behaviors.sac import frozen
from learners.cvrl import CVRLAgent
from learners.cvrl_settings import CVRLObjectiveSettings
from learners.models.layers import Gaussian
from learners.models.rssm import States
from tests.learners.cvrl_agents import (
    ACTION_DIMS,
    MODEL,
    OBJECTIVE,
    Pool,
    make_agent,
    make_batch,
    make_frames,
    to_tensors,
)

# The CELBO ----------------------------------------------------------------------------------------


def observed(agent: CVRLAgent) -> tuple[Tensor, States, Tensor, Tensor]:
    """Return features, states, pixels and rewards of the random batch."""
    pixels, actions, rewards, _ = to_tensors(make_batch())
    features, states = agent.observe(pixels, actions, torch.Generator().manual_seed(1))
    return features, states, pixels, rewards


def test_the_models_loss_is_the_weighted_sum_of_its_three_terms():
    objective = replace(
        OBJECTIVE, observation_scale=2.0, reward_scale=3.0, kl_scale=5.0, free_nats=0.0
    )
    agent = make_agent(objective=objective)
    loss, metrics = agent.model_loss(*observed(agent))
    terms = [metrics[f"loss/{name}"].item() for name in ("contrastive", "reward", "kl")]
    assert min(terms) > 0.0
    assert loss.item() == pytest.approx(2.0 * terms[0] + 3.0 * terms[1] + 5.0 * terms[2], rel=1e-6)
    assert metrics["loss/model"].item() == loss.item()


def test_rewards_are_predicted_by_the_state_that_they_led_to():
    agent = make_agent()
    features, states, pixels, rewards = observed(agent)
    _, metrics = agent.model_loss(features, states, pixels, rewards)
    predicted = agent.model.predict_reward(states.sampled()).detach().numpy()
    expected = 0.5 * ((predicted[1:] - rewards.numpy()[:-1]) ** 2).mean()
    assert metrics["loss/reward"].item() == pytest.approx(expected, rel=1e-5)


def test_the_divergence_is_that_of_torch_distributions():
    agent = make_agent()
    features, states, pixels, rewards = observed(agent)
    _, metrics = agent.model_loss(features, states, pixels, rewards)
    prior = agent.model.rssm.prior(states.recurrent)
    posterior, prior = (
        torch.distributions.Normal(each.mean.double(), each.log_std.double().exp())
        for each in (states.posterior, prior)
    )
    expected = torch.distributions.kl_divergence(posterior, prior).sum(-1).mean()
    assert metrics["kl/nats"].item() == pytest.approx(expected.item(), rel=1e-4)


ONLY_KL = CVRLObjectiveSettings(observation="none", reward_scale=0.0, kl_scale=2.0)


def kl_alone(nats: list[list[float]], pooled: float | None = None) -> tuple[float, Tensor]:
    """Return the model's loss and its gradient of the posterior means where step t of window b is
    so many nats off its prior, and KL is all of the loss.
    """
    agent = make_agent(objective=ONLY_KL)
    wanted = torch.tensor(nats)
    recurrent = torch.zeros(*wanted.shape, MODEL.recurrent_dims)
    prior = agent.model.rssm.prior(recurrent).detach()
    # Of two Gaussians of one spread it is half the squared distance of the means in spreads.
    shift = (2.0 * wanted / MODEL.latent_dims).sqrt()[..., None] * prior.log_std.exp()
    mean = (prior.mean + shift).requires_grad_()
    states = States(recurrent, mean.detach(), Gaussian(mean, prior.log_std))
    learners = {} if pooled is None else {"learners": Pool(0, 2, torch.tensor(pooled))}
    features, pixels = torch.zeros(*wanted.shape, 16), torch.zeros(*wanted.shape, 3, 16, 16)
    loss, metrics = agent.model_loss(features, states, pixels, torch.zeros_like(wanted), **learners)
    assert metrics["kl/nats"].item() == pytest.approx(wanted.mean().item(), rel=1e-4)
    loss.backward()
    assert mean.grad is not None
    return loss.item(), mean.grad.abs().sum(-1)


def test_free_nats_are_a_floor_of_the_mean_and_not_of_each_step():
    loss, gradient = kl_alone([[1.0, 10.0], [10.0, 1.0]])
    assert loss == pytest.approx(2.0 * 5.5, rel=1e-4)
    assert (gradient > 0.0).all()  # a floor of each step would leave those of 1 nat alone
    loss, gradient = kl_alone([[0.0, 10.0], [10.0, 0.0]])
    assert loss == pytest.approx(2.0 * 5.0, rel=1e-4)
    assert (gradient[[0, 1], [1, 0]] > 0.0).all()


def test_a_mean_divergence_below_the_free_nats_has_no_gradient():
    loss, gradient = kl_alone([[10.0, 0.5], [0.5, 0.5]])  # one step alone is above
    assert loss == pytest.approx(2.0 * 3.0)
    assert not gradient.any()


def test_the_floor_is_of_the_mean_over_all_learners():
    loss, gradient = kl_alone([[2.0], [2.0]], pooled=3.5)
    assert loss == pytest.approx(2.0 * 2.0, rel=1e-4)  # and 5 nats of the other: 3.5 together
    assert gradient.all()
    assert not kl_alone([[4.0], [4.0]], pooled=2.5)[1].any()


# Who learns from what -----------------------------------------------------------------------------

PARTS = {
    "encoder": "model.encoder.",
    "transition": ("model.rssm.transition_input.", "model.rssm.cell."),
    "prior": "model.rssm.prior_head.",
    "posterior": "model.rssm.posterior_head.",
    "codes": ("model.observation_term.observation_code.", "model.observation_term.state_code."),
    "W": "model.observation_term.bilinear.",
    "decoder": "model.observation_term.decoder.",
    "reward": "model.reward.",
    "actor": "behavior.sac.actor.",
    "value": "behavior.value.",
    "critics": "behavior.sac.critics.",
    "targets": "behavior.sac.target_critics.",
    "temperature": "behavior.sac.log_alpha",
}
FILTER = {"encoder", "transition", "posterior"}


def reached(agent: CVRLAgent, loss: Tensor) -> set[str]:
    """Return the parts of which some parameter gets gradient from a loss."""
    agent.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    known = set()
    for name, parameter in agent.named_parameters():
        (part,) = [part for part, beginnings in PARTS.items() if name.startswith(beginnings)]
        if parameter.grad is not None and parameter.grad.any():
            known.add(part)
    return known


def losses_of(agent: CVRLAgent) -> dict[str, Tensor]:
    """Return the model's loss, and those of the behaviour from states with gradient."""
    pixels, actions, rewards, discounts = to_tensors(make_batch())
    features, states = agent.observe(pixels, actions)
    model, _ = agent.model_loss(features, states, pixels, rewards)
    behavior, _ = agent.behavior.losses(agent.model, states, actions, rewards, discounts)
    return {"model": model} | behavior._asdict()


@pytest.mark.parametrize(
    ("observation", "extra"),
    [("contrastive", {"codes", "W"}), ("generative", {"decoder"}), ("none", set())],
)
def test_the_celbo_trains_the_model_alone(observation, extra):
    objective = replace(OBJECTIVE, observation=observation, free_nats=0.0)
    agent = make_agent(objective=objective)
    found = reached(agent, losses_of(agent)["model"])
    assert found == FILTER | {"prior", "reward"} | extra


def test_below_the_free_nats_nothing_trains_the_prior():
    agent = make_agent(objective=replace(OBJECTIVE, free_nats=1e6))
    assert reached(agent, losses_of(agent)["model"]) == FILTER | {"reward", "codes", "W"}


def test_the_contrast_reaches_the_encoder_through_states_and_through_observations():
    agent = make_agent()
    features, states, pixels, _ = observed(agent)
    term = agent.model.observation_term
    by_states, _ = term(features.detach(), states, pixels)
    assert reached(agent, by_states) == FILTER | {"codes", "W"}
    still = States(states.recurrent.detach(), states.latent.detach(), states.posterior.detach())
    by_observations, _ = term(features, still, pixels)
    assert reached(agent, by_observations) == {"encoder", "codes", "W"}


@pytest.mark.parametrize("observation", ["contrastive", "generative", "none"])
@pytest.mark.parametrize("loss", ["actor", "value", "critics", "temperature"])
def test_each_loss_of_the_behavior_trains_the_part_of_its_name_alone(observation, loss):
    objective = replace(OBJECTIVE, observation=observation)
    agent = make_agent(objective=objective, learn_temperature=True)
    assert reached(agent, losses_of(agent)[loss]) == {loss}


def test_actor_learns_from_imagination_and_from_real_states_each_alone():
    for scales in ((1.0, 0.0), (0.0, 1.0)):
        agent = make_agent(imagination_scale=scales[0], sac_scale=scales[1])
        assert reached(agent, losses_of(agent)["actor"]) == {"actor"}


def test_frozen_modules_pass_gradient_on_collect_none_and_are_thawed_afterwards():
    module, inputs = nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    module.bias.requires_grad_(False)  # frozen before: stays so
    with frozen(module):
        assert not any(parameter.requires_grad for parameter in module.parameters())
        outputs = module(inputs)
    outputs.sum().backward()  # after the fact
    assert module.weight.grad is None
    assert inputs.grad is not None and inputs.grad.any()
    assert module.weight.requires_grad and not module.bias.requires_grad


def test_frozen_modules_are_thawed_after_an_error():
    module = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="inside"), frozen(module):
        raise RuntimeError("inside")
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("released_code", [False, True])
def test_losses_leave_every_parameter_as_trainable_as_it_was(released_code):
    agent = make_agent(released_code=released_code)
    before = {name: p.requires_grad for name, p in agent.named_parameters()}
    losses_of(agent)
    assert before == {name: p.requires_grad for name, p in agent.named_parameters()}
    assert {name for name, trained in before.items() if not trained} == {
        name for name in before if "target_critics" in name
    }


# Acting -------------------------------------------------------------------------------------------


def test_a_filter_of_steps_is_that_of_the_training_unroll():
    agent = make_agent(model=replace(MODEL, min_std=1e-12))
    with torch.no_grad():  # no spread of the posterior: both see the same latent states
        agent.model.rssm.posterior_head.network[-1].bias[MODEL.latent_dims :] = -60.0
        agent.model.rssm.cell.bias_ih.uniform_(-0.5, 0.5)  # so that the first step shows, too
    batch = make_batch()
    state, first = agent.initial_state(3), np.ones(3, bool)
    actions, recurrents, latents = [], [], []
    for observation in batch["observation"]:
        action, state = agent.act(observation, state, first, explore=True)
        first = np.zeros(3, bool)
        actions.append(action)
        recurrents.append(state["recurrent"])
        latents.append(state["latent"])
    pixels = to_tensors(batch)[0]
    _, states = agent.observe(pixels, torch.from_numpy(np.stack(actions)))
    assert states.recurrent[0].abs().max() > 0.01
    torch.testing.assert_close(torch.stack(recurrents), states.recurrent)
    torch.testing.assert_close(torch.stack(latents), states.latent)


FIRST = np.ones(3, bool)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def acted(agent: CVRLAgent, explore: bool = False, state=None, first=FIRST, seed: int = 1):
    """Return actions of three environments, and the next states, with one seed's noise."""
    state = agent.initial_state(3) if state is None else state
    return agent.act(make_frames(3), state, first, explore, seeded(seed))


@pytest.mark.parametrize("mpc", [True, False])
@pytest.mark.parametrize("explore", [True, False])
def test_actions_are_bounded_float32_and_repeat_with_a_generator(mpc, explore):
    agent = make_agent(mpc=mpc, init_std=5.0, mpc_step_size=100.0, mpc_iterations=2)
    frames = make_frames(3)
    frames.setflags(write=False)  # arrays from an object store are read-only
    actions, state = agent.act(frames, agent.initial_state(3), FIRST, explore, seeded())
    assert actions.dtype == np.float32 and actions.shape == (3, ACTION_DIMS)
    assert np.abs(actions).max() <= 1.0
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "recurrent": (3, MODEL.recurrent_dims),
        "latent": (3, MODEL.latent_dims),
        "action": (3, ACTION_DIMS),
    }
    assert not any(value.requires_grad for value in state.values())
    np.testing.assert_array_equal(state["action"].numpy(), actions)
    np.testing.assert_array_equal(acted(agent, explore)[0], actions)
    assert not np.array_equal(acted(agent, explore, seed=2)[0], actions)


def test_an_episode_start_forgets_the_state_of_its_environment_only():
    agent = make_agent()
    with torch.no_grad():
        agent.model.rssm.cell.bias_ih.uniform_(-0.5, 0.5)
    fresh_action, fresh = acted(agent)
    used = {name: torch.randn_like(value) for name, value in fresh.items()}
    action, state = acted(agent, state=used, first=np.array([True, False, True]))
    for name, value in state.items():
        torch.testing.assert_close(value[[0, 2]], fresh[name][[0, 2]])
        assert not torch.allclose(value[1], fresh[name][1]), name
    np.testing.assert_allclose(action[[0, 2]], fresh_action[[0, 2]], rtol=1e-5)


def test_evaluation_without_planning_takes_the_mode_and_collection_a_sample():
    agent = make_agent(mpc=False, mode_samples=0, exploration_noise=0.0)
    mode, state = acted(agent, explore=False)
    states = torch.cat([state["latent"], state["recurrent"]], -1)
    expected = torch.tanh(agent.behavior.actor.distribution(states)[0])
    np.testing.assert_allclose(mode, expected.detach().numpy(), rtol=1e-5)
    sample, same_state = acted(agent, explore=True)
    assert torch.equal(same_state["latent"], state["latent"])
    assert np.abs(sample - mode).max() > 0.05


def test_planning_chooses_the_action_in_evaluation_and_in_collection():
    still = make_agent(mpc_step_size=0.0, exploration_noise=0.0)
    planning = make_agent(mpc_step_size=0.1, exploration_noise=0.0)
    planning.load_state_dict(still.state_dict())
    for explore in (False, True):
        before, state = acted(still, explore)
        after, _ = acted(planning, explore)
        assert (np.abs(after - before) > 1e-5).any(1).all()
        generator = seeded()
        torch.randn(3, MODEL.latent_dims, generator=generator)  # the posterior's
        planned = planning.planner.plan(state["latent"], state["recurrent"], generator)
        np.testing.assert_allclose(after, planned.numpy(), rtol=1e-5, atol=1e-6)


def test_exploring_adds_noise_of_its_standard_deviation_and_clips():
    agents = [make_agent(mpc=False, init_std=0.05, exploration_noise=std) for std in (0.0, 0.2)]
    frames = np.repeat(make_frames(1), 800, 0)
    plain, noisy = (
        a.act(frames, a.initial_state(800), np.ones(800, bool), True, seeded())[0] for a in agents
    )
    noise = noisy - plain
    assert noise.std() == pytest.approx(0.2, rel=0.1)
    assert abs(noise.mean()) < 0.03
    loud = make_agent(mpc=False, exploration_noise=50.0)
    assert np.abs(acted(loud, explore=True)[0]).tolist() == [[1.0] * ACTION_DIMS] * 3
    quiet = make_agent(mpc=False, exploration_noise=0.0)
    np.testing.assert_array_equal(acted(loud)[0], acted(quiet)[0])  # none in evaluation


@pytest.mark.parametrize("mpc", [True, False])
def test_published_weights_make_another_agent_act_alike(mpc):
    source, target = (make_agent(seed, mpc=mpc) for seed in (1, 2))
    assert not np.array_equal(acted(source)[0], acted(target)[0])
    weights = source.acting_weights()
    flat = torch.empty(weights.size)
    weights.flatten(flat)
    target.acting_weights().load((weights.layout, flat.numpy()))
    for explore in (False, True):
        np.testing.assert_array_equal(acted(source, explore)[0], acted(target, explore)[0])


def test_reward_and_value_are_published_to_those_alone_who_plan():
    filters = {"model.encoder", "model.rssm", "behavior.sac.actor"}
    for mpc, needed in ((False, filters), (True, filters | {"model.reward", "behavior.value"})):
        agent = make_agent(mpc=mpc)
        names = agent.acting_tensors()
        found = {part for part in needed if any(name.startswith(f"{part}.") for name in names)}
        assert found == needed
        assert all(name.startswith(tuple(f"{part}." for part in needed)) for name in names)
        parameters = dict(agent.named_parameters())
        assert all(names[name] is parameters[name] for name in names)


def test_proprioception_beside_pictures_is_seen_in_training_and_in_acting():
    agent = make_agent(proprioception_size=4)
    assert any("proprioception_encoder" in name for name in agent.acting_tensors())
    random = np.random.default_rng(1)
    numbers = random.normal(size=(3, 4)).astype(np.float32)
    pictures = make_frames(3)
    actions = []
    for shift in (0.0, 1.0):
        observation = {"observation": pictures, "proprioception": numbers + np.float32(shift)}
        state = agent.initial_state(3)
        actions.append(agent.act(observation, state, FIRST, False, seeded())[0])
    assert (np.abs(actions[1] - actions[0]) > 1e-6).any(1).all()
    pixels, taken, _, _ = to_tensors(make_batch())
    beside = torch.from_numpy(random.normal(size=(5, 3, 4)).astype(np.float32))
    features, _ = agent.observe(pixels, taken, proprioception=beside)
    assert features.shape == (5, 3, agent.model.encoder.output_dims + 6)
    features.sum().backward()
    assert agent.model.proprioception_encoder[0].weight.grad.any()
    with pytest.raises(ValueError, match=r"environment\.proprioception"):
        agent.act(pictures, agent.initial_state(3), FIRST, False)


def test_unknown_actions_to_plan_name_the_known_ones():
    with pytest.raises(ValueError, match=r"behavior\.mpc_actions='last': choose one of"):
        make_agent(mpc_actions="last")
