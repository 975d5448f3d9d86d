"""CoRe's world model: encoder, RSSM and the heads that train them (paper Figure 1, right)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learners.models.encoder import PixelEncoder
from learners.models.layers import MLP, initialise, without_affine_norm
from learners.models.rssm import RSSM
from learners.settings import ModelSettings


class WorldModel(nn.Module):
    """Everything that the model loss J_M trains.

    Attributes:
        encoder: Observation encoder f.
        rssm: Future predictor and correction model.
        decoder: Observation-feature decoder g, predicts x_t from the latent state.
        reward: Reward predictor r.
        inverse: Inverse dynamics a.
        inverse_temperature: lambda of Eq. 1 before its softplus, a scalar.
    """

    def __init__(
        self,
        settings: ModelSettings,
        action_dims: int,
        crop_size: int,
        inverse_temperature_init: float,
    ) -> None:
        super().__init__()
        state_dims = settings.latent_dims + settings.recurrent_dims
        head = settings.head_dims
        self.state_dims = state_dims
        self.encoder = PixelEncoder(settings, crop_size)
        self.rssm = RSSM(settings, action_dims)
        self.decoder = MLP(
            [state_dims, settings.decoder_dims, settings.decoder_dims, settings.feature_dims],
            nn.ELU,
        )
        self.reward = MLP([state_dims, head, head, 1], nn.ELU)
        self.inverse = MLP([2 * state_dims, head, head, action_dims], nn.ELU)
        for module in (self.decoder, self.reward, self.inverse):
            initialise(module)
        self.inverse_temperature = nn.Parameter(torch.tensor(float(inverse_temperature_init)))

    def encode(self, pixels: Tensor) -> Tensor:
        """Map crops (T, B, 3, S, S) in [0, 1] to features x (T, B, F)."""
        return self.encoder(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])

    def predict_features(self, states: Tensor) -> Tensor:
        """Map states [s, h] (..., Ds + Dh) to predicted features y (..., F)."""
        return without_affine_norm(self.decoder(states))

    def predict_reward(self, states: Tensor) -> Tensor:
        """Map states (..., Ds + Dh) to the reward that led to them (...)."""
        return self.reward(states).squeeze(-1)

    def predict_action(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the action (..., A) in [-1, 1] that led from one state to the next."""
        return torch.tanh(self.inverse(torch.cat([before, after], -1)))
