"""Latent guided model predictive control (CVRL, section 3.3 and appendix A.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from learners.behaviors.hybrid import HybridActorCritic
from learners.behaviors.imagination import imagine, lambda_returns
from learners.cvrl_settings import CVRLBehaviorSettings
from learners.models.cvrl_world_model import CVRLWorldModel
from learners.noise import Generator, normal


class LatentMPC:
    """Improves the policy's actions by gradient ascent on the return that the model imagines.

    A trajectory is imagined with the policy's samples, and its actions are moved up the gradient of
    V_lambda of its first state, through rewards, values and dynamics; later actions do not react to
    earlier ones. Every trajectory is improved by its own return, however many there are.

    Args:
        settings: Horizon, number and size of the steps, and which actions they move: the first
            alone (released code) or all (paper). With one step both give the same first action.
        model: Dynamics and rewards.
        behavior: Policy and values.
    """

    def __init__(
        self, settings: CVRLBehaviorSettings, model: CVRLWorldModel, behavior: HybridActorCritic
    ) -> None:
        self.settings = settings
        self.model = model
        self.behavior = behavior

    @torch.no_grad()
    def plan(self, latent: Tensor, recurrent: Tensor, generator: Generator = None) -> Tensor:
        """Return improved actions (N, A), each in [-1, 1], without gradient.

        Args:
            latent: s of the present states (N, Ds).
            recurrent: h of them (N, Dh).
            generator: Source of the policy's and the prior's noise.
        """
        settings, rssm, device = self.settings, self.model.rssm, latent.device
        policy_noise, prior_noise = (
            normal((settings.horizon, len(latent), size), generator, device)
            for size in (rssm.action_dims, rssm.latent_dims)
        )
        actions: list[Tensor] = []

        def leaf(number: int, state: Tensor) -> Tensor:
            """The action of a step, from which gradient is taken: the policy's the first time."""
            if number == len(actions):
                with torch.no_grad():
                    actions.append(self.behavior.actor.action(state, policy_noise[number]))
            actions[number] = actions[number].detach().requires_grad_()
            return actions[number]

        moved = 1 if settings.mpc_actions == "first" else settings.horizon
        for _ in range(settings.mpc_iterations):
            with torch.enable_grad():
                returns = self.returns(imagine(rssm, leaf, latent, recurrent, prior_noise).states)
                wanted = actions[:moved]
                # Of the last imagined state only its value counts, which its action does lead to.
                gradients = torch.autograd.grad(returns.sum(), wanted)
            for number, gradient in enumerate(gradients):
                step = settings.mpc_step_size * gradient
                actions[number] = (actions[number] + step).clamp(-1.0, 1.0)
        return actions[0].detach()

    def returns(self, states: Tensor) -> Tensor:
        """Return V_lambda (N,) at the first of imagined states (H, N, D)."""
        settings = self.settings
        return lambda_returns(
            self.model.predict_reward(states),
            self.behavior.predict_value(states),
            settings.discount,
            settings.return_lambda,
        )[0]
