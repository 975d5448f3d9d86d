"""The update: what each loss trains, in which order, and that it repeats and resumes."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from learners.augment import centre_crop, to_pixels
from learners.core import CoReAgent
from learners.device import choose_device, choose_precision
from learners.settings import BehaviorSettings, ObjectiveSettings
from tests.learners.conftest import BEHAVIOR, LEARNER
from tests.learners.reference import ReferenceUpdate

MODEL_PARTS = {
    "encoder",
    "rssm.embedding",
    "rssm.transition_input",
    "rssm.cell",
    "rssm.prior_head",
    "rssm.posterior_head",
    "decoder",
    "reward",
    "inverse",
    "inverse_temperature",
}
CRITIC_TRAINS = {
    "encoder",
    "rssm.embedding",
    "rssm.transition_input",
    "rssm.cell",
    "rssm.posterior_head",
}


def trained_parts(agent: CoReAgent) -> set[str]:
    """Name the parts of the model that hold a gradient."""
    found = set()
    for name, parameter in agent.model.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().sum() > 0:
            found.add(max((part for part in MODEL_PARTS if name.startswith(part)), key=len))
    return found


@pytest.fixture
def parts(make_update, batch):
    """Return an agent with the tensors of one observed batch."""
    agent = make_update().agent
    pixels = to_pixels(centre_crop(torch.from_numpy(batch["observation"]), LEARNER.crop_size))
    actions, rewards = torch.from_numpy(batch["action"]), torch.from_numpy(batch["reward"])
    features, states = agent.observe(pixels, actions)
    return agent, features, states, actions, rewards


def test_model_loss_trains_every_part_of_the_model_and_no_behavior(parts):
    agent, features, states, actions, rewards = parts
    agent.model_loss(features, states, actions, rewards)[0].backward()
    assert trained_parts(agent) == MODEL_PARTS
    assert all(parameter.grad is None for parameter in agent.behavior.parameters())


def test_critic_loss_trains_critics_and_the_filter_but_no_prediction_head(parts):
    agent, _, states, actions, rewards = parts
    discounts = torch.ones_like(rewards)
    agent.behavior.critic_loss(states.expected(), actions, rewards, discounts)[0].backward()
    assert trained_parts(agent) == CRITIC_TRAINS
    behavior = agent.behavior
    assert all(parameter.grad is not None for parameter in behavior.critics.parameters())
    assert all(parameter.grad is None for parameter in behavior.target_critics.parameters())
    assert all(parameter.grad is None for parameter in behavior.actor.parameters())
    assert behavior.log_alpha.grad is None


def test_actor_loss_trains_the_actor_alone(parts):
    agent, _, states, _, _ = parts
    actor_loss, alpha_loss, _ = agent.behavior.actor_loss(states.expected())
    actor_loss.backward()
    assert trained_parts(agent) == set()
    assert all(parameter.grad is None for parameter in agent.behavior.critics.parameters())
    assert all(parameter.grad is not None for parameter in agent.behavior.actor.parameters())
    assert agent.behavior.log_alpha.grad is None
    alpha_loss.backward()
    assert agent.behavior.log_alpha.grad is not None


def test_decoding_from_the_posterior_leaves_the_prior_to_the_kl(make_update, batch):
    objective = ObjectiveSettings(decode_from="posterior", kl_scale=0.0)
    agent = make_update(objective=objective).agent
    pixels = to_pixels(centre_crop(torch.from_numpy(batch["observation"]), LEARNER.crop_size))
    actions, rewards = torch.from_numpy(batch["action"]), torch.from_numpy(batch["reward"])
    features, states = agent.observe(pixels, actions)
    agent.model_loss(features, states, actions, rewards)[0].backward()
    assert "rssm.prior_head" not in trained_parts(agent)


def test_the_first_step_of_a_window_enters_no_contrastive_kl_or_reward_term(parts):
    agent, features, states, actions, rewards = parts
    generator = torch.Generator()
    first, metrics = agent.model_loss(features, states, actions, rewards, generator.manual_seed(0))
    changed = features.detach().clone()
    changed[0] += 1.0
    second, _ = agent.model_loss(changed, states, actions, rewards, generator.manual_seed(0))
    assert first.item() == pytest.approx(second.item())
    pairs = (features.shape[0] - 1) * features.shape[1]
    assert metrics["contrastive/log_pairs"].exp().item() == pytest.approx(pairs)


def test_rewards_are_predicted_from_the_state_that_they_led_to(parts):
    agent, features, states, actions, rewards = parts
    generator = torch.Generator()
    last = rewards.clone()
    last[-1] += 10.0  # earned by an action whose outcome the window does not hold
    losses = [
        agent.model_loss(features, states, actions, value, generator.manual_seed(0))[1]
        for value in (rewards, last)
    ]
    assert losses[0]["loss/reward"].item() == losses[1]["loss/reward"].item()
    first = rewards.clone()
    first[0] += 10.0
    _, metrics = agent.model_loss(features, states, actions, first, generator.manual_seed(0))
    assert metrics["loss/reward"].item() != losses[0]["loss/reward"].item()


def test_critic_targets_use_reward_discount_and_target_critics(parts):
    agent, _, states, actions, rewards = parts
    behavior = agent.behavior
    discounts = torch.ones_like(rewards)
    discounts[1] = 0.0  # a true termination after step 1
    latent = states.expected().detach()
    generator = torch.Generator()
    loss = behavior.critic_loss(latent, actions, rewards, discounts, generator.manual_seed(5)).loss
    with torch.no_grad():
        next_action, log_prob = behavior.actor.sample(latent[1:], generator.manual_seed(5))
        soft = behavior.target_critics(latent[1:], next_action).min(0).values
        soft = soft - behavior.log_alpha.exp() * log_prob
        target = rewards[:-1] + 0.99 * discounts[:-1] * soft
        first, second = behavior.critics(latent[:-1], actions[:-1])
        expected = ((first - target) ** 2).mean() + ((second - target) ** 2).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_true_termination_at_the_end_of_a_window_is_learned_from_its_reward_alone(parts):
    agent, _, states, actions, rewards = parts
    latent = states.expected().detach()
    discounts = torch.ones_like(rewards)
    generator = torch.Generator()

    def loss(last_reward: float, last_discount: float) -> float:
        changed, ended = rewards.clone(), discounts.clone()
        changed[-1, 0], ended[-1, 0] = last_reward, last_discount
        arguments = latent, actions, changed, ended, generator.manual_seed(1)
        return agent.behavior.critic_loss(*arguments)[0].item()

    assert loss(0.0, 1.0) == loss(9.0, 1.0)  # a time limit: what follows is not known
    with torch.no_grad():
        values = agent.behavior.critics(latent[-1, :1], actions[-1, :1])
    pairs = rewards.numel() - rewards.shape[1]
    others = loss(0.0, 1.0) * pairs
    for reward in (0.0, 9.0):
        expected = (others + (values - reward).square().sum().item()) / (pairs + 1)
        assert loss(reward, 0.0) == pytest.approx(expected, rel=1e-5)


def test_a_state_of_another_kind_of_device_keeps_optimisers_and_begins_noise_anew(
    make_update, batch
):
    update = make_update()
    update.step(batch)
    state = update.state_dict() | {"generator_device": "cuda", "generator": torch.zeros(16)}
    other = make_update()
    other.load_state_dict(state)
    assert other.updates == 1
    moments = other.optimizers["model"].state_dict()["state"]
    assert moments[0]["exp_avg"].abs().sum() > 0


def test_target_critics_move_by_the_target_rate(make_update):
    behavior = make_update().agent.behavior
    with torch.no_grad():
        for parameter in behavior.critics.parameters():
            parameter.add_(1.0)
    before = [value.clone() for value in behavior.target_critics.parameters()]
    behavior.update_targets()
    for old, new, source in zip(
        before,
        behavior.target_critics.parameters(),
        behavior.critics.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(new, 0.995 * old + 0.005 * source)


def test_temperature_stays_below_its_maximum(make_update):
    behavior = make_update().agent.behavior
    with torch.no_grad():
        behavior.log_alpha.fill_(9.0)
    behavior.clamp_temperature()
    assert behavior.log_alpha.item() == 3.0


@pytest.mark.parametrize("order", ["sequential", "fused"])
def test_an_update_moves_every_trained_parameter(make_update, batch, order):
    update = make_update(update_order=order)
    before = copy.deepcopy(update.agent.state_dict())
    update.step(batch)
    update.step(batch)
    unmoved = [
        name
        for name, value in update.agent.state_dict().items()
        if torch.equal(value, before[name]) and not name.endswith("bias")
    ]
    assert unmoved == []
    metrics = update.metrics()
    assert all(value == value for value in metrics.values())
    assert {"loss/contrastive", "loss/kl", "loss/critic", "loss/actor", "alpha"} <= set(metrics)
    assert update.metrics() == {}


def test_both_orders_agree_when_nothing_but_the_behavior_moves(make_update, batch):
    """With the model's rates at zero the two orders differ by nothing but their noise draws."""
    results = []
    for order in ("sequential", "fused"):
        update = make_update(
            update_order=order,
            model_rate=0.0,
            critic_model_rate=None,
            inverse_temperature_rate=0.0,
            random_crop=False,
        )
        update.step(batch)
        results.append(update.metrics())
    assert results[0]["loss/contrastive"] == pytest.approx(results[1]["loss/contrastive"])
    assert results[0]["loss/critic"] == pytest.approx(results[1]["loss/critic"], rel=0.2)


