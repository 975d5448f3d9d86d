"""One update of CoRe from one batch, in either of two orders.

`sequential` is the paper's Algorithm 1 as released: the model step on J_M; a fresh forward with the
new weights; the critic step on J_Q, whose gradient also takes a second, separate Adam step on the
model; then actor, temperature and target critics.

`fused` makes one forward and one backward of J_M + J_Q. The model takes a single Adam step on the
sum of both gradients, clipped together, where `sequential` takes two steps, the second from weights
that already moved and unclipped. Everything after the critic step is the same. It saves one of two
encoder forward and backward passes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.profiler import record_function

from learners.behaviors.sac import CriticLoss
from learners.collective import ALONE, Collective
from learners.core import CoReAgent
from learners.models.rssm import States
from learners.settings import UPDATE_ORDERS, BehaviorSettings, LearnerSettings, ObjectiveSettings
from learners.update import Update, Windows, parameter_groups


class CoReUpdate(Update):
    """Updates of a `CoReAgent`.

    Args:
        agent, learner, device, seed, learners: See `Update`.
        objective: Loss settings.
        behavior: Reward divisor and target entropy.

    Raises:
        ValueError: `learner.update_order` is unknown.
    """

    agent: CoReAgent
    learner: LearnerSettings

    def __init__(
        self,
        agent: CoReAgent,
        learner: LearnerSettings,
        objective: ObjectiveSettings,
        behavior: BehaviorSettings,
        device: torch.device | str = "cpu",
        seed: int = 0,
        learners: Collective = ALONE,
    ) -> None:
        if learner.update_order not in UPDATE_ORDERS:
            raise ValueError(
                f"learner.update_order={learner.update_order!r}: choose one of {UPDATE_ORDERS}."
            )
        super().__init__(agent, learner, behavior.reward_divisor, device, seed, learners)
        self.objective = objective
        model, sac = agent.model, agent.behavior
        temperature = model.inverse_temperature
        weights = {
            name: value for name, value in model.named_parameters() if value is not temperature
        }
        self._model_parameters = [*weights.values(), temperature]
        decay = learner.weight_decay
        model_groups = [
            *parameter_groups(weights, learner.model_rate, decay),
            {"params": [temperature], "lr": learner.inverse_temperature_rate},
        ]
        critic_groups = parameter_groups(
            dict(sac.critics.named_parameters()), learner.critic_rate, decay
        )
        if learner.update_order == "sequential" and objective.critic_gradient_to_model:
            critic_groups += parameter_groups(
                weights, learner.critic_model_rate or learner.model_rate, decay
            )
        actor_groups = parameter_groups(
            dict(sac.actor.named_parameters()), learner.actor_rate, decay
        )
        self.optimizers = {
            "model": self._adam(model_groups),
            "critic": self._adam(critic_groups),
            "actor": self._adam(actor_groups),
            "alpha": self._adam(
                [{"params": [sac.log_alpha], "lr": learner.alpha_rate}], learner.alpha_beta1
            ),
        }

    # Orders -------------------------------------------------------------------------------------

    def apply(self, windows: Windows) -> tuple[dict[str, Tensor], Tensor | None]:
        """Make the update in the order of the settings."""
        if self.learner.update_order == "sequential":
            return self._sequential(windows)
        return self._fused(windows)

    def _sequential(self, windows: Windows) -> tuple[dict[str, Tensor], Tensor | None]:
        states, loss, metrics = self._model_loss(windows)
        self._backward(loss)
        self._clip_and_step("model", self._model_parameters, self.learner.model_clip, metrics)

        trains_model = self.objective.critic_gradient_to_model
        with torch.set_grad_enabled(trains_model):
            _, states = self._observe(windows)
        critic = self._critic_loss(states.expected(), windows)
        self._backward(critic.loss)
        # Only the critics' own parameters are clipped; the model's share passes as it is.
        parameters = self.agent.behavior.critics.parameters()
        self._clip_and_step("critic", parameters, self.learner.critic_clip, metrics)
        metrics |= critic.metrics
        metrics |= self._behavior_step(states)
        return metrics, critic.priorities

    def _fused(self, windows: Windows) -> tuple[dict[str, Tensor], Tensor | None]:
        sac = self.agent.behavior
        states, loss, metrics = self._model_loss(windows)
        latent = states.expected()
        if not self.objective.critic_gradient_to_model:
            latent = latent.detach()
        critic = self._critic_loss(latent, windows)
        self._backward(loss + critic.loss)
        self._clip_and_step("model", self._model_parameters, self.learner.model_clip, metrics)
        self._clip_and_step("critic", sac.critics.parameters(), self.learner.critic_clip, metrics)
        metrics |= critic.metrics
        metrics |= self._behavior_step(states)
        return metrics, critic.priorities

    def _model_loss(self, windows: Windows) -> tuple[States, Tensor, dict[str, Tensor]]:
        features, states = self._observe(windows)
        with record_function("phase/losses"):
            loss, metrics = self.agent.model_loss(
                features, states, windows.actions, windows.rewards, self._noise, self.learners
            )
        return states, loss, metrics

    def _critic_loss(self, latent: Tensor, windows: Windows) -> CriticLoss:
        with record_function("phase/losses"):
            critic = self.agent.behavior.critic_loss(
                latent,
                windows.actions,
                windows.rewards,
                windows.discounts,
                self._noise,
                windows.importance_weights,
                self.learners,
            )
        critic.metrics["loss/critic"] = critic.loss.detach()
        return critic

    def _behavior_step(self, states: States) -> dict[str, Tensor]:
        sac = self.agent.behavior
        latent = states.expected()[:-1].detach()
        with record_function("phase/losses"):
            actor_loss, alpha_loss, metrics = sac.actor_loss(latent, self._noise)
        self._backward(actor_loss + alpha_loss)  # disjoint parameters: one pass serves both
        self._clip_and_step("actor", sac.actor.parameters(), self.learner.actor_clip, metrics)
        self._clip_and_step("alpha", [sac.log_alpha], self.learner.alpha_clip, metrics)
        sac.clamp_temperature()
        sac.update_targets()
        metrics["loss/actor"] = actor_loss.detach()
        metrics["alpha"] = sac.log_alpha.detach().exp()
        return metrics

    # Parts --------------------------------------------------------------------------------------

    def _observe(self, windows: Windows) -> tuple[Tensor, States]:
        return self.agent.observe(
            windows.pixels, windows.actions, self._noise, windows.proprioception
        )
