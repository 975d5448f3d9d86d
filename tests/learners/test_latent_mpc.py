"""Planning: gradient ascent on imagined returns, each environment by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learners.behaviors.hybrid import HybridActorCritic
from learners.cvrl import CVRLAgent
from learners.noise import Generator, SharedGenerator
from learners.planners.latent_mpc import LatentMPC
from tests.learners.cvrl_agents import BEHAVIOR, make_agent

COUNT, HORIZON, STEP_SIZE = 5, 4, 0.05
FORMS = ("first", "all")


def present(agent: CVRLAgent, count: int = COUNT) -> tuple[Tensor, Tensor]:
    """Return random present states of `count` environments."""
    random = torch.Generator().manual_seed(5)
    rssm = agent.model.rssm
    latent = torch.randn(count, rssm.latent_dims, generator=random)
    return latent, torch.randn(count, rssm.recurrent_dims, generator=random).tanh()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def plan(
    agent: CVRLAgent, latent: Tensor, recurrent: Tensor, generator: Generator = None
) -> Tensor:
    assert agent.planner is not None
    return agent.planner.plan(latent, recurrent, generator or seeded())


class NotedMPC(LatentMPC):
    """Notes the returns of every imagined trajectory."""

    def __init__(self, agent: CVRLAgent, **settings) -> None:
        super().__init__(replace(agent.settings, **settings), agent.model, agent.behavior)
        self.noted: list[Tensor] = []

    def returns(self, states: Tensor) -> Tensor:
        returns = super().returns(states)
        self.noted.append(returns.detach())
        return returns


# On a model of random weights ---------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_environments_imagined_return_rises_with_each_step_of_ascent(form):
    agent = make_agent()
    planner = NotedMPC(agent, mpc_actions=form, mpc_iterations=6, mpc_step_size=STEP_SIZE)
    planner.plan(*present(agent), seeded())
    returns = torch.stack(planner.noted)  # (iterations, N)
    assert returns.shape == (6, COUNT)
    assert (returns[1:] > returns[:-1]).all()


def test_moving_all_actions_raises_the_imagined_return_more_than_moving_the_first():
    agent = make_agent()
    reached = {}
    for form in FORMS:
        planner = NotedMPC(agent, mpc_actions=form, mpc_iterations=6, mpc_step_size=STEP_SIZE)
        planner.plan(*present(agent), seeded())
        reached[form] = planner.noted[-1]
    assert (reached["all"] > reached["first"]).all()


def test_with_one_step_both_forms_give_the_same_first_action():
    first, every = (
        plan(agent, *present(agent))
        for agent in (make_agent(mpc_actions=form, mpc_step_size=STEP_SIZE) for form in FORMS)
    )
    assert torch.equal(first, every)
    first, every = (
        plan(agent, *present(agent))
        for agent in (
            make_agent(mpc_actions=form, mpc_step_size=STEP_SIZE, mpc_iterations=3)
            for form in FORMS
        )
    )
    assert not torch.equal(first, every)


@pytest.mark.parametrize("form", FORMS)
def test_environments_together_are_planned_for_as_each_alone(form):
    agent = make_agent(mpc_actions=form, mpc_iterations=3, mpc_step_size=0.5)
    latent, recurrent = present(agent)
    together = plan(agent, latent, recurrent)
    still = plan(make_agent(mpc_step_size=0.0), latent, recurrent)
    assert ((together - still).abs().amax(1) > 1e-4).all()
    for row in range(COUNT):
        noise = SharedGenerator(seeded(), row, COUNT)
        one = slice(row, row + 1)
        alone = plan(agent, latent[one], recurrent[one], noise)
        torch.testing.assert_close(alone[0], together[row])


def test_an_environment_is_planned_for_without_regard_to_the_first_one():
    agent = make_agent(mpc_iterations=3, mpc_step_size=0.5)
    latent, recurrent = present(agent)
    before = plan(agent, latent, recurrent)
    latent, recurrent = latent.clone(), recurrent.clone()
    latent[0], recurrent[0] = -9.0, 0.9
    after = plan(agent, latent, recurrent)
    assert not torch.equal(after[0], before[0])
    torch.testing.assert_close(after[1:], before[1:])


@pytest.mark.parametrize("form", FORMS)
def test_actions_stay_within_their_bounds_however_large_the_step(form):
    agent = make_agent(mpc_actions=form, mpc_iterations=3, mpc_step_size=1e6)
    actions = plan(agent, *present(agent))
    assert actions.shape == (COUNT, agent.action_dims)
    assert actions.abs().max() <= 1.0
    assert (actions.abs() == 1.0).all()  # where such steps lead


def test_a_plan_carries_no_gradient_and_leaves_none_behind():
    agent = make_agent(mpc_iterations=2)
    latent, recurrent = (value.requires_grad_() for value in present(agent))
    assert not plan(agent, latent, recurrent).requires_grad
    assert latent.grad is None and recurrent.grad is None
    assert all(parameter.grad is None for parameter in agent.parameters())
    trained = {name for name, p in agent.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in agent.named_parameters() if "target_critics" not in name}


def test_planning_without_steps_of_any_size_is_a_sample_of_the_policy():
    agent = make_agent(mpc_step_size=0.0)
    latent, recurrent = present(agent)
    states = torch.cat([latent, recurrent], -1)
    noise = torch.randn(HORIZON, COUNT, agent.action_dims, generator=seeded())
    expected = agent.behavior.actor.action(states, noise[0])
    torch.testing.assert_close(plan(agent, latent, recurrent), expected)


def test_plans_repeat_with_a_generator_and_differ_without():
    agent = make_agent()
    states = present(agent)
    assert torch.equal(plan(agent, *states), plan(agent, *states))
    assert agent.planner is not None
    assert not torch.equal(agent.planner.plan(*states), agent.planner.plan(*states))


# On a model made by hand --------------------------------------------------------------------------

GOAL = np.array([0.4, -0.3])
DISCOUNT, MIX = 0.9, 0.5


class Point(nn.Module):
    """A point that each action moves by itself, and a reward of minus its squared distance."""

    latent_dims = recurrent_dims = action_dims = 2

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    @property
    def rssm(self) -> Point:
        return self

    def predict(
        self, latent: Tensor, recurrent: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        self.given.append(action.detach().clone())
        return latent + action, recurrent

    def predict_reward(self, states: Tensor) -> Tensor:
        return -(states[..., :2] - torch.from_numpy(GOAL)).square().sum(-1)


def by_hand(position: np.ndarray, actions: np.ndarray, moved: int, steps: int) -> np.ndarray:
    """Return actions (H, N, 2) after steps of ascent on the sum over k of (gamma lambda)^k r_k.

    Rewards of all states but the last count; the state of row k is the position and the actions
    up to k, so action j feels every reward from k = j on.
    """
    actions, decay = actions.copy(), DISCOUNT * MIX
    for _ in range(steps):
        states = position + np.cumsum(actions, 0)
        pulls = -2.0 * (states - GOAL)
        gradients = [
            sum((decay**k * pulls[k] for k in range(j, HORIZON - 1)), np.zeros_like(position))
            for j in range(HORIZON)
        ]
        for j in range(moved):
            actions[j] = np.clip(actions[j] + STEP_SIZE * gradients[j], -1.0, 1.0)
    return actions


def point_plan(form: str, iterations: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Return positions, the actions of every imagined trajectory, and the planned ones."""
    torch.manual_seed(0)
    settings = replace(
        BEHAVIOR,
        mpc_actions=form,
        mpc_iterations=iterations,
        mpc_step_size=STEP_SIZE,
        discount=DISCOUNT,
        return_lambda=MIX,
        value_dims=(),
    )
    behavior = HybridActorCritic(settings, 4, 2).double()
    nn.init.zeros_(behavior.value[0].weight)  # type: ignore[arg-type]
    point = Point()
    planner = LatentMPC(settings, point, behavior)  # type: ignore[arg-type]
    latent = torch.randn(COUNT, 2, dtype=torch.float64, generator=seeded())
    planned = planner.plan(latent, torch.zeros_like(latent), seeded())
    given = torch.stack(point.given).view(iterations, HORIZON, COUNT, 2).numpy()
    return latent.numpy(), list(given), planned.numpy()


