"""The contrastive term of the CELBO against sums written out pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from learners.objectives.celbo import celbo_contrast
from tests.learners.cvrl_agents import Pool

STEPS, WINDOWS, WIDTH = 4, 3, 5
PAIRS = STEPS * WINDOWS


def codes(seed: int = 0, windows: int = WINDOWS) -> tuple[np.ndarray, np.ndarray]:
    """Return codes of states and of observations (T, B, K) that partly agree."""
    random = np.random.default_rng(seed)
    states = random.normal(size=(STEPS, windows, WIDTH))
    observations = 0.5 * states + random.normal(size=states.shape)
    return states.astype(np.float32), observations.astype(np.float32)


def double_loop(
    states: np.ndarray, observations: np.ndarray, with_positive: bool
) -> tuple[float, np.ndarray]:
    """Return Eq. 5 term by term, and every state's softmax over observations (T, B, T, B)."""
    states, observations = states.astype(np.float64), observations.astype(np.float64)
    steps, windows = states.shape[:2]
    total, chances = 0.0, np.zeros((steps, windows, steps, windows))
    for t in range(steps):
        for b in range(windows):
            others = 0.0
            for other_t in range(steps):
                for other_b in range(windows):
                    factor = math.exp(states[t, b] @ observations[other_t, other_b])
                    chances[t, b, other_t, other_b] = factor
                    if with_positive or (other_t, other_b) != (t, b):
                        others += factor
            total -= states[t, b] @ observations[t, b] - math.log(others)
            chances[t, b] /= chances[t, b].sum()
    return total / (steps * windows), chances


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize("with_positive", [True, False])
def test_the_loss_is_the_double_loop_over_states_and_observations(with_positive):
    states, observations = codes()
    expected, _ = double_loop(states, observations, with_positive)
    loss, _ = celbo_contrast(
        *tensors(states, observations), positive_among_candidates=with_positive
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_equal_codes_sit_at_the_logarithm_of_the_candidates():
    equal = torch.ones(STEPS, WINDOWS, WIDTH)
    loss, metrics = celbo_contrast(equal, equal)
    assert loss.item() == pytest.approx(math.log(PAIRS), rel=1e-6)
    assert metrics["contrastive/log_pairs"].item() == pytest.approx(math.log(PAIRS), rel=1e-6)
    loss, _ = celbo_contrast(equal, equal, positive_among_candidates=False)
    assert loss.item() == pytest.approx(math.log(PAIRS - 1), rel=1e-6)


def test_the_loss_is_the_cross_entropy_of_each_state_with_its_own_observation():
    states, observations = tensors(*codes())
    scores = states.flatten(0, 1) @ observations.flatten(0, 1).t()
    expected = F.cross_entropy(scores, torch.arange(PAIRS))
    assert celbo_contrast(states, observations)[0].item() == pytest.approx(expected.item())
    # Of rows alone: a term that contrasts states for each observation would make these equal.
    columns = F.cross_entropy(scores.t(), torch.arange(PAIRS))
    assert abs(columns.item() - expected.item()) > 1e-2


def test_the_softmax_is_shared_by_the_own_step_its_sequence_and_the_others():
    states, observations = codes()
    _, chances = double_loop(states, observations, with_positive=True)
    own = np.mean([chances[t, b, t, b] for t in range(STEPS) for b in range(WINDOWS)])
    sequence = np.mean([chances[t, b, :, b].sum() for t in range(STEPS) for b in range(WINDOWS)])
    best = chances.reshape(PAIRS, PAIRS).argmax(1)
    _, metrics = celbo_contrast(*tensors(states, observations))
    same = metrics["contrastive/same_sequence_mass"].item()
    others = metrics["contrastive/other_sequences_mass"].item()
    assert same == pytest.approx(sequence - own, abs=1e-6)
    assert others == pytest.approx(1.0 - sequence, abs=1e-6)
    assert same + others + own == pytest.approx(1.0, abs=1e-6)
    accuracy = metrics["contrastive/accuracy"].item()
    assert accuracy == pytest.approx((best == np.arange(PAIRS)).mean())
    assert 0.0 < accuracy < 1.0


def test_the_masses_do_not_change_where_the_positive_leaves_the_sum():
    states, observations = tensors(*codes())
    _, first = celbo_contrast(states, observations)
    _, second = celbo_contrast(states, observations, positive_among_candidates=False)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("with_positive", [True, False])
def test_gradient_reaches_both_codes_as_finite_differences_say(with_positive):
    states, observations = (t.requires_grad_() for t in tensors(*codes()))
    celbo_contrast(states, observations, positive_among_candidates=with_positive)[0].backward()
    for which, leaf in enumerate((states, observations)):
        for index in ((0, 0, 0), (2, 1, 3), (STEPS - 1, WINDOWS - 1, WIDTH - 1)):
            losses = []
            for sign in (1.0, -1.0):
                moved = [array.astype(np.float64) for array in codes()]
                moved[which][index] += sign * 1e-5
                losses.append(double_loop(*moved, with_positive)[0])
            difference = (losses[0] - losses[1]) / 2e-5
            assert leaf.grad is not None
            assert leaf.grad[index].item() == pytest.approx(difference, rel=1e-3, abs=1e-6)


def test_scores_of_half_precision_codes_are_computed_in_float32():
    states, observations = (10.0 * t.bfloat16() for t in tensors(*codes()))
    expected, _ = celbo_contrast(states.float(), observations.float())
    loss, metrics = celbo_contrast(states, observations)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert all(value.dtype == torch.float32 for value in metrics.values())


# Several learners --------------------------------------------------------------------------------


def parts(windows: int = 4) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Return whole codes, and two learners' halves of both."""
    whole = [t.requires_grad_() for t in tensors(*codes(windows=windows))]
    states, observations = (list(t.chunk(2, 1)) for t in whole)
    return whole, states, observations


def pools(observations: list[torch.Tensor]) -> list[Pool]:
    everyone = torch.cat([part.flatten(0, 1) for part in observations])
    return [Pool(rank, len(observations), everyone) for rank in range(len(observations))]


@pytest.mark.parametrize("with_positive", [True, False])
def test_losses_of_two_learners_average_to_that_of_the_whole_batch(with_positive):
    whole, states, observations = parts()
    alone, alone_metrics = celbo_contrast(*whole, positive_among_candidates=with_positive)
    found = [
        celbo_contrast(
            states[pool.rank],
            observations[pool.rank],
            positive_among_candidates=with_positive,
            learners=pool,
        )
        for pool in pools(observations)
    ]
    mean = (found[0][0] + found[1][0]) / 2
    assert mean.item() == pytest.approx(alone.item(), rel=1e-6)
    for name, value in alone_metrics.items():
        average = (found[0][1][name] + found[1][1][name]) / 2
        assert average.item() == pytest.approx(value.item(), rel=1e-5), name
    for together, single in zip(
        torch.autograd.grad(mean, whole), torch.autograd.grad(alone, whole), strict=True
    ):
        torch.testing.assert_close(together, single)


def test_a_learner_that_does_not_gather_contrasts_its_own_observations_alone():
    _, states, observations = parts()
    for pool in pools(observations):
        own = states[pool.rank], observations[pool.rank]
        loss, metrics = celbo_contrast(*own, learners=pool, gather=False)
        assert torch.equal(loss, celbo_contrast(*own)[0])
        assert metrics["contrastive/log_pairs"].item() == pytest.approx(math.log(2 * STEPS))
