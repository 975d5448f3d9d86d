"""One update of CVRL from one batch.

    filter the windows                          z_t ~ q(z_t | h_t, o_t)
    model      CELBO (Eq. 6)                    encoder, RSSM, heads
    actor      -V_lambda + alpha L_SAC (7, 8)   imagined trajectories, and real ones
    value      1/2 (v - V_lambda)^2 (7)         imagined trajectories
    critics    Bellman error                    real trajectories

All losses are of the weights before the update, as in the released code, and each reaches its own
parameters alone: one backward pass serves all, then each optimiser makes its step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.profiler import record_function

from learners.collective import ALONE, Collective
from learners.cvrl import CVRLAgent
from learners.cvrl_settings import (
    CVRLBehaviorSettings,
    CVRLLearnerSettings,
    CVRLObjectiveSettings,
)
from learners.update import Update, Windows, parameter_groups


class CVRLUpdate(Update):
    """Updates of a `CVRLAgent`.

    Args:
        agent, learner, device, seed, learners: See `Update`.
        objective: The agent has them.
        behavior: Reward divisor; what of SAC is trained.
    """

    agent: CVRLAgent
    learner: CVRLLearnerSettings

    def __init__(
        self,
        agent: CVRLAgent,
        learner: CVRLLearnerSettings,
        objective: CVRLObjectiveSettings,
        behavior: CVRLBehaviorSettings,
        device: torch.device | str = "cpu",
        seed: int = 0,
        learners: Collective = ALONE,
    ) -> None:
        super().__init__(agent, learner, behavior.reward_divisor, device, seed, learners)
        self.behavior = behavior
        parts = {
            "model": (agent.model, learner.model_rate, learner.model_clip),
            "actor": (agent.behavior.actor, learner.actor_rate, learner.actor_clip),
            "value": (agent.behavior.value, learner.value_rate, learner.value_clip),
        }
        if behavior.sac_scale:
            critics = agent.behavior.sac.critics
            parts["critic"] = (critics, learner.critic_rate, learner.critic_clip)
        self._parts = {name: (list(m.parameters()), clip) for name, (m, _, clip) in parts.items()}
        self.optimizers = {
            name: self._adam(
                parameter_groups(dict(module.named_parameters()), rate, learner.weight_decay)
            )
            for name, (module, rate, _) in parts.items()
        }
        self._learns_temperature = bool(behavior.sac_scale) and behavior.learn_temperature
        if self._learns_temperature:
            temperature = [agent.behavior.sac.log_alpha]
            self._parts["alpha"] = (temperature, learner.alpha_clip)
            self.optimizers["alpha"] = self._adam(
                [{"params": temperature, "lr": learner.alpha_rate}]
            )

    def apply(self, windows: Windows) -> tuple[dict[str, Tensor], Tensor | None]:
        """Make the update; it gives no priorities."""
        agent, sac = self.agent, self.agent.behavior.sac
        features, states = agent.observe(
            windows.pixels, windows.actions, self._noise, windows.proprioception
        )
        with record_function("phase/losses"):
            model, metrics = agent.model_loss(
                features, states, windows.pixels, windows.rewards, self.learners
            )
            losses, behavior_metrics = agent.behavior.losses(
                agent.model,
                states,
                windows.actions,
                windows.rewards,
                windows.discounts,
                self._noise,
                self.learners,
            )
        metrics |= behavior_metrics
        self._backward(model + sum(losses))
        for name, (parameters, clip) in self._parts.items():
            self._clip_and_step(name, parameters, clip, metrics)
        if self.behavior.sac_scale:
            sac.clamp_temperature()
            sac.update_targets()
        return metrics, None
