"""Balanced KL divergence between posterior and prior with free nats (Eq. 2 and released code)."""

from __future__ import annotations

import torch
from torch import Tensor

from learners.models.layers import Gaussian


def gaussian_kl(left: Gaussian, right: Gaussian) -> Tensor:
    """Return KL(left || right) in nats, summed over the last axis: (..., Ds) -> (...)."""
    log_ratio = right.log_std - left.log_std
    variance_ratio = torch.exp(-2.0 * log_ratio)
    scaled_gap = ((left.mean - right.mean) * torch.exp(-right.log_std)).square()
    return (log_ratio + 0.5 * (variance_ratio + scaled_gap - 1.0)).sum(-1)


def balanced_kl(
    posterior: Gaussian, prior: Gaussian, *, balance: float, free_nats: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the KL loss whose gradient is shared between prior and posterior.

    `(1 - balance) KL(sg(posterior) || prior) + balance KL(posterior || sg(prior))`; each side is
    clamped from below by `free_nats` per step before the mean, so that a nearly known step is not
    squeezed further.

    Args:
        posterior: q (T, B, Ds).
        prior: p (T, B, Ds).
        balance: Share of the posterior, 0 to 1.
        free_nats: Floor per (t, b), nats.

    Returns:
        The loss, and metrics: `kl/nats` before the floor and `kl/at_floor_fraction`.
    """
    to_prior = gaussian_kl(posterior.detach(), prior)  # (T, B)
    to_posterior = gaussian_kl(posterior, prior.detach())  # (T, B)
    loss = (1.0 - balance) * to_prior.clamp_min(free_nats).mean()
    loss = loss + balance * to_posterior.clamp_min(free_nats).mean()
    with torch.no_grad():
        metrics = {
            "kl/nats": to_prior.mean(),
            "kl/at_floor_fraction": (to_prior <= free_nats).float().mean(),
        }
    return loss, metrics
