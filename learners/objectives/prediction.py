"""Reward and inverse-dynamics prediction losses (paper section 2.2)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from learners.settings import REWARD_LOSSES


def reward_prediction_loss(predicted: Tensor, earned: Tensor, form: str = "huber") -> Tensor:
    """Return the mean loss between predicted and earned rewards, both (T, B).

    `form` "huber" is the smooth L1 loss with delta 1 of the released code, "squared" the paper's.

    Raises:
        ValueError: `form` is unknown.
    """
    if form == "huber":
        return F.smooth_l1_loss(predicted, earned)
    if form == "squared":
        return F.mse_loss(predicted, earned)
    raise ValueError(f"objective.reward_loss={form!r}: choose one of {REWARD_LOSSES}.")


def inverse_dynamics_loss(predicted: Tensor, taken: Tensor) -> Tensor:
    """Return half the squared distance of actions (T, B, A), summed over A, mean over T and B."""
    return 0.5 * (predicted - taken).square().sum(-1).mean()
