"""One update of SAC on pixels from one batch: critics and encoder, then actor and temperature."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.profiler import record_function

from learners.collective import ALONE, Collective
from learners.pixel_sac import PixelSACAgent
from learners.pixel_sac_settings import (
    PixelSACBehaviorSettings,
    PixelSACLearnerSettings,
    PixelSACObjectiveSettings,
)
from learners.update import Update, Windows, parameter_groups


class PixelSACUpdate(Update):
    """Updates of a `PixelSACAgent`; its arguments are those of `Update`."""

    agent: PixelSACAgent
    learner: PixelSACLearnerSettings

    def __init__(
        self,
        agent: PixelSACAgent,
        learner: PixelSACLearnerSettings,
        objective: PixelSACObjectiveSettings,
        behavior: PixelSACBehaviorSettings,
        device: torch.device | str = "cpu",
        seed: int = 0,
        learners: Collective = ALONE,
    ) -> None:
        super().__init__(agent, learner, behavior.reward_divisor, device, seed, learners)
        sac = agent.behavior
        self._critic_parameters = [*agent.model.parameters(), *sac.critics.parameters()]
        trained_by_critics = {
            f"{prefix}.{name}": value
            for prefix, module in (("model", agent.model), ("critics", sac.critics))
            for name, value in module.named_parameters()
        }
        actor = dict(sac.actor.named_parameters())
        decay = learner.weight_decay
        self.optimizers = {
            "critic": self._adam(parameter_groups(trained_by_critics, learner.critic_rate, decay)),
            "actor": self._adam(parameter_groups(actor, learner.actor_rate, decay)),
            "alpha": self._adam(
                [{"params": [sac.log_alpha], "lr": learner.alpha_rate}], learner.alpha_beta1
            ),
        }

    def apply(self, windows: Windows) -> tuple[dict[str, Tensor], Tensor | None]:
        """Make the update on all steps that have a whole stack of pictures."""
        agent, sac, learner = self.agent, self.agent.behavior, self.learner
        begin = agent.frames - 1
        felt = windows.proprioception
        with record_function("phase/encode"):
            features = agent.model.encode(
                agent.stack(windows.pixels), None if felt is None else felt[begin:]
            )
        with record_function("phase/losses"):
            critic = sac.critic_loss(
                features,
                windows.actions[begin:],
                windows.rewards[begin:],
                windows.discounts[begin:],
                self._noise,
                windows.importance_weights,
                self.learners,
            )
            # On the features before the critics' step, which is all that the encoder learns from.
            actor, alpha, metrics = sac.actor_loss(features[:-1], self._noise)
        self._backward(critic.loss + actor + alpha)
        self._clip_and_step("critic", self._critic_parameters, learner.critic_clip, metrics)
        self._clip_and_step("actor", sac.actor.parameters(), learner.actor_clip, metrics)
        self._clip_and_step("alpha", [sac.log_alpha], learner.alpha_clip, metrics)
        sac.clamp_temperature()
        sac.update_targets()
        metrics |= critic.metrics
        metrics |= {
            "loss/critic": critic.loss.detach(),
            "loss/actor": actor.detach(),
            "alpha": sac.log_alpha.detach().exp(),
        }
        return metrics, critic.priorities
