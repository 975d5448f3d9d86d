"""Recurrent state-space model: transition, prior and posterior over the latent state.

Legend of shapes: T agent steps, B windows, E embedding, Dh recurrent, Ds latent, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learners.models.layers import MLP, Gaussian, GaussianHead
from learners.noise import Generator, normal


@dataclass
class States:
    """Filtered states of T steps: `recurrent` h (T, B, Dh), `latent` s (T, B, Ds) sampled from
    `posterior`."""

    recurrent: Tensor
    latent: Tensor
    posterior: Gaussian

    def sampled(self) -> Tensor:
        """Return [s, h] with the sampled latent (T, B, Ds + Dh)."""
        return torch.cat([self.latent, self.recurrent], -1)

    def expected(self) -> Tensor:
        """Return [mean s, h] (T, B, Ds + Dh)."""
        return torch.cat([self.posterior.mean, self.recurrent], -1)


class RSSM(nn.Module):
    """Future predictor p(z_t | z_t-1, a_t-1) and correction model q(z_t | z_t, x_t) of its parts.

    Args:
        embedding: Maps observation features (..., F) to embeddings (..., E).
        transition_input: Maps [s_t-1, a_t-1] (..., Ds + A) to the input of the cell.
        cell: Maps that and h_t-1 (B, Dh) to h_t.
        prior_head: Maps h_t to p(s_t | h_t).
        posterior_head: Maps [e_t, h_t] to q(s_t | h_t, x_t).
        latent_dims: Ds.
        recurrent_dims: Dh.
        skip_first: An episode's or window's first step makes no transition, so that its posterior
            sees h = 0 and the observation; otherwise it steps from zero state and zero action.
    """

    def __init__(
        self,
        embedding: nn.Module,
        transition_input: MLP,
        cell: nn.Module,
        prior_head: GaussianHead,
        posterior_head: GaussianHead,
        *,
        latent_dims: int,
        recurrent_dims: int,
        skip_first: bool,
    ) -> None:
        super().__init__()
        self.latent_dims = latent_dims
        self.recurrent_dims = recurrent_dims
        self.skip_first = skip_first
        self.embedding = embedding
        self.transition_input = transition_input
        self.cell = cell
        self.prior_head = prior_head
        self.posterior_head = posterior_head
        self._compiled_step: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] | None = None
        self._compiled_prediction: Callable[..., tuple[Tensor, Tensor]] | None = None

    @property
    def state_dims(self) -> int:
        """Size Ds + Dh of a whole state [s, h]."""
        return self.latent_dims + self.recurrent_dims

    @property
    def action_dims(self) -> int:
        """Size A of an action."""
        return self.transition_input.entry.in_features - self.latent_dims

    def transition(self, latent: Tensor, action: Tensor, recurrent: Tensor) -> Tensor:
        """Return h_t (B, Dh) from s_t-1 (B, Ds), a_t-1 (B, A) and h_t-1 (B, Dh)."""
        inputs = self.transition_input(torch.cat([latent, action], -1))  # (B, hidden)
        return self.cell(inputs, recurrent)

    def prior(self, recurrent: Tensor) -> Gaussian:
        """Return p(s_t | h_t) (..., Ds)."""
        return self.prior_head(recurrent)

    def posterior(self, embedding: Tensor, recurrent: Tensor) -> Gaussian:
        """Return q(s_t | h_t, x_t) (..., Ds)."""
        return self.posterior_head(torch.cat([embedding, recurrent], -1))

    def predict(
        self, latent: Tensor, recurrent: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return s_t sampled from the prior with standard normal `noise`, and h_t.

        Args:
            latent: s_t-1 (B, Ds).
            recurrent: h_t-1 (B, Dh).
            action: a_t-1 (B, A).
            noise: (B, Ds).
        """
        step = self._compiled_prediction or self._predict
        return step(latent, recurrent, action, noise)

    def _predict(
        self, latent: Tensor, recurrent: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        recurrent = self.transition(latent, action, recurrent)
        prior = self.prior(recurrent)
        return torch.addcmul(prior.mean, prior.log_std.exp(), noise), recurrent

    # Filtering ----------------------------------------------------------------------------------

    def initial_state(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """Return zero states of `count` episodes: h, s and the action taken there."""
        sizes = {
            "recurrent": self.recurrent_dims,
            "latent": self.latent_dims,
            "action": self.action_dims,
        }
        return {name: torch.zeros(count, size, device=device) for name, size in sizes.items()}

    def correct(
        self, features: Tensor, state: dict[str, Tensor], first: Tensor
    ) -> tuple[Gaussian, Tensor]:
        """Filter one more observation: return its posterior (B, Ds) and h (B, Dh).

        Args:
            features: Observation features x (B, F).
            state: `recurrent`, `latent` and `action` of the step before.
            first: bool (B, 1); where true there was none.
        """
        if not self.skip_first:
            state = {name: value.masked_fill(first, 0.0) for name, value in state.items()}
        recurrent = self.transition(state["latent"], state["action"], state["recurrent"])
        if self.skip_first:
            recurrent = recurrent.masked_fill(first, 0.0)
        return self.posterior(self.embedding(features), recurrent), recurrent

    def observe(self, features: Tensor, actions: Tensor, generator: Generator = None) -> States:
        """Filter windows that all start from h_0 = 0.

        Args:
            features: Observation features x (T, B, F).
            actions: Actions (T, B, A); `actions[t]` was taken on the observation of step t.
            generator: Source of the posterior noise.

        Returns:
            States of all T steps. The prior is a function of `recurrent` alone: `prior()`.
        """
        horizon, batch = features.shape[:2]
        embeddings = self.embedding(features)  # (T, B, E)
        # Only the recurrent half of the first layers depends on the loop: the rest is done at once.
        correction, transition = self.posterior_head.network, self.transition_input
        observed_dims = embeddings.shape[-1]
        from_observed = F.linear(
            embeddings, correction.entry.weight[:, :observed_dims], correction.entry.bias
        )  # (T, B, hidden)
        before = F.pad(actions[:-1], (0, 0, 0, 0, 1, 0))  # (T, B, A): a_t-1, 0 for the first
        from_action = F.linear(
            before, transition.entry.weight[:, self.latent_dims :], transition.entry.bias
        )  # (T, B, hidden)
        noise = normal((horizon, batch, self.latent_dims), generator, features.device)
        recurrent = embeddings.new_zeros(batch, self.recurrent_dims)
        latent = embeddings.new_zeros(batch, self.latent_dims)
        recurrents, latents, means, log_stds = [], [], [], []
        step = self._compiled_step or self._filter_step
        # Sliced once, or the backward pass would put every step's share together by itself.
        latent_weight = transition.entry.weight[:, : self.latent_dims].t()
        recurrent_weight = correction.entry.weight[:, observed_dims:].t()
        for t in range(horizon):
            if t == 0 and self.skip_first:
                latent, mean, log_std = self._correct(from_observed[0], noise[0])
            else:
                recurrent, latent, mean, log_std = step(
                    latent,
                    recurrent,
                    from_action[t],
                    from_observed[t],
                    noise[t],
                    latent_weight,
                    recurrent_weight,
                )
            recurrents.append(recurrent)
            latents.append(latent)
            means.append(mean)
            log_stds.append(log_std)
        return States(
            recurrent=torch.stack(recurrents),
            latent=torch.stack(latents),
            posterior=Gaussian(torch.stack(means), torch.stack(log_stds)),
        )

    def compile_steps(self) -> None:
        """Have torch.compile fuse `predict` and each step of `observe`, at their first use."""
        self._compiled_step = torch.compile(self._filter_step, dynamic=False)
        self._compiled_prediction = torch.compile(self._predict, dynamic=False)

    def _filter_step(
        self,
        latent: Tensor,
        recurrent: Tensor,
        from_action: Tensor,
        from_observed: Tensor,
        noise: Tensor,
        latent_weight: Tensor,
        recurrent_weight: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return h_t (B, Dh), s_t, and mean and log std of q(s_t), each (B, Ds), given s_t-1,
        h_t-1, what a_t-1 and x_t add in the first layers, each (B, hidden), and those layers'
        weights for s_t-1 and h_t.
        """
        inputs = torch.addmm(from_action, latent, latent_weight)
        recurrent = self.cell(self.transition_input.after_entry(inputs), recurrent)
        return recurrent, *self._correct(
            torch.addmm(from_observed, recurrent, recurrent_weight), noise
        )

    def _correct(self, hidden: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return s_t, and mean and log std of q(s_t), from the first layer's sums (B, hidden)."""
        posterior = self.posterior_head.after_entry(hidden)
        latent = torch.addcmul(posterior.mean, posterior.log_std.exp(), noise)
        return latent, posterior.mean, posterior.log_std
