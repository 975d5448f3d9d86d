"""CVRL's world model: encoder, RSSM, reward head, and what ties states to observations."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from learners.collective import ALONE, Collective
from learners.cvrl_settings import CVRLModelSettings, CVRLObjectiveSettings
from learners.models.decoder import PixelDecoder
from learners.models.encoder import FlatEncoder
from learners.models.layers import MLP, GaussianHead, initialise_as_keras
from learners.models.observation import RecurrentModel
from learners.models.rssm import RSSM, States
from learners.objectives.celbo import celbo_contrast


class ContrastiveTerm(nn.Module):
    """Minus the mutual information of states and observations, bounded by InfoNCE (Eq. 5).

    Attributes:
        observation_code: Embeds an observation's features, z.
        state_code: Embeds a state, s'.
        bilinear: W of the score z^T W s'; None where the score is z^T s'.
    """

    def __init__(
        self,
        model: CVRLModelSettings,
        objective: CVRLObjectiveSettings,
        features: int,
        state_dims: int,
    ) -> None:
        super().__init__()
        self.objective = objective
        states = model.latent_dims if objective.contrastive_state == "latent" else state_dims
        width = model.state_code_dims[-1]
        self.observation_code = MLP([features, *model.observation_code_dims], nn.ELU, last=True)
        self.state_code = MLP([states, *model.state_code_dims], nn.ELU, last=True)
        bilinear = objective.score == "bilinear"
        self.bilinear = nn.Linear(width, width, bias=False) if bilinear else None
        initialise_as_keras(self)

    def forward(
        self, features: Tensor, states: States, pixels: Tensor, learners: Collective = ALONE
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of features (T, B, F) and their states, and its metrics."""
        codes = self.observation_code(features)  # (T, B, K)
        if self.bilinear is not None:
            codes = self.bilinear(codes)
        latent = self.objective.contrastive_state == "latent"
        loss, metrics = celbo_contrast(
            self.state_code(states.latent if latent else states.sampled()),
            codes,
            positive_among_candidates=self.objective.positive_among_candidates,
            learners=learners,
            gather=self.objective.gather_negatives,
        )
        return loss, metrics | {"loss/contrastive": loss.detach()}


class ReconstructionTerm(nn.Module):
    """Minus the log-likelihood of pixels under a Gaussian of unit variance (Dreamer)."""

    def __init__(self, model: CVRLModelSettings, state_dims: int, crop_size: int) -> None:
        super().__init__()
        channels, kernels = model.decoder_channels, model.decoder_kernels
        self.decoder = PixelDecoder(state_dims, channels, kernels, crop_size)

    def forward(
        self, features: Tensor, states: States, pixels: Tensor, learners: Collective = ALONE
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the states and their pixels (T, B, 3, S, S), a sum over pixels and
        without its constant.
        """
        drawn = self.decoder(states.sampled().flatten(0, 1))
        squares = F.mse_loss(drawn, pixels.flatten(0, 1), reduction="none")
        loss = 0.5 * squares.flatten(1).sum(1).mean()
        return loss, {
            "reconstruction/pixel_error": squares.detach().mean().sqrt(),
            "loss/reconstruction": loss.detach(),
        }


class NoObservationTerm(nn.Module):
    """Nothing: the model learns from rewards alone."""

    def forward(
        self, features: Tensor, states: States, pixels: Tensor, learners: Collective = ALONE
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return 0."""
        return features.new_zeros(()), {}


class CVRLWorldModel(RecurrentModel):
    """Everything that the CELBO trains.

    Attributes:
        rssm: Future predictor and correction model.
        reward: Reward predictor.
        observation_term: What ties states to observations: `objective.observation`.

    Raises:
        ValueError: The crop is too small for the convolutions, or of another size than the decoder.
    """

    encoder: FlatEncoder

    def __init__(
        self,
        settings: CVRLModelSettings,
        objective: CVRLObjectiveSettings,
        action_dims: int,
        crop_size: int,
        proprioception_size: int = 0,
    ) -> None:
        encoder = FlatEncoder(settings, crop_size)
        super().__init__(encoder, proprioception_size, settings.proprioception_dims)
        features = encoder.output_dims + self.felt_dims
        if self.proprioception_encoder is not None:
            initialise_as_keras(self.proprioception_encoder)
        self.rssm = cvrl_rssm(settings, action_dims, features)
        state_dims = self.state_dims = self.rssm.state_dims
        self.reward = MLP([state_dims, *settings.reward_dims, 1], nn.ELU)
        initialise_as_keras(self.reward)
        self.observation_term: nn.Module
        if objective.observation == "contrastive":
            self.observation_term = ContrastiveTerm(settings, objective, features, state_dims)
        elif objective.observation == "generative":
            self.observation_term = ReconstructionTerm(settings, state_dims, crop_size)
        else:
            self.observation_term = NoObservationTerm()

    def predict_reward(self, states: Tensor) -> Tensor:
        """Map states [s, h] (..., Ds + Dh) to the mean reward that led to them (...)."""
        return self.reward(states).squeeze(-1)


def cvrl_rssm(settings: CVRLModelSettings, action_dims: int, features: int) -> RSSM:
    """Return the RSSM of Dreamer and CVRL: a plain GRU, one hidden layer a head, no layer norm."""
    hidden, latent, recurrent = settings.hidden_dims, settings.latent_dims, settings.recurrent_dims
    rssm = RSSM(
        nn.Identity(),
        MLP([latent + action_dims, hidden], nn.ELU, last=True),
        nn.GRUCell(hidden, recurrent),
        GaussianHead([recurrent, hidden], latent, settings.min_std),
        GaussianHead([features + recurrent, hidden], latent, settings.min_std),
        latent_dims=latent,
        recurrent_dims=recurrent,
        skip_first=False,
    )
    initialise_as_keras(rssm)
    return rssm
