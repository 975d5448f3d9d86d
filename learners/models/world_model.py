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

    An observation is a picture or, with a `proprioception_size` P above 0, a picture and P numbers.
    The features x of the second kind are those of the picture, then those of an MLP on the numbers
    (ELU after every layer, no layer norm); all of them are contrastive targets.

    Attributes:
        encoder: Observation encoder f, of pictures.
        proprioception_encoder: The same of proprioception; None without.
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
        proprioception_size: int = 0,
    ) -> None:
        super().__init__()
        state_dims = settings.latent_dims + settings.recurrent_dims
        head = settings.head_dims
        self.state_dims = state_dims
        self.encoder = PixelEncoder(settings, crop_size)
        self.proprioception_encoder: MLP | None = None
        if proprioception_size:
            sizes = [proprioception_size, *settings.proprioception_dims]
            self.proprioception_encoder = MLP(sizes, nn.ELU, last=True)
            initialise(self.proprioception_encoder)
        features = settings.observation_dims(proprioception_size)
        self.rssm = RSSM(settings, action_dims, features)
        self.decoder = MLP(
            [state_dims, settings.decoder_dims, settings.decoder_dims, features], nn.ELU
        )
        self.reward = MLP([state_dims, head, head, 1], nn.ELU)
        self.inverse = MLP([2 * state_dims, head, head, action_dims], nn.ELU)
        for module in (self.decoder, self.reward, self.inverse):
            initialise(module)
        self.inverse_temperature = nn.Parameter(torch.tensor(float(inverse_temperature_init)))

    def encode(self, pixels: Tensor, proprioception: Tensor | None = None) -> Tensor:
        """Map crops (..., 3, S, S) in [0, 1] and proprioception (..., P) to features x (..., F).

        Raises:
            ValueError: Proprioception is given to a model without an encoder for it, or missing.
        """
        if (proprioception is None) != (self.proprioception_encoder is None):
            given = "pictures alone" if proprioception is None else "pictures and proprioception"
            raise ValueError(
                f"The model is not made for {given}: environment.proprioception must be what it "
                "was when the model was made."
            )
        features = self.encoder(pixels.flatten(0, -4)).unflatten(0, pixels.shape[:-3])
        if self.proprioception_encoder is None:
            return features
        return torch.cat([features, self.proprioception_encoder(proprioception)], -1)

    def predict_features(self, states: Tensor) -> Tensor:
        """Map states [s, h] (..., Ds + Dh) to predicted features y (..., F)."""
        return without_affine_norm(self.decoder(states))

    def predict_reward(self, states: Tensor) -> Tensor:
        """Map states (..., Ds + Dh) to the reward that led to them (...)."""
        return self.reward(states).squeeze(-1)

    def predict_action(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the action (..., A) in [-1, 1] that led from one state to the next."""
        return torch.tanh(self.inverse(torch.cat([before, after], -1)))
