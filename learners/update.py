"""What the updates of every system share: batches in, optimisers, metrics, random state.

`learners/core_update.py` and its like say what one update of a system is.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from learners.agent import Agent
from learners.augment import centre_crop, corners, crop_pixels, to_pixels
from learners.collective import Collective
from learners.device import choose_precision
from learners.noise import Generator, SharedGenerator
from learners.recording import RecordedStep, Step
from learners.settings import TrainingSettings

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


class Update(ABC):
    """Owns the optimisers and applies updates to an agent.

    An update is made as `Class(agent, learner, objective, behavior, device, seed, learners)`.

    Args:
        agent: Trained in place; must already be on `device`.
        learner: Pace and optimiser settings.
        reward_divisor: Rewards are divided by it before every loss.
        device: Where batches are moved to.
        seed: Seeds crops and every noise of the update; a repeated run repeats bit for bit on a
            CPU with the same number of threads.
        learners: Those that share every batch, each with an equal part of its windows; they must
            begin with equal weights and seeds. Together they make the update that one would make
            with the whole batch.

    Attributes:
        optimizers: By name; set by the class of the system.
        updates: How many were made.
    """

    agent: Agent
    learner: TrainingSettings
    optimizers: dict[str, torch.optim.Optimizer]

    def __init__(
        self,
        agent: Agent,
        learner: TrainingSettings,
        reward_divisor: float,
        device: torch.device | str,
        seed: int,
        learners: Collective,
    ) -> None:
        self.agent = agent
        self.learner = learner
        self.reward_divisor = reward_divisor
        self.device = torch.device(device)
        agent.compute_in(choose_precision(learner.precision, self.device))
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
        self._step: Step = self._update
        # Exchanges between learners stay out of a recording.
        recorded = self.device.type == "cuda" and learner.cuda_graph and learners.size == 1
        if learner.cuda_graph and not recorded:
            logger.warning(
                "learner.cuda_graph does nothing here: it needs a GPU and a learner alone."
            )
        if recorded:
            self._step = RecordedStep(self._update, self.generator)
        self._crop = crop_pixels
        if learner.compile_kernels:
            agent.compile_kernels()
            self._crop = torch.compile(crop_pixels, dynamic=False)

    @abstractmethod
    def apply(self, windows: Windows) -> tuple[dict[str, Tensor], Tensor | None]:
        """Make the update: all its work on the device, and nothing read back.

        Returns:
            Metrics, each a scalar, the same ones every time; and the windows' new priorities (B,),
            None for a batch without importance weights.
        """

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
        results = self._step(self._on_device(batch))
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
        if isinstance(self._step, RecordedStep):
            self._step.forget()
        self.updates = int(state["updates"])
        if state["generator_device"] == self.device.type:
            self.generator.set_state(state["generator"])
        else:  # CPU and GPU keep random states of different kinds
            self.generator.manual_seed(self.seed + self.updates)

    # Parts --------------------------------------------------------------------------------------

    def _update(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        metrics, priorities = self.apply(self._prepare(batch))
        self._metric_names = list(metrics)
        results = {_METRICS: torch.stack([value.float() for value in metrics.values()])}
        return results if priorities is None else results | {_PRIORITIES: priorities}

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
        if self.learner.random_crop and size < min(frames.shape[2:4]):
            pixels = self._crop(frames, size, *corners(frames, size, self._noise))
        else:
            pixels = to_pixels(centre_crop(frames, size))
        return Windows(
            pixels=pixels,
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

    def _adam(self, groups: list[dict[str, Any]], beta1: float = 0.9) -> torch.optim.Adam:
        return torch.optim.Adam(
            groups,
            betas=(beta1, 0.999),
            eps=_ADAM_EPS,
            fused=True,
            capturable=isinstance(self._step, RecordedStep),  # counts its steps on the device
        )


def _on_cpu(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, list) else state


def parameter_groups(
    parameters: Mapping[str, nn.Parameter], rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return Adam's groups: all parameters in one, or weight matrices apart if they decay."""
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
