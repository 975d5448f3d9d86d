"""CoRe's world model: encoder, RSSM and the heads that train them (paper Figure 1, right)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learners.models.encoder import PixelEncoder
from learners.models.layers import (
    MLP,
    GaussianHead,
    LayerNormGRUCell,
    WithoutAffineNorm,
    initialise,
    without_affine_norm,
)
from learners.models.observation import RecurrentModel
from learners.models.rssm import RSSM
from learners.settings import ModelSettings


class WorldModel(RecurrentModel):
    """Everything that the model loss J_M trains; all observation features are its targets.

    Attributes:
        rssm: Future predictor and correction model.
        decoder: Observation-feature decoder g, predicts x_t from the latent state.
        reward: Reward predictor r.
        inverse: Inverse dynamics a.
        inverse_temperature: lambda of Eq. 1 before its softplus, a scalar.
    """

    encoder: PixelEncoder

    def __init__(
        self,
        settings: ModelSettings,
        action_dims: int,
        crop_size: int,
        inverse_temperature_init: float,
        proprioception_size: int = 0,
    ) -> None:
        super().__init__(
            PixelEncoder(settings, crop_size), proprioception_size, settings.proprioception_dims
        )
        if self.proprioception_encoder is not None:
            initialise(self.proprioception_encoder)
        features = settings.observation_dims(proprioception_size)
        head = settings.head_dims
        self.rssm = core_rssm(settings, action_dims, features)
        state_dims = self.state_dims = self.rssm.state_dims
        self.decoder = MLP(
            [state_dims, settings.decoder_dims, settings.decoder_dims, features], nn.ELU
        )
        self.reward = MLP([state_dims, head, head, 1], nn.ELU)
        self.inverse = MLP([2 * state_dims, head, head, action_dims], nn.ELU)
        for module in (self.decoder, self.reward, self.inverse):
            initialise(module)
        self.inverse_temperature = nn.Parameter(torch.tensor(float(inverse_temperature_init)))

    def predict_features(self, states: Tensor) -> Tensor:
        """Map states [s, h] (..., Ds + Dh) to predicted features y (..., F)."""
        return without_affine_norm(self.decoder(states))

    def predict_reward(self, states: Tensor) -> Tensor:
        """Map states (..., Ds + Dh) to the reward that led to them (...)."""
        return self.reward(states).squeeze(-1)

    def predict_action(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the action (..., A) in [-1, 1] that led from one state to the next."""
        return torch.tanh(self.inverse(torch.cat([before, after], -1)))


def core_rssm(
    settings: ModelSettings, action_dims: int, observation_dims: int | None = None
) -> RSSM:
    """Return CoRe's RSSM: layer-normalised GRU, heads and embeddings.

    An episode's first step makes no transition (released code; the paper steps from z_0 = 0,
    a_0 = 0).

    Args:
        settings: Shapes.
        action_dims: Size A of an action.
        observation_dims: Size F of the features x_t; None is that of the image features alone.
    """
    embedding, hidden = settings.embedding_dims, settings.hidden_dims
    latent, recurrent = settings.latent_dims, settings.recurrent_dims
    features = settings.feature_dims if observation_dims is None else observation_dims
    rssm = RSSM(
        nn.Sequential(MLP([features, embedding, embedding], nn.ELU), WithoutAffineNorm()),
        MLP([latent + action_dims, hidden, hidden], nn.ELU, last=True),
        LayerNormGRUCell(hidden, recurrent),
        GaussianHead([recurrent, hidden, hidden, hidden], latent),
        GaussianHead([embedding + recurrent, hidden, hidden], latent),
        latent_dims=latent,
        recurrent_dims=recurrent,
        skip_first=True,
    )
    initialise(rssm)
    return rssm
