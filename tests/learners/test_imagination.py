"""Imagined trajectories, lambda-returns, and what the actor and the value network learn of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learners.behaviors.hybrid import HybridActorCritic
from learners.behaviors.imagination import Imagined, imagine, lambda_returns
from learners.models.layers import Gaussian
from learners.models.policy import DreamerActor
from learners.models.rssm import States
from tests.learners.cvrl_agents import BEHAVIOR, LinearWorld, make_agent

HORIZON, COUNT = 15, 6
LATENT, RECURRENT, ACTION = 3, 2, 2
GAMMA, LAMBDA = 0.99, 0.95


# Returns ------------------------------------------------------------------------------------------


def rewards_and_values(horizon: int = HORIZON) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(horizon, COUNT)), random.normal(size=(horizon, COUNT))


def returns_of(rewards: np.ndarray, values: np.ndarray, mix: float) -> np.ndarray:
    tensors = torch.from_numpy(rewards), torch.from_numpy(values)
    return lambda_returns(*tensors, GAMMA, mix).numpy()


def recursive(rewards: np.ndarray, values: np.ndarray, mix: float, t: int = 0) -> np.ndarray:
    """V_t = r_t + gamma ((1 - lambda) v_t+1 + lambda V_t+1), and V = v at the last state."""
    if t == len(values) - 1:
        return values[t]
    following = recursive(rewards, values, mix, t + 1)
    return rewards[t] + GAMMA * ((1 - mix) * values[t + 1] + mix * following)


def of_steps(rewards: np.ndarray, values: np.ndarray, t: int, count: int) -> np.ndarray:
    """V_N^k: the rewards of k steps and the value of where they end, within the trajectory."""
    end = min(t + count, len(values) - 1)
    earned = sum(GAMMA ** (n - t) * rewards[n] for n in range(t, end))
    return earned + GAMMA ** (end - t) * values[end]


def mixture(rewards: np.ndarray, values: np.ndarray, mix: float, t: int) -> np.ndarray:
    """Appendix A.2: the exponentially weighted mean of all V_N^k."""
    longest = len(values)
    shorter = sum(mix ** (k - 1) * of_steps(rewards, values, t, k) for k in range(1, longest))
    return (1 - mix) * shorter + mix ** (longest - 1) * of_steps(rewards, values, t, longest)


@pytest.mark.parametrize("mix", [0.0, 0.3, LAMBDA, 1.0])
def test_returns_follow_the_recursion(mix):
    rewards, values = rewards_and_values()
    expected = [recursive(rewards, values, mix, t) for t in range(HORIZON - 1)]
    np.testing.assert_allclose(returns_of(rewards, values, mix), expected, rtol=1e-12)


@pytest.mark.parametrize("mix", [0.0, 0.3, LAMBDA, 1.0])
def test_returns_are_the_mixture_of_returns_of_1_to_h_steps(mix):
    rewards, values = rewards_and_values()
    expected = [mixture(rewards, values, mix, t) for t in range(HORIZON - 1)]
    np.testing.assert_allclose(returns_of(rewards, values, mix), expected, rtol=1e-11)


def test_fifteen_states_give_fourteen_returns_and_the_fifteenth_only_its_value():
    rewards, values = rewards_and_values()
    returns = returns_of(rewards, values, LAMBDA)
    assert returns.shape == (HORIZON - 1, COUNT)
    rewards[-1] += 100.0
    np.testing.assert_array_equal(returns_of(rewards, values, LAMBDA), returns)
    values[-1] += 1.0
    moved = returns_of(rewards, values, LAMBDA) - returns
    expected = [GAMMA * (GAMMA * LAMBDA) ** (HORIZON - 2 - t) for t in range(HORIZON - 1)]
    np.testing.assert_allclose(moved[:, 0], expected, rtol=1e-9)


def test_lambda_0_takes_one_reward_and_lambda_1_all_of_them():
    rewards, values = rewards_and_values()
    np.testing.assert_allclose(
        returns_of(rewards, values, 0.0), rewards[:-1] + GAMMA * values[1:], rtol=1e-12
    )
    powers = GAMMA ** np.arange(HORIZON)
    whole = powers[:-1] @ rewards[:-1] + powers[-1] * values[-1]
    np.testing.assert_allclose(returns_of(rewards, values, 1.0)[0], whole, rtol=1e-12)


# Trajectories -------------------------------------------------------------------------------------


def start(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return states to begin with, and the noise of the dynamics."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((COUNT, LATENT), (COUNT, RECURRENT), (HORIZON, COUNT, LATENT))
    latent, recurrent, noise = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes
    )
    return latent, recurrent, noise


def rolled(choose: Callable[[int, Tensor], Tensor]) -> tuple[LinearWorld, Imagined]:
    torch.manual_seed(0)
    world = LinearWorld(LATENT, RECURRENT, ACTION)
    return world, imagine(world.rssm, choose, *start())  # type: ignore[arg-type]


def test_each_state_follows_from_the_one_before_and_the_action_of_its_row():
    asked = []

    def choose(number: int, state: Tensor) -> Tensor:
        asked.append((number, state))
        return torch.tanh(state[:, :ACTION] + number)

    world, imagined = rolled(choose)
    latent, recurrent, noise = start()
    assert imagined.states.shape == (HORIZON, COUNT, LATENT + RECURRENT)
    assert imagined.actions.shape == (HORIZON, COUNT, ACTION)
    for number in range(HORIZON):
        assert asked[number][0] == number
        state = torch.cat([latent, recurrent], -1)
        torch.testing.assert_close(asked[number][1], state)
        action = torch.tanh(state[:, :ACTION] + number)
        torch.testing.assert_close(imagined.actions[number], action)
        latent, recurrent = world.rssm.predict(latent, recurrent, action, noise[number])
        torch.testing.assert_close(imagined.states[number], torch.cat([latent, recurrent], -1))


def test_gradient_passes_from_every_state_to_all_actions_before_it_and_to_no_input_of_the_policy():
    actions = [
        torch.randn(COUNT, ACTION, dtype=torch.float64, requires_grad=True) for _ in range(HORIZON)
    ]
    seen = []

    def choose(number: int, state: Tensor) -> Tensor:
        seen.append(state)
        return actions[number]

    _, imagined = rolled(choose)
    assert not any(state.requires_grad for state in seen)
    for number in (0, 4, HORIZON - 1):
        gradients = torch.autograd.grad(
            imagined.states[number].sum(), actions, retain_graph=True, allow_unused=True
        )
        reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        assert reached == [index <= number for index in range(HORIZON)]


# What is learned ----------------------------------------------------------------------------------


class OneWeightActor(DreamerActor):
    """A policy of one weight: the mean is the weight times the first entries of the state.

    It notes the states that it is asked about. Given `instead`, it answers those, one by one, in
    the place of the states that it is asked about.
    """

    def __init__(self, weight: float) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.asked: list[Tensor] = []
        self.instead: list[Tensor] | None = None

    def distribution(self, states: Tensor) -> tuple[Tensor, Tensor]:
        if self.instead is not None:
            states = self.instead[len(self.asked)]
        self.asked.append(states)
        mean = self.weight * states[..., :ACTION]
        return mean, torch.full_like(mean, -1.0)


def toy(seed: int = 0) -> tuple[HybridActorCritic, LinearWorld, States]:
    """Return a behaviour with linear value in a linear world, and states to begin with."""
    torch.manual_seed(seed)
    settings = replace(BEHAVIOR, sac_scale=0.0, horizon=5, value_dims=(), return_lambda=0.8)
    behavior = HybridActorCritic(settings, LATENT + RECURRENT, ACTION).double()
    world = LinearWorld(LATENT, RECURRENT, ACTION)
    latent, recurrent, _ = start()
    latent, recurrent = latent.view(2, 3, LATENT), recurrent.view(2, 3, RECURRENT)
    return behavior, world, States(recurrent, latent, Gaussian(latent, torch.zeros_like(latent)))


def losses_at(weight: float, instead: list[Tensor] | None = None):
    """Return actor, value and actor's loss and value's loss with that weight, noise fixed."""
    behavior, world, states = toy()
    behavior.sac.actor = actor = OneWeightActor(weight)
    actor.instead = instead
    unused = torch.zeros(2, 3)
    losses, _ = behavior.losses(
        world,  # type: ignore[arg-type]
        states,
        torch.zeros(2, 3, ACTION),
        unused,
        unused,
        torch.Generator().manual_seed(1),
    )
    return actor, behavior, losses


def difference(function: Callable[[float], float], at: float, step: float = 1e-5) -> float:
    return (function(at + step) - function(at - step)) / (2 * step)


def test_the_actors_gradient_is_the_finite_difference_with_the_policys_inputs_held_fixed():
    """The policy's inputs are detached: actions change the states that follow, but states change
    no action. So the difference is taken with the policy answering the states of the weight in the
    middle; where its inputs may move, the derivative is another.
    """
    weight = 0.7
    actor, _, losses = losses_at(weight)
    losses.actor.backward()
    assert actor.weight.grad is not None
    inputs = [state.detach() for state in actor.asked]
    held = difference(lambda w: losses_at(w, inputs)[2].actor.item(), weight)
    moving = difference(lambda w: losses_at(w)[2].actor.item(), weight)
    assert abs(held) > 1e-2
    assert actor.weight.grad.item() == pytest.approx(held, rel=1e-6)
    assert abs(moving - held) > 1e-2 * abs(held)


def test_the_values_gradient_is_the_finite_difference_with_the_returns_held_fixed():
    _, behavior, losses = losses_at(0.7)
    losses.value.backward()
    linear = behavior.value[0]
    states, returns, left = trajectory(0.7)

    def loss(index: int, moved: float) -> float:
        weight = linear.weight.detach().clone()[0]
        weight[index] += moved
        values = states[:-1] @ weight + linear.bias.detach()
        return (0.5 * left * (values - returns).square()).mean().item()

    assert losses.value.item() == pytest.approx(loss(0, 0.0), rel=1e-6)
    for index in range(LATENT + RECURRENT):
        expected = difference(lambda moved, index=index: loss(index, moved), 0.0)
        assert linear.weight.grad[0, index].item() == pytest.approx(expected, rel=1e-5)


def trajectory(weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return imagined states (H, N, D), their returns (H - 1, N) and what is left of gamma."""
    actor, behavior, _ = losses_at(weight)
    _, world, begun = toy()
    states = torch.stack(actor.asked).detach()
    # The policy is asked about all states but the last, and about those that it begins with.
    generator, horizon = torch.Generator().manual_seed(1), behavior.settings.horizon
    policy_noise = torch.randn(2 * horizon, 3, ACTION, generator=generator)
    prior_noise = torch.randn(2 * horizon, 3, LATENT, generator=generator)
    action = actor.action(states[-1], policy_noise.view(horizon, COUNT, ACTION)[-1])
    last = world.rssm.predict(
        states[-1][:, :LATENT],
        states[-1][:, LATENT:],
        action,
        prior_noise.view(horizon, COUNT, LATENT)[-1],
    )
    begin = torch.cat([begun.latent, begun.recurrent], -1).flatten(0, 1)
    torch.testing.assert_close(states[0], begin)
    states = torch.cat([states[1:], torch.cat(last, -1)[None]]).detach()
    rewards = world.predict_reward(states).detach().numpy()
    values = behavior.predict_value(states).detach().numpy()
    mix = behavior.settings.return_lambda
    returns = [recursive(rewards, values, mix, t) for t in range(horizon - 1)]
    left = GAMMA ** torch.arange(horizon - 1.0, dtype=torch.float64)
    return states, torch.from_numpy(np.stack(returns)), left[:, None]


