"""Recurrent state-space model: GRU transition, prior and posterior over the latent state.

Legend of shapes: T agent steps, B windows, E embedding, Dh recurrent, Ds latent, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learners.models.layers import (
    MLP,
    Gaussian,
    GaussianHead,
    LayerNormGRUCell,
    initialise,
    without_affine_norm,
)
from learners.noise import Generator, normal
from learners.settings import ModelSettings


@dataclass
class States:
    """Filtered states of T steps: `recurrent` h (T, B, Dh), `latent` s (T, B, Ds) sampled from
    `posterior`."""

    recurrent: Tensor
    latent: Tensor
    posterior: Gaussian

    def sampled(self) -> Tensor:
        """Return [s, h] with the sampled latent (T, B, Ds + Dh): what the prediction heads read."""
        return torch.cat([self.latent, self.recurrent], -1)

    def expected(self) -> Tensor:
        """Return [mean s, h] (T, B, Ds + Dh): what actor and critics read."""
        return torch.cat([self.posterior.mean, self.recurrent], -1)


class RSSM(nn.Module):
    """Future predictor p(z_t | z_t-1, a_t-1) and correction model q(z_t | z^_t, x_t).

    Args:
        settings: Shapes.
        action_dims: Size A of an action.
        observation_dims: Size F of the features x_t; None is that of the image features alone.
    """

    def __init__(
        self, settings: ModelSettings, action_dims: int, observation_dims: int | None = None
    ) -> None:
        super().__init__()
        hidden, latent, recurrent = (
            settings.hidden_dims,
            settings.latent_dims,
            settings.recurrent_dims,
        )
        self.recurrent_dims = recurrent
        self.latent_dims = latent
        features = settings.feature_dims if observation_dims is None else observation_dims
        self.embedding = MLP([features, settings.embedding_dims, settings.embedding_dims], nn.ELU)
        self.transition_input = MLP([latent + action_dims, hidden, hidden], nn.ELU, last=True)
        self.cell = LayerNormGRUCell(hidden, recurrent)
        self.prior_head = GaussianHead([recurrent, hidden, hidden, hidden], latent)
        self.posterior_head = GaussianHead(
            [settings.embedding_dims + recurrent, hidden, hidden], latent
        )
        self._compiled_step: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] | None = None
        initialise(self)

    def embed(self, features: Tensor) -> Tensor:
        """Map observation features (..., F) to normalised embeddings (..., E)."""
        return without_affine_norm(self.embedding(features))

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

    def observe(self, features: Tensor, actions: Tensor, generator: Generator = None) -> States:
        """Filter windows that all start from h_0 = 0.

        The first step has no previous action, so the transition is skipped there: its posterior
        sees the observation alone (released code; the paper steps the RSSM from z_0 = 0, a_0 = 0).

        Args:
            features: Observation features x (T, B, F).
            actions: Actions (T, B, A); `actions[t]` was taken on the observation of step t.
            generator: Source of the posterior noise.

        Returns:
            States of all T steps. The prior is a function of `recurrent` alone: `prior()`.
        """
        horizon, batch = features.shape[:2]
        embeddings = self.embed(features)  # (T, B, E)
        # Only the recurrent half of the first layers depends on the loop: the rest is done at once.
        correction, transition = self.posterior_head.network, self.transition_input
        observed_dims = embeddings.shape[-1]
        from_observed = F.linear(
            embeddings, correction.entry.weight[:, :observed_dims], correction.entry.bias
        )  # (T, B, hidden)
        from_action = F.linear(
            actions[:-1], transition.entry.weight[:, self.latent_dims :], transition.entry.bias
        )  # (T-1, B, hidden)
        noise = normal((horizon, batch, self.latent_dims), generator, features.device)
        recurrent = embeddings.new_zeros(batch, self.recurrent_dims)
        recurrents, latents, means, log_stds = [], [], [], []
        step = self._compiled_step or self._filter_step
        # Sliced once, or the backward pass would put every step's share together by itself.
        latent_weight = transition.entry.weight[:, : self.latent_dims].t()
        recurrent_weight = correction.entry.weight[:, observed_dims:].t()
        for t in range(horizon):
            if t == 0:
                latent, mean, log_std = self._correct(from_observed[0], noise[0])
            else:
                recurrent, latent, mean, log_std = step(
                    latent,
                    recurrent,
                    from_action[t - 1],
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

    def compile_step(self) -> None:
        """Have torch.compile fuse what `observe` does at each step, at its first use."""
        self._compiled_step = torch.compile(self._filter_step, dynamic=False)

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
        correction = self.posterior_head.network
        statistics = self.posterior_head.norm(correction.after_entry(hidden))  # (B, 2 Ds)
        posterior = Gaussian.from_parameters(statistics)
        latent = torch.addcmul(posterior.mean, posterior.log_std.exp(), noise)
        return latent, posterior.mean, posterior.log_std
