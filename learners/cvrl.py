"""CVRL's agent: contrastive variational world model, hybrid actor-critic, planning while it acts.

Ma, Chen, Hsu and Lee, Contrastive Variational Reinforcement Learning for Complex Observations
(2020). With the pixel decoder, without SAC and without planning it is Dreamer (Hafner et al. 2020).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from learners.agent import ActingState, Observation
from learners.behaviors.hybrid import HybridActorCritic
from learners.collective import ALONE, Collective
from learners.cvrl_settings import (
    CVRLBehaviorSettings,
    CVRLLearnerSettings,
    CVRLModelSettings,
    CVRLObjectiveSettings,
)
from learners.models.cvrl_world_model import CVRLWorldModel, ReconstructionTerm
from learners.models.rssm import States
from learners.noise import Generator, normal
from learners.objectives.divergence import gaussian_kl
from learners.planners.latent_mpc import LatentMPC
from learners.recurrent import RecurrentAgent


class CVRLAgent(RecurrentAgent):
    """Contrastive variational world model with a hybrid actor-critic.

    It observes pictures, and with a `proprioception_size` P above 0 P numbers beside each.

    Attributes:
        model: World model, trained by the CELBO alone.
        behavior: Actor, value network and SAC's critics.

    Raises:
        ValueError: The crop does not fit the convolutions or the decoder.
    """

    model: CVRLWorldModel

    def __init__(
        self,
        model: CVRLModelSettings,
        objective: CVRLObjectiveSettings,
        behavior: CVRLBehaviorSettings,
        learner: CVRLLearnerSettings,
        action_dims: int,
        proprioception_size: int = 0,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.settings = behavior
        self.crop_size = learner.crop_size
        self.action_dims = action_dims
        self.proprioception_size = proprioception_size
        self.model = CVRLWorldModel(
            model, objective, action_dims, learner.crop_size, proprioception_size
        )
        self.behavior = HybridActorCritic(behavior, self.model.state_dims, action_dims)
        self.planner = LatentMPC(behavior, self.model, self.behavior) if behavior.mpc else None
        self.acting_parts = (
            "model.encoder.",
            "model.proprioception_encoder.",
            "model.rssm.",
            "behavior.sac.actor.",
        )
        if behavior.mpc:
            self.acting_parts += ("model.reward.", "behavior.value.")

    # Losses -------------------------------------------------------------------------------------

    def model_loss(
        self,
        features: Tensor,
        states: States,
        pixels: Tensor,
        rewards: Tensor,
        learners: Collective = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return minus the CELBO (Eq. 6), each term a mean over the batch.

        Args:
            features: x (T, B, F).
            states: Filtered states of the same T steps.
            pixels: The crops (T, B, 3, S, S), which a generative model reconstructs.
            rewards: r (T, B), r_t earned by a_t: the state after it predicts it.
            learners: Those that share the batch.
        """
        weights = self.objective
        observed, metrics = self.model.observation_term(features, states, pixels, learners)
        nats = gaussian_kl(states.posterior, self.model.rssm.prior(states.recurrent)).mean()
        # The floor is on the mean over the whole batch, not on each step (released code).
        above_floor = (learners.mean(nats.detach()) > weights.free_nats).float()
        divergence = above_floor * nats + (1.0 - above_floor) * weights.free_nats
        predicted = self.model.predict_reward(states.sampled()[1:])  # (T - 1, B)
        reward = 0.5 * (predicted - rewards[:-1]).square().mean()
        total = (
            weights.observation_scale * observed
            + weights.reward_scale * reward
            + weights.kl_scale * divergence
        )
        return total, metrics | {
            "loss/model": total.detach(),
            "loss/reward": reward.detach(),
            "loss/kl": divergence.detach(),
            "kl/nats": nats.detach(),
        }

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

        As `Agent.act`. With `behavior.mpc` the planner improves a sample of the policy, in
        evaluation too; without it evaluation takes the policy's mode. Exploring adds noise and
        clips. The posterior is always sampled.
        """
        posterior, recurrent = self.filter(observation, state, is_first)
        latent = posterior.sample(generator)
        states = torch.cat([latent, recurrent], -1)
        actor = self.behavior.actor
        if self.planner is not None:
            action = self.planner.plan(latent, recurrent, generator)
        elif explore:
            action = actor.sample(states, generator)[0]
        else:
            action = actor.mode(states, generator)
        if explore:
            noise = normal(action.shape, generator, action.device)
            action = (action + self.settings.exploration_noise * noise).clamp(-1.0, 1.0)
        following = {"recurrent": recurrent, "latent": latent, "action": action}
        return action.cpu().numpy(), following

    def compute_in(self, precision: torch.dtype) -> None:
        """Set the dtype of the pixel encoder and decoder."""
        self.model.encoder.precision = precision
        if isinstance(self.model.observation_term, ReconstructionTerm):
            self.model.observation_term.decoder.precision = precision