def test_one_step_moves_the_first_action_by_the_step_size_times_the_gradient():
    position, (actions,), planned = point_plan("first", 1)
    states = position + np.cumsum(actions, 0)
    gradient = sum((DISCOUNT * MIX) ** k * -2.0 * (states[k] - GOAL) for k in range(HORIZON - 1))
    moved = np.clip(actions[0] + STEP_SIZE * gradient, -1.0, 1.0)
    assert np.abs(STEP_SIZE * gradient).min() > 1e-4
    np.testing.assert_allclose(planned, moved, rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_several_steps_are_those_written_out_by_hand(form):
    position, given, planned = point_plan(form, 3)
    moved = {"first": 1, "all": HORIZON}[form]
    for steps, actions in enumerate(given):
        np.testing.assert_allclose(actions, by_hand(position, given[0], moved, steps), rtol=1e-9)
    np.testing.assert_allclose(planned, by_hand(position, given[0], moved, 3)[0], rtol=1e-9)


def test_the_first_form_leaves_all_later_actions_as_they_were():
    _, given, planned = point_plan("first", 3)
    for actions in given[1:]:
        np.testing.assert_array_equal(actions[1:], given[0][1:])
        assert (actions[0] != given[0][0]).any()
    assert (planned != given[-1][0]).any()
