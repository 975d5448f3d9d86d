"""Losses against independent formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from learners.models.layers import Gaussian
from learners.objectives.contrastive import contrastive_loss
from learners.objectives.divergence import balanced_kl, gaussian_kl
from learners.objectives.prediction import inverse_dynamics_loss, reward_prediction_loss


def double_loop(features, predictions, scale, negatives):
    """Eq. 1 term by term: the sum over pairs of both log-ratios."""
    horizon, batch, _ = features.shape
    total = 0.0
    for t in range(horizon):
        for b in range(batch):
            own = scale * float(features[t, b] @ predictions[t, b])
            rows, columns = [], []
            for other_t in range(horizon):
                for other_b in range(batch):
                    is_own = (other_t, other_b) == (t, b)
                    if negatives == "same_sequence" and other_b != b:
                        continue
                    if negatives == "other_sequences" and other_b == b and not is_own:
                        continue
                    columns.append(scale * float(features[t, b] @ predictions[other_t, other_b]))
                    rows.append(scale * float(features[other_t, other_b] @ predictions[t, b]))
            for scores in (rows, columns):
                top = max(scores)
                total -= own - (top + math.log(sum(math.exp(value - top) for value in scores)))
    return total


@pytest.mark.parametrize("negatives", ["all", "same_sequence", "other_sequences"])
def test_contrastive_loss_equals_a_double_loop_over_pairs(negatives):
    random = np.random.default_rng(0)
    features = random.normal(size=(4, 3, 6)).astype(np.float32)
    predictions = random.normal(size=(4, 3, 6)).astype(np.float32)
    expected = double_loop(features, predictions, 0.7, negatives)
    arguments = torch.from_numpy(features), torch.from_numpy(predictions), torch.tensor(0.7)
    summed, _ = contrastive_loss(*arguments, negatives=negatives, reduction="sum")
    averaged, metrics = contrastive_loss(*arguments, negatives=negatives)
    assert summed.item() == pytest.approx(expected, rel=1e-5)
    assert averaged.item() == pytest.approx(expected / 12 / 2, rel=1e-5)
    candidates = {"all": 12, "same_sequence": 4, "other_sequences": 9}[negatives]
    assert metrics["contrastive/log_pairs"].item() == pytest.approx(math.log(candidates))


def test_contrastive_gradient_reaches_features_predictions_and_temperature():
    features = torch.randn(3, 2, 4, requires_grad=True)
    predictions = torch.randn(3, 2, 4, requires_grad=True)
    temperature = torch.tensor(1.0, requires_grad=True)
    contrastive_loss(features, predictions, temperature)[0].backward()
    for value in (features, predictions, temperature):
        assert value.grad is not None
        assert value.grad.abs().sum() > 0


def test_constant_features_sit_at_the_logarithm_of_the_pairs():
    features = torch.ones(5, 4, 3)
    loss, metrics = contrastive_loss(features, features, torch.tensor(1.0))
    assert loss.item() == pytest.approx(math.log(20))
    assert metrics["contrastive/log_pairs"].item() == pytest.approx(math.log(20))


@pytest.mark.parametrize("name", ["negatives", "reduction"])
def test_unknown_contrastive_choices_name_the_known_ones(name):
    with pytest.raises(ValueError, match="choose one of"):
        contrastive_loss(torch.ones(2, 2, 2), torch.ones(2, 2, 2), torch.tensor(1.0), **{name: "x"})


def random_gaussian(*shape: int) -> Gaussian:
    return Gaussian(torch.randn(shape), 0.5 * torch.randn(shape))


def test_kl_matches_torch_distributions():
    left, right = random_gaussian(4, 3, 6), random_gaussian(4, 3, 6)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(left.mean, left.log_std.exp()),
        torch.distributions.Normal(right.mean, right.log_std.exp()),
    ).sum(-1)
    torch.testing.assert_close(gaussian_kl(left, right), expected, rtol=1e-4, atol=1e-4)


def test_balanced_kl_shares_its_gradient_between_prior_and_posterior():
    posterior, prior = random_gaussian(4, 3, 6), random_gaussian(4, 3, 6)
    leaves = [posterior.mean, prior.mean]
    for leaf in leaves:
        leaf.requires_grad_(True)
    plain = torch.autograd.grad(gaussian_kl(posterior, prior).mean(), leaves)
    loss, _ = balanced_kl(posterior, prior, balance=0.25, free_nats=0.0)
    shared = torch.autograd.grad(loss, leaves)
    torch.testing.assert_close(shared[0], 0.25 * plain[0])
    torch.testing.assert_close(shared[1], 0.75 * plain[1])


def test_free_nats_stop_the_gradient_of_steps_below_them():
    prior = Gaussian(torch.zeros(2, 1, 3), torch.zeros(2, 1, 3))
    mean = torch.tensor([[[0.01, 0.0, 0.0]], [[5.0, 0.0, 0.0]]], requires_grad=True)
    loss, metrics = balanced_kl(
        Gaussian(mean, torch.zeros(2, 1, 3)), prior, balance=0.5, free_nats=1.0
    )
    loss.backward()
    assert mean.grad is not None
    assert mean.grad[0].abs().sum() == 0
    assert mean.grad[1].abs().sum() > 0
    assert metrics["kl/at_floor_fraction"].item() == 0.5
    assert loss.item() == pytest.approx((1.0 + 12.5) / 2)


def test_reward_loss_is_huber_by_default_and_squared_on_request():
    predicted, earned = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 3.0]])
    huber = (0.5 * 0.25 + 2.5) / 2
    assert reward_prediction_loss(predicted, earned).item() == pytest.approx(huber)
    assert reward_prediction_loss(predicted, earned, "squared").item() == pytest.approx(9.25 / 2)
    with pytest.raises(ValueError, match="reward_loss"):
        reward_prediction_loss(predicted, earned, "cubic")


def test_inverse_dynamics_loss_is_half_the_squared_distance():
    predicted, taken = torch.zeros(2, 1, 2), torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])
    assert inverse_dynamics_loss(predicted, taken).item() == pytest.approx(0.5 * 5 / 2)
