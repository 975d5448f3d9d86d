"""Actor and critics on the latent state."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learners.models.layers import MLP, initialise
from learners.noise import Generator, normal
from learners.settings import BehaviorSettings

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
# Sampled actions stay within +-(1 - 1e-7), and their log-probability is that of the bounded action.
_UNSQUASHED_BOUND = math.atanh(1.0 - 1e-7)


class Actor(nn.Module):
    """Tanh-squashed Gaussian policy pi(a | z)."""

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

    def deterministic(self, states: Tensor) -> Tensor:
        """Return tanh(mean) (..., A)."""
        return torch.tanh(self.distribution(states)[0])

    def sample(self, states: Tensor, generator: Generator = None) -> tuple[Tensor, Tensor]:
        """Draw a reparameterised action (..., A) and its log-probability (...)."""
        mean, log_std = self.distribution(states)
        noise = normal(mean.shape, generator, mean.device)
        unsquashed = mean + log_std.exp() * noise
        unsquashed = unsquashed.clamp(-_UNSQUASHED_BOUND, _UNSQUASHED_BOUND)
        return torch.tanh(unsquashed), tanh_gaussian_log_prob(unsquashed, mean, log_std)


def tanh_gaussian_log_prob(unsquashed: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return log pi of `tanh(unsquashed)`, summed over the last axis.

    The log-determinant of tanh is `2 (log 2 - x - softplus(-2x))`, stable for large |x|.
    """
    gaussian = -0.5 * ((unsquashed - mean) / log_std.exp()).square() - log_std - _LOG_SQRT_2PI
    log_det = 2.0 * (math.log(2.0) - unsquashed - F.softplus(-2.0 * unsquashed))
    return (gaussian - log_det).sum(-1)


class TwinCritic(nn.Module):
    """Two independent critics Q_1, Q_2(z, a), computed together as batched matrix products."""

    def __init__(self, settings: BehaviorSettings, state_dims: int, action_dims: int) -> None:
        super().__init__()
        sizes = [state_dims + action_dims, *settings.critic_dims, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for width_in, width_out in pairwise(sizes):
            weight = torch.empty(2, width_in, width_out)
            for critic in weight:
                nn.init.orthogonal_(critic.t())
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
                hidden = F.relu(hidden)
        return hidden.squeeze(-1).view(2, *inputs.shape[:-1])