@pytest.mark.parametrize("order", ["sequential", "fused"])
def test_without_the_critic_gradient_the_bellman_error_leaves_the_model_alone(
    make_update, batch, order
):
    objective = replace(ObjectiveSettings(), critic_gradient_to_model=False)
    first = make_update(update_order=order, objective=objective)
    second = make_update(update_order=order, objective=objective)
    changed = dict(batch, discount=0.0 * batch["discount"])  # changes the Bellman error only
    first.step(batch)
    second.step(changed)
    for name, value in first.agent.model.state_dict().items():
        assert torch.equal(value, second.agent.model.state_dict()[name]), name


@pytest.mark.parametrize("order", ["sequential", "fused"])
def test_updates_repeat_bit_for_bit_under_one_seed(make_update, batch, order):
    first, second = (make_update(seed=4, update_order=order) for _ in range(2))
    for update in (first, second):
        for _ in range(3):
            update.step(batch)
    for name, value in first.agent.state_dict().items():
        assert torch.equal(value, second.agent.state_dict()[name]), name


def test_a_restored_update_continues_bit_for_bit(make_update, batch):
    whole = make_update(seed=1)
    for _ in range(2):
        whole.step(batch)
    restored = make_update(seed=2)
    restored.agent.load_state_dict(copy.deepcopy(whole.agent.state_dict()))
    restored.load_state_dict(copy.deepcopy(whole.state_dict()))
    assert restored.updates == 2
    whole.step(batch)
    restored.step(batch)
    for name, value in whole.agent.state_dict().items():
        assert torch.equal(value, restored.agent.state_dict()[name]), name


