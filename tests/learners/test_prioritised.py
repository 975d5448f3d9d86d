"""Windows drawn by priority: what their importance weights scale, and the priorities they get."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from learners.behaviors.sac import SoftActorCritic
from learners.models.policy import Actor, TwinCritic
from learners.settings import BehaviorSettings
from tests.learners.conftest import ACTION_DIMS, BEHAVIOR

STEPS, WINDOWS, STATE = 5, 3, 7
ORDERS = pytest.mark.parametrize("order", ["sequential", "fused"])


def make(settings: BehaviorSettings) -> SoftActorCritic:
    actor = Actor(settings, STATE, ACTION_DIMS)
    critics = TwinCritic(STATE, ACTION_DIMS, settings.critic_dims)
    return SoftActorCritic(settings, actor, critics, ACTION_DIMS)


@pytest.fixture
def behavior() -> SoftActorCritic:
    return make(BEHAVIOR)


@pytest.fixture
def transitions() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    discounts = torch.ones(STEPS, WINDOWS)
    discounts[-1, 1] = 0.0  # window 1 ends with a true termination
    return {
        "states": torch.randn(STEPS, WINDOWS, STATE, generator=random),
        "actions": torch.rand(STEPS, WINDOWS, ACTION_DIMS, generator=random) * 2 - 1,
        "rewards": torch.randn(STEPS, WINDOWS, generator=random),
        "discounts": discounts,
    }


def critic_loss(behavior: SoftActorCritic, transitions, weights: list[float] | None):
    given = None if weights is None else torch.tensor(weights)
    generator = torch.Generator().manual_seed(2)
    return behavior.critic_loss(**transitions, generator=generator, importance_weights=given)


def gradient(behavior: SoftActorCritic, transitions, weights: list[float] | None) -> torch.Tensor:
    behavior.critics.zero_grad()
    critic_loss(behavior, transitions, weights).loss.backward()
    return torch.cat([p.grad.flatten() for p in behavior.critics.parameters()])


def td_errors(behavior: SoftActorCritic, transitions) -> list[torch.Tensor]:
    """Delta of each window (2, steps with a target), written out step by step."""
    states, actions = transitions["states"], transitions["actions"]
    rewards, discounts = transitions["rewards"], transitions["discounts"]
    found = []
    with torch.no_grad():
        noise = torch.Generator().manual_seed(2)
        following, log_prob = behavior.actor.sample(states[1:], noise)
        for b in range(WINDOWS):
            errors = []
            for t in range(STEPS):
                if t == STEPS - 1 and discounts[t, b] != 0:
                    continue
                target = rewards[t, b]
                if t < STEPS - 1:
                    values = behavior.target_critics(states[t + 1, b, None], following[t, b, None])
                    soft = values.min()
                    soft = soft - behavior.log_alpha.exp() * log_prob[t, b]
                    target = target + 0.99 * discounts[t, b] * soft
                values = behavior.critics(states[t, b, None], actions[t, b, None])
                errors.append(values.flatten() - target)
            found.append(torch.stack(errors, 1))
    return found


def test_a_windows_weight_scales_its_part_of_the_critics_gradient(behavior, transitions) -> None:
    parts = [gradient(behavior, transitions, np.eye(3)[b].tolist()) for b in range(WINDOWS)]
    whole = gradient(behavior, transitions, None)
    torch.testing.assert_close(sum(parts), whole)
    weights = [0.25, 1.0, 0.5]
    weighted = gradient(behavior, transitions, weights)
    expected = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(weighted, expected)
    assert not torch.allclose(weighted, whole)


def test_priorities_mix_the_largest_and_the_mean_td_error_of_a_window(
    behavior, transitions
) -> None:
    found = critic_loss(behavior, transitions, [1.0, 1.0, 1.0]).priorities
    expected = []
    for errors in td_errors(behavior, transitions):
        sizes = (errors[0].abs() + errors[1].abs()) / 2
        expected.append(0.9 * sizes.max() + 0.1 * sizes.mean() + 1e-6)
    assert [len(errors[0]) for errors in td_errors(behavior, transitions)] == [4, 5, 4]
    assert not found.requires_grad
    torch.testing.assert_close(found, torch.stack(expected))


def test_weights_do_not_change_priorities(behavior, transitions) -> None:
    one = critic_loss(behavior, transitions, [1.0, 1.0, 1.0]).priorities
    assert torch.equal(one, critic_loss(behavior, transitions, [0.1, 1.0, 0.4]).priorities)


@pytest.mark.parametrize(("share", "take"), [(1.0, "max"), (0.0, "mean")])
def test_the_mix_is_a_setting(transitions, share: float, take: str) -> None:
    settings = replace(BEHAVIOR, priority_max_share=share, priority_epsilon=0.5)
    behavior = make(settings)
    sizes = [errors.abs().mean(0) for errors in td_errors(behavior, transitions)]
    expected = torch.stack([getattr(size, take)() for size in sizes]) + 0.5
    found = critic_loss(behavior, transitions, [1.0, 1.0, 1.0]).priorities
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [("priority_max_share", 1.5), ("priority_max_share", -0.1), ("priority_epsilon", 0.0)],
)
def test_settings_that_cannot_work_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"behavior\.{name}"):
        make(replace(BEHAVIOR, **{name: value}))


@ORDERS
def test_without_weights_there_are_no_priorities_and_no_metrics_of_them(make_update, batch, order):
    update = make_update(update_order=order)
    assert update.step(batch) is None
    assert not {"importance/mean", "priority/mean"} & set(update.metrics())


@ORDERS
def test_weights_of_one_change_nothing_about_the_update(make_update, batch, order):
    plain, weighted = make_update(update_order=order), make_update(update_order=order)
    for _ in range(3):
        plain.step(batch)
        priorities = weighted.step(dict(batch, importance_weights=np.ones(3, np.float32)))
    assert priorities.shape == (3,) and (priorities > 0).all()
    for name, value in plain.agent.state_dict().items():
        assert torch.equal(value, weighted.agent.state_dict()[name]), name
    assert weighted.metrics()["importance/mean"] == 1.0


@ORDERS
def test_weights_leave_the_models_own_losses_and_the_actors_alone(make_update, batch, order):
    weights = np.array([1.0, 0.2, 0.1], np.float32)
    plain, weighted = make_update(update_order=order), make_update(update_order=order)
    plain.step(batch)
    priorities = weighted.step(dict(batch, importance_weights=weights))
    before, after = plain.metrics(), weighted.metrics()
    for name in ("loss/model", "loss/contrastive", "loss/kl", "loss/reward", "loss/inverse"):
        assert after[name] == before[name], name
    assert after["loss/critic"] < before["loss/critic"]
    assert after["importance/mean"] == pytest.approx(weights.mean())
    assert after["priority/mean"] == pytest.approx(priorities.mean().item())


@ORDERS
def test_what_stands_out_gets_a_larger_priority(make_update, batch, order):
    rewards = batch["reward"].copy()
    rewards[2, 1] = 50.0
    given = dict(batch, reward=rewards, importance_weights=np.ones(3, np.float32))
    update = make_update(update_order=order)
    before = copy.deepcopy(update.agent.state_dict())
    priorities = update.step(given)
    assert priorities.argmax() == 1 and priorities[1] > 0.9 * 45
    assert priorities.dtype == torch.float32
    assert any(not torch.equal(v, before[n]) for n, v in update.agent.state_dict().items())
