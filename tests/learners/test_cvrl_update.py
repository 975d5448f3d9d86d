"""One update of CVRL: who moves, SAC on real steps, repetition, and that it learns."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from learners.cvrl import CVRLAgent
from learners.cvrl_update import CVRLUpdate
from learners.noise import Generator, SharedGenerator
from tests.learners.cvrl_agents import (
    LEARNER,
    OBJECTIVE,
    WITHOUT_NOISE,
    make_agent,
    make_batch,
    make_update,
    to_tensors,
)

VARIANTS = {
    "cvrl": {},
    "generative": {"objective": replace(OBJECTIVE, observation="generative")},
    "reward only": {"objective": replace(OBJECTIVE, observation="none")},
    "no SAC": {"sac_scale": 0.0},
    "released code": {"released_code": True},
    "temperature": {"learn_temperature": True},
}
# Rates that no rounding hides.
FAST = replace(LEARNER, model_rate=1e-2, actor_rate=1e-2, value_rate=1e-2, critic_rate=1e-2)


def moved(update: CVRLUpdate, count: int = 1, batch=None) -> set[str]:
    """Return the names of what so many updates change."""
    before = copy.deepcopy(update.agent.state_dict())
    for _ in range(count):
        assert update.step(batch or make_batch()) is None
    after = update.agent.state_dict()
    return {name for name in after if not torch.equal(after[name], before[name])}


def under(names: set[str], *beginnings: str) -> set[str]:
    return {name for name in names if name.startswith(beginnings)}


# What an update moves -----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_updates_move_everything_that_the_variant_trains(variant):
    update = make_update(**VARIANTS[variant])
    names = set(update.agent.state_dict())
    still = set()
    if variant != "temperature":
        still |= {"behavior.sac.log_alpha"}
    if variant == "no SAC":
        still |= under(names, "behavior.sac.critics.", "behavior.sac.target_critics.")
    if update.agent.objective.free_nats:  # the KL is below: nothing trains the prior
        still |= under(names, "model.rssm.prior_head.")
    assert moved(update, 3) == names - still
    trained = {"model", "actor", "value"}
    trained |= set() if variant == "no SAC" else {"critic"}
    trained |= {"alpha"} if variant == "temperature" else set()
    assert set(update.optimizers) == trained
    assert update.updates == 3


def test_without_free_nats_the_prior_is_trained():
    update = make_update(objective=replace(OBJECTIVE, free_nats=0.0))
    names = under(set(update.agent.state_dict()), "model.")
    assert under(moved(update, 2), "model.") == names


@pytest.mark.parametrize("name", ["model", "actor", "value", "critic"])
def test_each_optimiser_moves_its_own_part_by_its_own_rate(name):
    rates = {f"{part}_rate": 0.0 for part in ("model", "actor", "value", "critic")}
    update = make_update(learner=replace(LEARNER, **rates | {f"{name}_rate": 1e-2}))
    begun = copy.deepcopy(update.agent.state_dict())
    part = {
        "model": ("model.",),
        "actor": ("behavior.sac.actor.",),
        "value": ("behavior.value.",),
        "critic": ("behavior.sac.critics.", "behavior.sac.target_critics."),
    }[name]
    changed = moved(update)
    assert changed and changed == under(changed, *part)
    after = update.agent.state_dict()
    trained = [value for value in changed if "target_critics" not in value]
    steps = max((after[value] - begun[value]).abs().max().item() for value in trained)
    assert steps == pytest.approx(1e-2, rel=1e-2)  # Adam's first step is its rate


def test_gradients_are_clipped_to_the_norm_of_their_own_part():
    update = make_update(learner=replace(LEARNER, model_clip=1e-3, weight_decay=0.0))
    update.step(make_batch())
    norm = torch.stack(
        [p.grad.norm() for p in update.agent.model.parameters() if p.grad is not None]
    )
    assert norm.norm().item() == pytest.approx(1e-3, rel=1e-2)
    metrics = update.metrics()
    assert metrics["gradient_norm/model"] > 1e-2  # as it was before the clip
    assert {f"gradient_norm/{name}" for name in update.optimizers} <= set(metrics)
    value = torch.stack([p.grad.norm() for p in update.agent.behavior.value.parameters()]).norm()
    assert value.item() == pytest.approx(metrics["gradient_norm/value"], rel=1e-4)


def test_targets_follow_the_critics_by_the_target_rate():
    for released in (False, True):
        update = make_update(released_code=released, target_rate=0.25, learner=FAST)
        sac = update.agent.behavior.sac
        before = [value.clone() for value in sac.target_critics.parameters()]
        update.step(make_batch())
        for old, new, own in zip(
            before, sac.target_critics.parameters(), sac.critics.parameters(), strict=True
        ):
            torch.testing.assert_close(new, 0.75 * old + 0.25 * own)


def test_the_temperature_stays_below_its_maximum():
    most = {"log_alpha_init": 0.5, "log_alpha_max": 0.5}
    update = make_update(learn_temperature=True, target_entropy=100.0, **most)
    update.step(make_batch())
    assert update.agent.behavior.sac.log_alpha.item() == 0.5
    free = make_update(learn_temperature=True, target_entropy=100.0, log_alpha_init=0.5)
    free.step(make_batch())
    assert free.agent.behavior.sac.log_alpha.item() > 0.5


def test_a_learned_temperature_rises_where_the_entropy_is_below_its_target():
    for target, sign in ((50.0, 1.0), (-50.0, -1.0)):
        update = make_update(learn_temperature=True, target_entropy=target)
        update.step(make_batch())
        step = update.agent.behavior.sac.log_alpha.item()
        assert step == pytest.approx(sign * LEARNER.alpha_rate, rel=1e-3)


# SAC on real steps --------------------------------------------------------------------------------


def critic_error(agent: CVRLAgent, states, actions, rewards, following, discounts=1.0) -> float:
    """Return the sum over both critics of the mean squared Bellman error of pairs, noise-free."""
    sac = agent.behavior.sac
    with torch.no_grad():
        best = torch.tanh(agent.behavior.actor.distribution(following)[0])
        targets = rewards + 0.99 * discounts * sac.target_critics(following, best).min(0).values
        values = sac.critics(states, actions)
    return sum((critic - targets).square().mean().item() for critic in values)


def sac_parts(**behavior) -> tuple[CVRLAgent, Tensor, Tensor, Tensor, Tensor, object]:
    """Return an agent almost without noise, states, actions, rewards, its losses and metrics."""
    agent = make_agent(imagination_scale=0.0, **WITHOUT_NOISE, **behavior)
    pixels, actions, rewards, discounts = to_tensors(make_batch())
    _, states = agent.observe(pixels, actions, torch.Generator().manual_seed(1))
    found = agent.behavior.losses(agent.model, states, actions, rewards, discounts)
    return agent, states.sampled().detach(), actions, rewards, found[0], found[1]


def test_the_critics_learn_from_pairs_of_steps_of_one_sequence():
    agent, states, actions, rewards, losses, _ = sac_parts()
    aligned = critic_error(agent, states[:-1], actions[:-1], rewards[:-1], states[1:])
    along_batch = critic_error(
        agent, states[:, :-1], actions[:, :-1], rewards[:, :-1], states[:, 1:]
    )
    assert losses.critics.item() == pytest.approx(aligned, rel=1e-4)
    assert abs(along_batch - aligned) > 1e-2 * aligned


def test_nothing_follows_a_true_termination():
    agent, states, actions, rewards, _, _ = sac_parts()
    pixels, _, _, discounts = to_tensors(make_batch())
    discounts[1, 0] = 0.0
    _, filtered = agent.observe(pixels, actions, torch.Generator().manual_seed(1))
    losses, _ = agent.behavior.losses(agent.model, filtered, actions, rewards, discounts)
    ended, endless = (
        critic_error(agent, states[:-1], actions[:-1], rewards[:-1], states[1:], each)
        for each in (discounts[:-1], 1.0)
    )
    assert losses.critics.item() == pytest.approx(ended, rel=1e-4)
    assert abs(ended - endless) > 1e-3 * ended


def test_the_released_critics_learn_from_pairs_along_the_batch_and_what_led_to_their_states():
    agent, states, actions, rewards, losses, _ = sac_parts(released_code=True)
    led, earned = torch.zeros_like(actions), torch.zeros_like(rewards)
    led[1:], earned[1:] = actions[:-1], rewards[:-1]
    released = critic_error(agent, states[:, :-1], led[:, :-1], earned[:, :-1], states[:, 1:])
    aligned = critic_error(agent, states[:-1], actions[:-1], rewards[:-1], states[1:])
    assert losses.critics.item() == pytest.approx(released, rel=1e-4)
    assert abs(released - aligned) > 1e-2 * aligned


def test_the_policy_climbs_the_lesser_critic_at_real_states_as_much_as_its_weight_says():
    agent, states, _, _, losses, metrics = sac_parts(sac_scale=3.0)
    with torch.no_grad():
        best = torch.tanh(agent.behavior.actor.distribution(states[:-1])[0])
        expected = -agent.behavior.sac.critics(states[:-1], best).min(0).values.mean().item()
    assert metrics["loss/sac_policy"].item() == pytest.approx(expected, rel=1e-3)
    assert losses.actor.item() == pytest.approx(3.0 * expected, rel=1e-3)


def test_the_released_actor_learns_nothing_of_the_sac_part():
    agent, _, _, _, losses, metrics = sac_parts(released_code=True)
    assert losses.actor.item() == 0.0
    assert "loss/sac_policy" not in metrics
    losses.actor.backward()
    assert not any(p.grad is not None and p.grad.any() for p in agent.parameters())


def test_targets_begin_as_the_critics_and_released_ones_as_others():
    for released in (False, True):
        sac = make_agent(released_code=released).behavior.sac
        equal = [
            torch.equal(own, target)
            for own, target in zip(sac.critics.weights, sac.target_critics.weights, strict=True)
        ]
        assert not any(equal) if released else all(equal)
        first, second = sac.target_critics.weights[0]
        assert not torch.equal(first, second)


def test_sac_alone_moves_the_actor():
    update = make_update(imagination_scale=0.0, sac_scale=1.0, learner=FAST)
    actor = under(set(update.agent.state_dict()), "behavior.sac.actor.")
    assert actor <= moved(update)


def test_the_released_sac_part_alone_leaves_the_actor_where_it_is():
    update = make_update(imagination_scale=0.0, released_code=True, learner=FAST)
    changed = moved(update, 3)
    assert not under(changed, "behavior.sac.actor.", "behavior.sac.log_alpha")
    assert under(changed, "behavior.sac.critics.")
    assert update.metrics()["gradient_norm/actor"] == 0.0


def test_without_sac_there_is_no_optimiser_of_critics_and_no_metric_of_them():
    update = make_update(sac_scale=0.0)
    changed = moved(update, 2)
    assert not under(changed, "behavior.sac.critics.", "behavior.sac.target_critics.")
    assert "critic" not in update.optimizers
    assert not [name for name in update.metrics() if "critic" in name or "sac" in name]


# The same again -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_updates_repeat_bit_for_bit_under_one_seed_with_finite_metrics_of_the_same_names(variant):
    batches = [make_batch(seed) for seed in range(3)]
    found, names = [], set()
    for _ in range(2):
        update = make_update(seed=4, **VARIANTS[variant])
        for batch in batches:
            update.step(batch)
            metrics = update.metrics()
            assert np.isfinite(list(metrics.values())).all(), metrics
            names.add(tuple(metrics))
        assert update.metrics() == {}
        found.append(update.agent.state_dict())
    assert len(names) == 1
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


@pytest.mark.parametrize("variant", ["cvrl", "no SAC", "temperature"])
def test_a_restored_update_continues_bit_for_bit(variant):
    whole, restored = (make_update(seed, **VARIANTS[variant]) for seed in (1, 2))
    moved(whole, 2)
    restored.agent.load_state_dict(copy.deepcopy(whole.agent.state_dict()))
    restored.load_state_dict(copy.deepcopy(whole.state_dict()))
    assert restored.updates == 2
    for update in (whole, restored):
        update.step(make_batch(seed=5))
    for name, value in whole.agent.state_dict().items():
        assert torch.equal(value, restored.agent.state_dict()[name]), name


def test_rewards_are_divided_before_every_loss():
    update, divided = make_update(), make_update(reward_divisor=4.0)
    batch = make_batch()
    for _ in range(2):
        update.step(batch)
        divided.step(batch | {"reward": 4.0 * batch["reward"]})
    for name, value in update.agent.state_dict().items():
        assert torch.equal(value, divided.agent.state_dict()[name]), name


@pytest.mark.parametrize("variant", ["cvrl", "generative"])
def test_bfloat16_updates_are_finite_and_keep_weights_in_float32(variant):
    exact = make_update(**VARIANTS[variant])
    rough = make_update(learner=replace(LEARNER, precision="bfloat16"), **VARIANTS[variant])
    for update in (exact, rough):
        moved(update, 3)
    assert all(value.dtype == torch.float32 for value in rough.agent.state_dict().values())
    first, second = exact.metrics(), rough.metrics()
    assert np.isfinite(list(second.values())).all()
    assert first != second
    assert second["loss/model"] == pytest.approx(first["loss/model"], rel=0.05)


def test_an_update_crops_frames_larger_than_the_encoder_sees():
    update = make_update(learner=replace(LEARNER, random_crop=True))
    names = set(update.agent.state_dict())
    assert under(names, "model.encoder.") <= moved(update)
    centred = make_update()
    centred.step(make_batch())
    assert update.metrics()["loss/contrastive"] != centred.metrics()["loss/contrastive"]


def losses_with(agent: CVRLAgent, generator: Generator, windows: slice) -> dict[str, Tensor]:
    """Return all losses of some windows of a batch of four."""
    pixels, actions, rewards, discounts = (
        value[:, windows] for value in to_tensors(make_batch(windows=4))
    )
    features, states = agent.observe(pixels, actions, generator)
    model, _ = agent.model_loss(features, states, pixels, rewards)
    behavior, _ = agent.behavior.losses(agent.model, states, actions, rewards, discounts, generator)
    return {"model": model} | behavior._asdict()


def test_learners_with_halves_of_a_batch_and_its_noise_share_the_losses_of_the_whole():
    objective = replace(OBJECTIVE, observation="generative", free_nats=0.0)
    agent = make_agent(objective=objective, learn_temperature=True)
    whole = losses_with(agent, torch.Generator().manual_seed(1), slice(None))
    halves = [
        losses_with(
            agent,
            SharedGenerator(torch.Generator().manual_seed(1), part, 2),
            slice(2 * part, 2 * part + 2),
        )
        for part in range(2)
    ]
    for name, value in whole.items():
        mean = (halves[0][name] + halves[1][name]) / 2
        assert mean.item() == pytest.approx(value.item(), rel=1e-4), name
        assert abs(halves[0][name] - halves[1][name]) > 1e-4 * abs(value), name


# Learning -----------------------------------------------------------------------------------------


def test_states_and_observations_of_a_batch_are_told_apart_after_some_updates():
    """From ln 24 = 3.18 at chance."""
    update = make_update(sac_scale=0.0, learner=replace(LEARNER, model_rate=6e-3), horizon=2)
    batch = make_batch(length=6, windows=4)
    chance = np.log(24)
    update.step(batch)
    assert update.metrics()["loss/contrastive"] > 0.8 * chance
    for _ in range(140):
        update.step(batch)
    update.metrics()
    for _ in range(10):
        update.step(batch)
    metrics = update.metrics()
    assert metrics["loss/contrastive"] < 0.4 * chance
    assert metrics["contrastive/log_pairs"] == pytest.approx(chance)
    assert metrics["contrastive/accuracy"] > 0.8
