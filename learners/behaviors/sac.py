"""Soft actor-critic on latent states (paper section 2.3, Eq. 3-5)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learners.collective import ALONE, Collective
from learners.models.policy import SquashedGaussianActor, TwinCritic
from learners.noise import Generator
from learners.settings import SACSettings


class CriticLoss(NamedTuple):
    """The Bellman error J_Q of a batch."""

    loss: Tensor  # scalar
    metrics: dict[str, Tensor]
    priorities: Tensor | None  # (B,), detached; None unless importance weights were given


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Let gradient pass through modules within, while their own parameters collect none.

    It is about what is computed within, whenever the backward pass comes. Parameters that were
    frozen before stay so.
    """
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


class SoftActorCritic(nn.Module):
    """Actor, two critics, their targets and the learned temperature alpha.

    Only the critics have target copies; encoder and RSSM have none.

    Args:
        settings: Of the algorithm.
        actor: The policy.
        critics: Q_1, Q_2.
        action_dims: Size A of an action, for the target entropy -A.
    """

    def __init__(
        self,
        settings: SACSettings,
        actor: SquashedGaussianActor,
        critics: TwinCritic,
        action_dims: int,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.target_entropy = (
            -float(action_dims) if settings.target_entropy is None else settings.target_entropy
        )
        self.actor = actor
        self.critics = critics
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(float(settings.log_alpha_init)))

    def critic_loss(
        self,
        states: Tensor,
        actions: Tensor,
        rewards: Tensor,
        discounts: Tensor,
        generator: Generator = None,
        importance_weights: Tensor | None = None,
        learners: Collective = ALONE,
    ) -> CriticLoss:
        """Return the Bellman error J_Q of both critics (Eq. 3, 4).

        Step t of the arguments holds z_t, the action taken there, the reward that it earned and
        the environment's discount after it. The last step of a window has no next state: it serves
        as that of the step before, and counts itself only where the task truly terminated
        (discount 0), for then its target is its reward. Gradient reaches `states`; next states and
        targets are detached.

        With importance weights w the squared errors of window b count w_b times (Schaul et al.
        2016, section 3.4), and the same errors, unweighted, give the windows' new priorities.

        Args:
            states: z (T, B, Ds + Dh).
            actions: a (T, B, A).
            rewards: r (T, B).
            discounts: 1 except after a true termination (T, B).
            generator: Source of the next actions' noise.
            importance_weights: w (B,), at most 1; None where windows are not drawn by priority.
            learners: Those that share the batch: the loss is scaled so that the mean over them is
                that of the whole batch, also where their windows end differently.
        """
        with torch.no_grad():
            following = states[1:].detach()
            next_actions, log_prob = self.actor.sample(following, generator)
            next_values = self.target_critics(following, next_actions).amin(0)  # (T-1, B)
            next_values = next_values - self.log_alpha.exp() * log_prob
            next_values = F.pad(next_values, (0, 0, 0, 1))  # (T, B)
            targets = rewards + self.settings.discount * discounts * next_values
            counts = torch.ones_like(rewards)
            counts[-1] = (discounts[-1] == 0.0).float()
            share = counts / learners.mean(counts.sum())
        values = self.critics(states, actions)  # (2, T, B)
        errors = values - targets  # (2, T, B)
        metrics = {
            "value/mean": (values.detach().mean(0) * share).sum(),
            "value/target": (targets * share).sum(),
        }
        if importance_weights is None:
            return CriticLoss((errors.square() * share).sum(), metrics, None)
        loss = (errors.square() * share * importance_weights).sum()
        priorities = self.priorities(errors.detach(), counts)
        metrics["importance/mean"] = importance_weights.mean()
        metrics["priority/mean"] = priorities.mean()
        return CriticLoss(loss, metrics, priorities)

    def priorities(self, errors: Tensor, counts: Tensor) -> Tensor:
        """Return each window's priority (B,): eta times the largest plus 1 - eta times the mean of
        |delta_t| over its steps (Kapturowski et al. 2019, section 2.3), plus epsilon. |delta_t| is
        the mean over both critics.

        Args:
            errors: TD errors delta (2, T, B) of both critics.
            counts: 1 where a step has a target, else 0 (T, B).
        """
        sizes = errors.abs().mean(0) * counts  # (T, B)
        share = self.settings.priority_max_share
        mixed = share * sizes.amax(0) + (1.0 - share) * sizes.sum(0) / counts.sum(0)
        return mixed + self.settings.priority_epsilon  # (B,)

    def actor_loss(
        self, states: Tensor, generator: Generator = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return J_pi (Eq. 5) on detached states (..., Ds + Dh), and the temperature's loss.

        The critics are read, not trained: their parameters collect no gradient here.
        """
        actions, log_prob = self.actor.sample(states.detach(), generator)
        with frozen(self.critics):
            values = self.critics(states.detach(), actions).amin(0)
        loss = (self.log_alpha.detach().exp() * log_prob - values).mean()
        mean_log_prob = log_prob.detach().mean()
        alpha_loss = -self.log_alpha.exp() * (self.target_entropy + mean_log_prob)
        return loss, alpha_loss, {"policy/entropy": -mean_log_prob}

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep log alpha at or below its maximum."""
        self.log_alpha.clamp_(max=self.settings.log_alpha_max)

    @torch.no_grad()
    def update_targets(self) -> None:
        """Move target critics by `target_rate` towards the critics."""
        torch._foreach_lerp_(
            list(self.target_critics.parameters()),
            list(self.critics.parameters()),
            self.settings.target_rate,
        )
