"""CVRL's hybrid actor-critic: Dreamer on imagined trajectories, SAC on real ones (section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learners.behaviors.imagination import imagine, lambda_returns
from learners.behaviors.sac import CriticLoss, SoftActorCritic, frozen
from learners.collective import ALONE, Collective
from learners.cvrl_settings import CVRLBehaviorSettings
from learners.models.cvrl_world_model import CVRLWorldModel
from learners.models.layers import MLP, initialise_as_keras
from learners.models.policy import DreamerActor, TwinCritic
from learners.models.rssm import States
from learners.noise import Generator, normal


class BehaviorLosses(NamedTuple):
    """Scalars; the gradient of each reaches the parameters of its name alone."""

    actor: Tensor  # L_Dreamer's actor loss and alpha times that of SAC (Eq. 7, 8)
    value: Tensor
    critics: Tensor  # 0 without SAC
    temperature: Tensor  # 0 where it is not learned


class HybridActorCritic(nn.Module):
    """Actor, value network, and the critics of SAC.

    Attributes:
        sac: Soft actor-critic, which holds the actor.
        value: v_psi(s), trained on imagined returns.
    """

    def __init__(self, settings: CVRLBehaviorSettings, state_dims: int, action_dims: int) -> None:
        super().__init__()
        self.settings = settings
        critics = TwinCritic(
            state_dims, action_dims, settings.critic_dims, F.elu, nn.init.xavier_uniform_
        )
        actor = DreamerActor(settings, state_dims, action_dims)
        self.sac = SoftActorCritic(settings, actor, critics, action_dims)
        if settings.released_code:  # its copies were made before there was anything to copy
            for target in self.sac.target_critics.weights:
                for critic in target:
                    nn.init.xavier_uniform_(critic.t())
        self.value = MLP([state_dims, *settings.value_dims, 1], nn.ELU)
        initialise_as_keras(self.value)

    @property
    def actor(self) -> DreamerActor:
        """The policy."""
        actor = self.sac.actor
        assert isinstance(actor, DreamerActor)
        return actor

    def predict_value(self, states: Tensor) -> Tensor:
        """Map states [s, h] (..., D) to v_psi (...)."""
        return self.value(states).squeeze(-1)

    def losses(
        self,
        model: CVRLWorldModel,
        states: States,
        actions: Tensor,
        rewards: Tensor,
        discounts: Tensor,
        generator: Generator = None,
        learners: Collective = ALONE,
    ) -> tuple[BehaviorLosses, dict[str, Tensor]]:
        """Return what trains the behaviour. Nothing of it reaches the model.

        Args:
            model: Its dynamics and rewards.
            states: Filtered states of real steps (T, B).
            actions: a (T, B, A), a_t taken in state t.
            rewards: r (T, B), r_t earned by a_t.
            discounts: 1 except after a true termination (T, B).
            generator: Source of all noise.
            learners: Those that share the batch.
        """
        settings = self.settings
        actor, value, metrics = self._imagination_losses(model, states, generator)
        actor = settings.imagination_scale * actor
        critics = temperature = actor.new_zeros(())
        if settings.sac_scale:
            real = states.sampled().detach()
            if settings.released_code:
                critic = self._released_critic_loss(real, actions, rewards, generator)
            else:
                critic = self.sac.critic_loss(
                    real, actions, rewards, discounts, generator, learners=learners
                )
                policy, alpha_loss, policy_metrics = self.sac.actor_loss(real[:-1], generator)
                actor = actor + settings.sac_scale * policy
                metrics |= policy_metrics | {
                    "loss/sac_policy": policy.detach(),
                    "alpha": self.sac.log_alpha.detach().exp(),
                }
                if settings.learn_temperature:
                    temperature = alpha_loss
            critics = critic.loss
            metrics |= critic.metrics | {"loss/critic": critics.detach()}
        metrics |= {"loss/actor": actor.detach(), "loss/value": value.detach()}
        return BehaviorLosses(actor, value, critics, temperature), metrics

    def _imagination_losses(
        self, model: CVRLWorldModel, states: States, generator: Generator
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the two sums of Eq. 7 as means, weighted by what is left of the discount."""
        settings, horizon = self.settings, self.settings.horizon
        device, (length, batch) = states.latent.device, states.latent.shape[:2]
        policy_noise, prior_noise = (
            normal((horizon * length, batch, size), generator, device).reshape(
                horizon, length * batch, size
            )
            for size in (model.rssm.action_dims, model.rssm.latent_dims)
        )
        with frozen(model.rssm, model.reward, self.value):
            imagined = imagine(
                model.rssm,
                lambda number, state: self.actor.action(state, policy_noise[number]),
                states.latent.detach().flatten(0, 1),
                states.recurrent.detach().flatten(0, 1),
                prior_noise,
            )
            rewards = model.predict_reward(imagined.states)  # (H, N)
            values = self.predict_value(imagined.states)  # (H, N)
            returns = lambda_returns(
                rewards, values, settings.discount, settings.return_lambda
            )  # (H - 1, N)
        left = settings.discount ** torch.arange(horizon - 1.0, device=device)  # (H - 1,)
        actor = -(left[:, None] * returns).mean()
        estimates = self.predict_value(imagined.states[:-1].detach())
        errors = estimates - returns.detach()
        value = 0.5 * (left[:, None] * errors.square()).mean()
        metrics = {
            "imagination/reward": rewards.detach().mean(),
            "imagination/return": returns.detach().mean(),
            "imagination/value": values.detach().mean(),
        }
        return actor, value, metrics

    def _released_critic_loss(
        self, states: Tensor, actions: Tensor, rewards: Tensor, generator: Generator
    ) -> CriticLoss:
        """Return the Bellman error as the authors' code makes its pairs: along the batch.

        The next state is that of another sequence, and the action and reward are those that led to
        the state instead of those that followed it.
        """
        led_here, earned_here = (F.pad(v[:-1].movedim(0, -1), (1, 0)) for v in (actions, rewards))
        return self.sac.critic_loss(
            states.transpose(0, 1),
            led_here.movedim(-1, 1),
            earned_here,
            torch.ones_like(earned_here),
            generator,
        )
