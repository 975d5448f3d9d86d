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

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from learners.augment import centre_crop, random_crop, to_pixels
from learners.behaviors.sac import CriticLoss
from learners.collective import ALONE, Collective
from learners.core import CoReAgent
from learners.device import choose_precision
from learners.models.rssm import States
from learners.noise import Generator, SharedGenerator
from learners.recording import RecordedStep, Step
from learners.settings import UPDATE_ORDERS, BehaviorSettings, LearnerSettings, ObjectiveSettings

logger = logging.getLogger(__name__)

IMPORTANCE = "importance_weights"  # the field of a batch that does not come from stored steps
_METRICS, _PRIORITIES = "metrics", "priorities"
_ADAM_EPS = 1e-8

Batch = Mapping[str, np.ndarray | Tensor]


@dataclass(frozen=True)
class Windows:
    """A batch on the device, ready for the losses."""

    pixels: Tensor  # (T, B, 3, S, S) crops in [0, 1]
    proprioception: Tensor | None  # (T, B, P); None where the agent has none
    actions: Tensor  # (T, B, A)
    rewards: Tensor  # (T, B), divided by behavior.reward_divisor
    discounts: Tensor  # (T, B)
    importance_weights: Tensor | None  # (B,); None where windows are not drawn by priority


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
        learners: Those that share every batch, each with an equal part of its windows; they must
            begin with equal weights and seeds. Together they make the update that one would make
            with the whole batch.

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
        learners: Collective = ALONE,
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
        self.learners = learners
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._noise: Generator = self.generator
        if learners.size > 1:
            self._noise = SharedGenerator(self.generator, learners.rank, learners.size)
        self.updates = 0
        self._metric_names: list[str] = []  # of the values in `_sums`
        self._sums: Tensor | None = None
        self._summed_updates = 0
        self._recorded: Step = self._update
        # Exchanges between learners stay out of a recording.
        recorded = self.device.type == "cuda" and learner.cuda_graph and learners.size == 1
        if learner.cuda_graph and not recorded:
            logger.warning(
                "learner.cuda_graph does nothing here: it needs a GPU and a learner alone."
            )
        if recorded:
            self._recorded = RecordedStep(self._update, self.generator)
        if learner.compile_filter:
            agent.model.rssm.compile_step()

        model, sac = agent.model, agent.behavior
        temperature = model.inverse_temperature
        weights = {
            name: value for name, value in model.named_parameters() if value is not temperature
        }
        self._model_parameters = [*weights.values(), temperature]
        decay = learner.weight_decay
        model_groups = [
            *_groups(weights, learner.model_rate, decay),
            {"params": [temperature], "lr": learner.inverse_temperature_rate},
        ]
        critic_groups = _groups(dict(sac.critics.named_parameters()), learner.critic_rate, decay)
        if learner.update_order == "sequential" and objective.critic_gradient_to_model:
            critic_groups += _groups(
                weights, learner.critic_model_rate or learner.model_rate, decay
            )
        actor_groups = _groups(dict(sac.actor.named_parameters()), learner.actor_rate, decay)
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "model": _adam(model_groups, recorded),
            "critic": _adam(critic_groups, recorded),
            "actor": _adam(actor_groups, recorded),
            "alpha": _adam(
                [{"params": [sac.log_alpha], "lr": learner.alpha_rate}],
                recorded,
                learner.alpha_beta1,
            ),
        }

    def step(self, batch: Batch) -> Tensor | None:
        """Apply one update.

        Nothing is read back from the device: on a GPU the call returns before the work is done.
        Nothing that is kept lies in the batch's memory: on a CPU it can be filled again on return.

        Args:
            batch: `observation` uint8 (T, B, H, W, 3); `action` float32 (T, B, A); `reward` and
                `discount` float32 (T, B); `proprioception` float32 (T, B, P) if the agent has it;
                `importance_weights` float32 (B,) if the windows were drawn by priority.

        Returns:
            The windows' new priorities, float32 (B,) on the device, from the TD errors of this
            update; None for a batch without importance weights.
        """
        results = self._recorded(self._on_device(batch))
        self.updates += 1
        self._summed_updates += 1
        # Of a recorded update the next one overwrites the results.
        values, priorities = results[_METRICS], results.get(_PRIORITIES)
        self._sums = values.clone() if self._sums is None else self._sums.add_(values)
        return None if priorities is None else priorities.clone()

    def metrics(self) -> dict[str, float]:
        """Return means over the updates since the last call; waits once for the device."""
        if self._sums is None:
            return {}
        means = (self._sums / self._summed_updates).tolist()
        self._sums, self._summed_updates = None, 0
        return dict(zip(self._metric_names, means, strict=True))

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
            # Rates and the like are those of the settings, which may have changed since.
            groups = optimizer.state_dict()["param_groups"]
            saved = state["optimizers"][name]
            optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
        self._sums, self._summed_updates = None, 0
        if isinstance(self._recorded, RecordedStep):
            self._recorded.forget()
        self.updates = int(state["updates"])
        if state["generator_device"] == self.device.type:
            self.generator.set_state(state["generator"])
        else:  # CPU and GPU keep random states of different kinds
            self.generator.manual_seed(self.seed + self.updates)

    # Orders -------------------------------------------------------------------------------------

    def _update(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Make the update: all its work on the device, and nothing read back."""
        windows = self._prepare(batch)
        if self.learner.update_order == "sequential":
            metrics, priorities = self._sequential(windows)
        else:
            metrics, priorities = self._fused(windows)
        self._metric_names = list(metrics)
        results = {_METRICS: torch.stack([value.float() for value in metrics.values()])}
        return results if priorities is None else results | {_PRIORITIES: priorities}

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

    def _on_device(self, batch: Batch) -> dict[str, Tensor]:
        names = ["observation", "action", "reward", "discount"]
        names += ["proprioception"] if self.agent.proprioception_size else []
        names += [IMPORTANCE] if IMPORTANCE in batch else []
        return {
            name: torch.as_tensor(batch[name]).to(self.device, non_blocking=True) for name in names
        }

    @record_function("phase/prepare")
    def _prepare(self, batch: Mapping[str, Tensor]) -> Windows:
        frames, size = batch["observation"], self.learner.crop_size
        if self.learner.random_crop:
            crops = random_crop(frames, size, self._noise)
        else:
            crops = centre_crop(frames, size)
        return Windows(
            pixels=to_pixels(crops),
            proprioception=batch.get("proprioception"),
            actions=batch["action"],
            rewards=batch["reward"] / self.reward_divisor,
            discounts=batch["discount"],
            importance_weights=batch.get(IMPORTANCE),
        )

    def _backward(self, loss: Tensor) -> None:
        self.agent.zero_grad(set_to_none=True)
        with record_function("phase/backward"):
            loss.backward()
            self.learners.average_gradients(self.agent.parameters())

    @record_function("phase/optimize")
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


def _groups(
    parameters: Mapping[str, nn.Parameter], rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Returns Adam's groups: all parameters in one, or weight matrices apart if they decay."""
    if not weight_decay:
        return [{"params": list(parameters.values()), "lr": rate}]
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, value in parameters.items():
        decays = value.dim() > 1 and "bias" not in name
        (matrices if decays else others).append(value)
    return [
        {"params": matrices, "lr": rate, "weight_decay": weight_decay},
        {"params": others, "lr": rate},
    ]


def _adam(groups: list[dict[str, Any]], recorded: bool, beta1: float = 0.9) -> torch.optim.Adam:
    return torch.optim.Adam(
        groups,
        betas=(beta1, 0.999),
        eps=_ADAM_EPS,
        fused=True,
        capturable=recorded,  # counts its steps on the device
    )
