"""CoRe's agent: world model and behaviour in one module, with its losses and its acting step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from learners.agent import ActingState, Observation
from learners.behaviors.sac import SoftActorCritic
from learners.collective import ALONE, Collective
from learners.models.policy import Actor, TwinCritic
from learners.models.rssm import States
from learners.models.world_model import WorldModel
from learners.noise import Generator
from learners.objectives.contrastive import contrastive_loss
from learners.objectives.divergence import balanced_kl
from learners.objectives.prediction import inverse_dynamics_loss, reward_prediction_loss
from learners.recurrent import RecurrentAgent
from learners.settings import BehaviorSettings, LearnerSettings, ModelSettings, ObjectiveSettings


class CoReAgent(RecurrentAgent):
    """Contrastive recurrent state-space model with soft actor-critic.

    It observes pictures, and with a `proprioception_size` P above 0 P numbers beside each.

    Attributes:
        model: World model, trained by J_M and (by default) by the Bellman error.
        behavior: Actor, critics and temperature.
    """

    model: WorldModel
    acting_parts = (
        "model.encoder.",
        "model.proprioception_encoder.",
        "model.rssm.embedding.",
        "model.rssm.transition_input.",
        "model.rssm.cell.",
        "model.rssm.posterior_head.",
        "behavior.actor.",
    )

    def __init__(
        self,
        model: ModelSettings,
        objective: ObjectiveSettings,
        behavior: BehaviorSettings,
        learner: LearnerSettings,
        action_dims: int,
        proprioception_size: int = 0,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.crop_size = learner.crop_size
        self.action_dims = action_dims
        self.proprioception_size = proprioception_size
        self.model = WorldModel(
            model,
            action_dims,
            learner.crop_size,
            objective.inverse_temperature_init,
            proprioception_size,
        )
        state_dims = self.model.state_dims
        self.behavior = SoftActorCritic(
            behavior,
            Actor(behavior, state_dims, action_dims),
            TwinCritic(state_dims, action_dims, behavior.critic_dims),
            action_dims,
        )

    # Losses -------------------------------------------------------------------------------------

    def model_loss(
        self,
        features: Tensor,
        states: States,
        actions: Tensor,
        rewards: Tensor,
        generator: Generator = None,
        learners: Collective = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return J_M = L_c + beta L_KL + alpha_r L_r + alpha_a L_a (paper section 2.2).

        The first step of a window has no prediction behind it and enters none of the contrastive,
        KL and reward terms.

        Args:
            features: x (T, B, F).
            states: Filtered states of the same T steps.
            actions: a (T, B, A), a_t taken on o_t.
            rewards: r (T, B), r_t earned by a_t.
            generator: Source of the prior's noise.
            learners: Those that share the batch.
        """
        weights = self.objective
        posterior = states.posterior[1:]
        prior = self.model.rssm.prior(states.recurrent[1:])
        decoded = prior.sample(generator) if weights.decode_from == "prior" else states.latent[1:]
        predictions = self.model.predict_features(torch.cat([decoded, states.recurrent[1:]], -1))
        contrastive, metrics = contrastive_loss(
            features[1:],
            predictions,
            F.softplus(self.model.inverse_temperature),
            negatives=weights.negatives,
            reduction=weights.contrastive_reduction,
            learners=learners,
            gather=weights.gather_negatives,
        )
        divergence, divergence_metrics = balanced_kl(
            posterior, prior, balance=weights.kl_balance, free_nats=weights.free_nats
        )
        heads_input = states.sampled()
        reward = reward_prediction_loss(
            self.model.predict_reward(heads_input[1:]), rewards[:-1], weights.reward_loss
        )
        inverse = inverse_dynamics_loss(
            self.model.predict_action(heads_input[:-1], heads_input[1:]), actions[:-1]
        )
        total = (
            weights.contrastive_scale * contrastive
            + weights.kl_scale * divergence
            + weights.reward_scale * reward
            + weights.inverse_scale * inverse
        )
        metrics |= divergence_metrics
        metrics |= {
            "loss/model": total.detach(),
            "loss/contrastive": contrastive.detach(),
            "loss/kl": divergence.detach(),
            "loss/reward": reward.detach(),
            "loss/inverse": inverse.detach(),
        }
        return total, metrics

    # Acting -------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        state: ActingState,
        is_first: np.ndarray,
        explore: bool,
        generator: Generator = None,
    ) -> tuple[np.ndarray, ActingState]:
        """Filter one more observation of every environment and choose its action.

        As `Agent.act`: exploring samples the action, otherwise it is tanh(mean). The posterior is
        sampled either way, as in the released code.
        """
        posterior, recurrent = self.filter(observation, state, is_first)
        states = torch.cat([posterior.mean, recurrent], -1)
        actor = self.behavior.actor
        action = actor.sample(states, generator)[0] if explore else actor.deterministic(states)
        following = {
            "recurrent": recurrent,
            "latent": posterior.sample(generator),
            "action": action,
        }
        return action.cpu().numpy(), following

    def compute_in(self, precision: torch.dtype) -> None:
        """Set the dtype of the pixel encoder."""
        self.model.encoder.precision = precision