def test_rewards_are_divided_before_every_loss(make_update, batch):
    update = make_update(random_crop=False)
    scaled = make_update(random_crop=False)
    scaled.reward_divisor = 4.0
    quadruple = dict(batch, reward=4.0 * batch["reward"])
    update.step(batch)
    scaled.step(quadruple)
    assert update.metrics()["loss/reward"] == pytest.approx(scaled.metrics()["loss/reward"])


@pytest.mark.parametrize("order", ["sequential", "fused"])
def test_weight_decay_pulls_weight_matrices_to_zero_and_leaves_the_rest_alone(
    make_update, batch, order
):
    """So strong a decay outweighs every gradient: Adam's first step is its rate towards zero."""
    objective = ObjectiveSettings(critic_gradient_to_model=False)
    decayed = make_update(update_order=order, objective=objective, weight_decay=1e6)
    plain = make_update(update_order=order, objective=objective)
    before = copy.deepcopy(plain.agent.state_dict())
    for update in (decayed, plain):
        update.step(batch)
    model = dict(plain.agent.model.named_parameters())
    after = dict(decayed.agent.model.named_parameters())
    for name, value in model.items():
        if value.dim() > 1:
            old = before[f"model.{name}"]
            clear = old.abs() > 1e-2
            expected = old - plain.learner.model_rate * old.sign()
            torch.testing.assert_close(after[name][clear], expected[clear], atol=1e-6, rtol=0.0)
        else:
            assert torch.equal(after[name], value), name
    biases = plain.agent.behavior.critics.biases
    assert all(
        (new - old).abs().max() < 3 * plain.learner.critic_rate
        for new, old in zip(decayed.agent.behavior.critics.biases, biases, strict=True)
    )


