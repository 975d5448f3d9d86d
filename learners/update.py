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

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learners.augment import centre_crop, random_crop, to_pixels
from learners.core import CoReAgent
from learners.device import choose_precision
from learners.models.rssm import States
from learners.settings import UPDATE_ORDERS, BehaviorSettings, LearnerSettings, ObjectiveSettings

_ADAM_EPS = 1e-8

Batch = Mapping[str, np.ndarray | Tensor]


class CoReUpdate:
    """Owns the optimisers and applies updates to an agent.

    Args:
        agent: Trained in place; must already be on `device`.
        learner: Pace and optimiser settings.
        objective: Loss settings.
        behavior: Reward divisor and target entropy.
        device: Where batches are moved to.
        seed: Seeds crops and every noise of the update; a repeated run repeats bit for bit on a
            CPU with the same number of threads.

    Raises:
        ValueError: `learner.update_order` is unknown.
    """

    def __init__(
        self,
        agent: CoReAgent,
        learner: LearnerSettings,
        objective: ObjectiveSettings,
        behavior: BehaviorSettings,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        if learner.update_order not in UPDATE_ORDERS:
            raise ValueError(
                f"learner.update_order={learner.update_order!r}: choose one of {UPDATE_ORDERS}."
            )
        self.agent = agent
        self.learner = learner
        self.objective = objective
        self.reward_divisor = behavior.reward_divisor
        self.device = torch.device(device)
        agent.model.encoder.precision = choose_precision(learner.precision, self.device)
        self.seed = seed
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.updates = 0
        self._sums: dict[str, Tensor] = {}
        self._summed_updates = 0

        model, sac = agent.model, agent.behavior
        temperature = model.inverse_temperature
        weights = [value for value in model.parameters() if value is not temperature]
        self._model_parameters = [*weights, temperature]
        model_groups = [
            {"params": weights, "lr": learner.model_rate},
            {"params": [temperature], "lr": learner.inverse_temperature_rate},
        ]
        critic_group = {"params": list(sac.critics.parameters()), "lr": learner.critic_rate}
        model_rate = learner.critic_model_rate or learner.model_rate
        critic_groups = [critic_group]
        if learner.update_order == "sequential" and objective.critic_gradient_to_model:
            critic_groups.append({"params": weights, "lr": model_rate})
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "model": _adam(model_groups),
            "critic": _adam(critic_groups),
            "actor": _adam([{"params": list(sac.actor.parameters()), "lr": learner.actor_rate}]),
            "alpha": _adam(
                [{"params": [sac.log_alpha], "lr": learner.alpha_rate}], learner.alpha_beta1
            ),
        }

    def step(self, batch: Batch) -> None:
        """Apply one update.

        Nothing is read back from the device: on a GPU the call returns before the work is done.

        Args:
            batch: `observation` uint8 (T, B, H, W, 3); `action` float32 (T, B, A); `reward` and
                `discount` float32 (T, B).
        """
        pixels, actions, rewards, discounts = self._prepare(batch)
        if self.learner.update_order == "sequential":
            metrics = self._sequential(pixels, actions, rewards, discounts)
        else:
            metrics = self._fused(pixels, actions, rewards, discounts)
        self.updates += 1
        self._summed_updates += 1
        for name, value in metrics.items():
            previous = self._sums.get(name)
            self._sums[name] = value if previous is None else previous + value

    def metrics(self) -> dict[str, float]:
        """Return means over the updates since the last call; waits once for the device."""
        if not self._summed_updates:
            return {}
        names = list(self._sums)
        stacked = torch.stack([self._sums[name].float() for name in names]) / self._summed_updates
        self._sums, self._summed_updates = {}, 0
        return dict(zip(names, stacked.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return optimisers, update count and random state; the agent's weights are not in it.

        All tensors lie on the CPU, so that a run of a GPU can go on without one.
        """
        optimizers = {name: _on_cpu(value.state_dict()) for name, value in self.optimizers.items()}
        return {
            "updates": self.updates,
            "generator": self.generator.get_state(),
            "generator_device": self.device.type,
            "optimizers": optimizers,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; on another kind of device the random state begins anew."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.updates = int(state["updates"])
        if state["generator_device"] == self.device.type:
            self.generator.set_state(state["generator"])
        else:  # CPU and GPU keep random states of different kinds
            self.generator.manual_seed(self.seed + self.updates)

    # Orders -------------------------------------------------------------------------------------

    def _sequential(
        self, pixels: Tensor, actions: Tensor, rewards: Tensor, discounts: Tensor
    ) -> dict[str, Tensor]:
        features, states = self.agent.observe(pixels, actions, self.generator)
        loss, metrics = self.agent.model_loss(features, states, actions, rewards, self.generator)
        self._clear_gradients()
        loss.backward()
        self._clip_and_step("model", self._model_parameters, self.learner.model_clip, metrics)

        trains_model = self.objective.critic_gradient_to_model
        with torch.set_grad_enabled(trains_model):
            _, states = self.agent.observe(pixels, actions, self.generator)
        metrics |= self._critic_step(states, actions, rewards, discounts)
        metrics |= self._behavior_step(states)
        return metrics

    def _fused(
        self, pixels: Tensor, actions: Tensor, rewards: Tensor, discounts: Tensor
    ) -> dict[str, Tensor]:
        sac = self.agent.behavior
        features, states = self.agent.observe(pixels, actions, self.generator)
        loss, metrics = self.agent.model_loss(features, states, actions, rewards, self.generator)
        latent = states.expected()
        if not self.objective.critic_gradient_to_model:
            latent = latent.detach()
        critic_loss, critic_metrics = sac.critic_loss(
            latent, actions, rewards, discounts, self.generator
        )
        self._clear_gradients()
        (loss + critic_loss).backward()
        self._clip_and_step("model", self._model_parameters, self.learner.model_clip, metrics)
        self._clip_and_step("critic", sac.critics.parameters(), self.learner.critic_clip, metrics)
        metrics |= critic_metrics | {"loss/critic": critic_loss.detach()}
        metrics |= self._behavior_step(states)
        return metrics

    def _critic_step(
        self, states: States, actions: Tensor, rewards: Tensor, discounts: Tensor
    ) -> dict[str, Tensor]:
        sac = self.agent.behavior
        loss, metrics = sac.critic_loss(
            states.expected(), actions, rewards, discounts, self.generator
        )
        self._clear_gradients()
        loss.backward()
        metrics["loss/critic"] = loss.detach()
        # Only the critics' own parameters are clipped; the model's share passes as it is.
        self._clip_and_step("critic", sac.critics.parameters(), self.learner.critic_clip, metrics)
        return metrics

    def _behavior_step(self, states: States) -> dict[str, Tensor]:
        sac = self.agent.behavior
        latent = states.expected()[:-1].detach()
        actor_loss, alpha_loss, metrics = sac.actor_loss(latent, self.generator)
        sac.actor.zero_grad(set_to_none=True)
        sac.log_alpha.grad = None
        (actor_loss + alpha_loss).backward()  # disjoint parameters: one pass serves both
        self._clip_and_step("actor", sac.actor.parameters(), self.learner.actor_clip, metrics)
        self._clip_and_step("alpha", [sac.log_alpha], self.learner.alpha_clip, metrics)
        sac.clamp_temperature()
        sac.update_targets()
        metrics["loss/actor"] = actor_loss.detach()
        metrics["alpha"] = sac.log_alpha.detach().exp()
        return metrics

    # Parts --------------------------------------------------------------------------------------

    def _prepare(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        frames, actions, rewards, discounts = (
            torch.as_tensor(batch[name]).to(self.device, non_blocking=True)
            for name in ("observation", "action", "reward", "discount")
        )
        size = self.learner.crop_size
        if self.learner.random_crop:
            crops = random_crop(frames, size, self.generator)
        else:
            crops = centre_crop(frames, size)
        return to_pixels(crops), actions, rewards / self.reward_divisor, discounts

    def _clear_gradients(self) -> None:
        self.agent.zero_grad(set_to_none=True)

    def _clip_and_step(
        self,
        name: str,
        parameters: Iterable[nn.Parameter],
        max_norm: float,
        metrics: dict[str, Tensor],
    ) -> None:
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        metrics[f"gradient_norm/{name}"] = norm.detach()
        self.optimizers[name].step()


def _on_cpu(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, list) else state


def _adam(groups: list[dict[str, Any]], beta1: float = 0.9) -> torch.optim.Adam:
    return torch.optim.Adam(groups, betas=(beta1, 0.999), eps=_ADAM_EPS, fused=True)
