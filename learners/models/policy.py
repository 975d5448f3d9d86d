"""Actors and critics on a latent state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learners.cvrl_settings import CVRLBehaviorSettings
from learners.models.layers import MLP, initialise, initialise_as_keras
from learners.noise import Generator, normal
from learners.settings import BehaviorSettings

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
# Sampled actions stay within +-(1 - 1e-7), and their log-probability is that of the bounded action.
_UNSQUASHED_BOUND = math.atanh(1.0 - 1e-7)


class SquashedGaussianActor(nn.Module, ABC):
    """Policy pi(a | z): a Gaussian squashed by tanh."""

    @abstractmethod
    def distribution(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation before squashing, each (..., A)."""

    def deterministic(self, states: Tensor) -> Tensor:
        """Return tanh(mean) (..., A)."""
        return torch.tanh(self.distribution(states)[0])

    def sample(self, states: Tensor, generator: Generator = None) -> tuple[Tensor, Tensor]:
        """Draw a reparameterised action (..., A) and its log-probability (...)."""
        mean, log_std = self.distribution(states)
        unsquashed = mean + log_std.exp() * normal(mean.shape, generator, mean.device)
        unsquashed = unsquashed.clamp(-_UNSQUASHED_BOUND, _UNSQUASHED_BOUND)
        return torch.tanh(unsquashed), tanh_gaussian_log_prob(unsquashed, mean, log_std)

    def action(self, states: Tensor, noise: Tensor) -> Tensor:
        """Return the action (..., A) that standard normal `noise` (..., A) makes of states."""
        mean, log_std = self.distribution(states)
        unsquashed = torch.addcmul(mean, log_std.exp(), noise)
        return torch.tanh(unsquashed.clamp(-_UNSQUASHED_BOUND, _UNSQUASHED_BOUND))


class Actor(SquashedGaussianActor):
    """CoRe's policy: bounded mean, log standard deviation between two bounds (ReLU layers)."""

    def __init__(self, settings: BehaviorSettings, state_dims: int, action_dims: int) -> None:
        super().__init__()
        self.network = MLP([state_dims, *settings.actor_dims, 2 * action_dims], nn.ReLU)
        self.mean_bound = settings.mean_bound
        self.log_std_min = settings.log_std_min
        self.log_std_max = settings.log_std_max
        initialise(self)

    def distribution(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation before squashing, each (..., A)."""
        mean, raw = self.network(states).chunk(2, -1)
        mean = self.mean_bound * torch.tanh(mean / self.mean_bound)
        log_std = self.log_std_min + (self.log_std_max - self.log_std_min) * torch.sigmoid(raw)
        return mean, log_std


class DreamerActor(SquashedGaussianActor):
    """The policy of Dreamer and CVRL: bounded mean, softplus standard deviation (ELU layers).

    It begins with the standard deviation `init_std` before squashing, and `exploration_noise` adds
    more outside.
    """

    def __init__(self, settings: CVRLBehaviorSettings, state_dims: int, action_dims: int) -> None:
        super().__init__()
        self.network = MLP([state_dims, *settings.actor_dims, 2 * action_dims], nn.ELU)
        self.mean_scale = settings.mean_scale
        self.raw_init_std = math.log(math.expm1(settings.init_std))
        self.min_std = settings.min_std
        self.mode_samples = settings.mode_samples
        initialise_as_keras(self)

    def distribution(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation before squashing, each (..., A)."""
        mean, raw = self.network(states).chunk(2, -1)
        mean = self.mean_scale * torch.tanh(mean / self.mean_scale)
        return mean, (F.softplus(raw + self.raw_init_std) + self.min_std).log()

    def mode(self, states: Tensor, generator: Generator = None) -> Tensor:
        """Return the likeliest of `mode_samples` actions (N, A), or tanh(mean) without samples."""
        if not self.mode_samples:
            return self.deterministic(states)
        many = states.expand(self.mode_samples, *states.shape)
        actions, log_prob = self.sample(many, generator)  # (M, N, A), (M, N)
        best = log_prob.argmax(0)  # (N,)
        return actions[best, torch.arange(len(best), device=best.device)]


def tanh_gaussian_log_prob(unsquashed: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return log pi of `tanh(unsquashed)`, summed over the last axis.

    The log-determinant of tanh is `2 (log 2 - x - softplus(-2x))`, stable for large |x|.
    """
    gaussian = -0.5 * ((unsquashed - mean) / log_std.exp()).square() - log_std - _LOG_SQRT_2PI
    log_det = 2.0 * (math.log(2.0) - unsquashed - F.softplus(-2.0 * unsquashed))
    return (gaussian - log_det).sum(-1)


class TwinCritic(nn.Module):
    """Two independent critics Q_1, Q_2(z, a), computed together as batched matrix products.

    Args:
        state_dims: Size of z.
        action_dims: Size A of an action.
        hidden_dims: Hidden layers of each critic.
        activation: Between the layers.
        draw: Draws a weight matrix (out, in) in place; biases begin at 0.
    """

    def __init__(
        self,
        state_dims: int,
        action_dims: int,
        hidden_dims: Sequence[int],
        activation: Callable[[Tensor], Tensor] = F.relu,
        draw: Callable[[Tensor], Tensor] = nn.init.orthogonal_,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for width_in, width_out in pairwise([state_dims + action_dims, *hidden_dims, 1]):
            weight = torch.empty(2, width_in, width_out)
            for critic in weight:
                draw(critic.t())
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(2, 1, width_out)))

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Map states (..., Ds + Dh) and actions (..., A) to values (2, ...)."""
        inputs = torch.cat([states, actions], -1)
        hidden = inputs.flatten(0, -2).expand(2, -1, -1)  # (2, N, Ds + Dh + A)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if index < last:
                hidden = self.activation(hidden)
        return hidden.squeeze(-1).view(2, *inputs.shape[:-1])