def test_the_critics_step_decays_no_weight_that_the_bellman_error_does_not_reach(
    make_update, batch
):
    """Of two steps on the model, the critic's passes by what it has no gradient for."""
    update = make_update(weight_decay=1e6)
    heads = {name: value.clone() for name, value in update.agent.model.reward.named_parameters()}
    update.step(batch)
    rate = update.learner.model_rate
    for name, value in update.agent.model.reward.named_parameters():
        assert (value - heads[name]).abs().max() < 1.01 * rate, name  # one step, not two


def test_a_run_without_weight_decay_keeps_its_optimisers_groups(make_update):
    """So that checkpoints of before it was a setting can be continued."""
    groups = {
        name: len(optimizer.param_groups) for name, optimizer in make_update().optimizers.items()
    }
    assert groups == {"model": 2, "critic": 2, "actor": 1, "alpha": 1}


def test_three_sequential_updates_equal_those_written_down_from_the_paper(make_update, batch):
    ours = make_update(update_order="sequential", precision="float32")
    theirs = ReferenceUpdate(ours.agent, LEARNER, ObjectiveSettings(), BEHAVIOR)
    begun = theirs.distance(make_update(seed=1).agent)
    for _ in range(3):
        ours.step(batch)
        theirs.step(batch)
    assert max(begun.values()) > 0.1  # the comparison tells other weights apart
    assert max(theirs.distance(ours.agent).values()) < 1e-6


def test_a_fused_update_differs_from_the_papers(make_update, batch):
    ours = make_update(update_order="fused", precision="float32")
    theirs = ReferenceUpdate(ours.agent, LEARNER, ObjectiveSettings(), BEHAVIOR)
    ours.step(batch)
    theirs.step(batch)
    distance = theirs.distance(ours.agent)
    # One Adam step on the model where the paper takes two; the first critic step still agrees but
    # for the features, which the paper encodes anew.
    assert distance["model.encoder.linear.weight"] > 1e-4
    assert distance["behavior.target_critics.0.2.weight"] < 1e-5


def test_a_loaded_state_leaves_the_rates_of_the_settings(make_update, batch):
    saved = make_update(model_rate=1e-3)
    saved.step(batch)
    state = saved.state_dict()
    for group in state["optimizers"]["model"]["param_groups"]:
        group["capturable"] = True  # as a GPU's
    other = make_update(model_rate=1e-4)
    other.load_state_dict(state)
    assert [g["lr"] for g in other.optimizers["model"].param_groups] == [1e-4, 2e-3]
    assert not any(g["capturable"] for g in other.optimizers["model"].param_groups)
    assert other.updates == 1 and other.metrics() == {}
    other.step(batch)


def test_unknown_update_order_names_the_known_ones(make_update):
    with pytest.raises(ValueError, match="sequential"):
        make_update(update_order="parallel")


def test_paper_defaults_are_the_published_numbers():
    behavior, objective = BehaviorSettings(), ObjectiveSettings()
    assert (behavior.discount, behavior.target_rate, behavior.log_alpha_init) == (0.99, 0.005, -2.3)
    assert (objective.kl_scale, objective.kl_balance, objective.free_nats) == (0.01, 0.5, 1.0)


def test_unknown_device_and_precision_say_what_to_do(make_update):
    with pytest.raises(ValueError, match=r"learner\.precision"):
        make_update(precision="float8")
    with pytest.raises(ValueError, match=r"learner\.device"):
        choose_device("gpu9")
    assert choose_precision("float32", torch.device("cpu")) is torch.float32