def test_the_actors_loss_is_minus_the_mean_return_weighted_by_what_is_left_of_the_discount():
    _, _, losses = losses_at(0.7)
    _, returns, left = trajectory(0.7)
    assert losses.actor.item() == pytest.approx(-(left * returns).mean().item(), rel=1e-6)


def test_all_filtered_states_are_begun_from_and_the_imagined_part_can_be_weighed():
    agent = make_agent(sac_scale=0.0)
    lighter = make_agent(sac_scale=0.0, imagination_scale=0.25)
    lighter.load_state_dict(agent.state_dict())
    generator = torch.Generator()
    states = States(
        torch.randn(3, 2, agent.model.rssm.recurrent_dims),
        torch.randn(3, 2, agent.model.rssm.latent_dims),
        Gaussian(torch.zeros(3, 2, 6), torch.zeros(3, 2, 6)),
    )
    unused = torch.zeros(3, 2, ACTION), torch.zeros(3, 2), torch.zeros(3, 2)
    found = []
    for each in (agent, lighter):
        arguments = (each.model, states, *unused, generator.manual_seed(2))
        found.append(each.behavior.losses(*arguments)[0])
    assert found[1].actor.item() == pytest.approx(0.25 * found[0].actor.item(), rel=1e-6)
    assert torch.equal(found[1].value, found[0].value)
    for t, b in ((0, 0), (2, 1)):
        moved = replace(states, latent=states.latent.clone())
        moved.latent[t, b] += 1.0
        losses, _ = agent.behavior.losses(agent.model, moved, *unused, generator.manual_seed(2))
        assert losses.actor.item() != found[0].actor.item(), (t, b)
