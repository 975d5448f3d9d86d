"""The updates that `benchmarks.learner` compares: all from the same weights, batch and noise.

Needs only torch and NumPy: the tiny size is written down here, since a preset would need YAML.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from learners.core import CoReAgent
from learners.core_update import CoReUpdate
from learners.settings import BehaviorSettings, LearnerSettings, ModelSettings, ObjectiveSettings
from tests.learners.reference import ReferenceUpdate

SEED = 0
OURS = ("sequential", "fused")
COMPILE = ("off", "kernels")  # kernels: learner.compile_kernels


@dataclass(frozen=True)
class Size:
    """What an update works on."""

    frame_size: int  # side of the square pictures in a batch, pixels
    action_dims: int
    model: ModelSettings = field(default_factory=ModelSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    behavior: BehaviorSettings = field(default_factory=BehaviorSettings)
    learner: LearnerSettings = field(default_factory=LearnerSettings)


SIZES = {
    "paper": Size(frame_size=100, action_dims=6),
    "tiny": Size(
        frame_size=54,
        action_dims=1,
        model=ModelSettings(
            conv_channels=(16, 32, 32),
            conv_kernels=(5, 3, 3),
            conv_strides=(3, 2, 2),
            conv_paddings=(2, 1, 1),
            conv_init="kaiming",
            embedding_dims=128,
            recurrent_dims=128,
            latent_dims=32,
            hidden_dims=128,
            decoder_dims=128,
        ),
        objective=ObjectiveSettings(inverse_temperature_init=-1.5, reward_scale=64.0),
        behavior=BehaviorSettings(
            actor_dims=(256, 256),
            critic_dims=(256, 256),
            discount=0.98,
            target_rate=0.01,
            log_std_min=-5.0,
            reward_divisor=8.0,
        ),
        learner=LearnerSettings(crop_size=48, batch_size=32, sequence_length=16, model_rate=1e-3),
    ),
}


def small_batch(size: Size) -> Size:
    """Returns the size with a few short windows, for trying the program out."""
    learner = replace(size.learner, batch_size=4, sequence_length=4)
    return replace(size, learner=learner)


@dataclass(frozen=True)
class Variant:
    """One way to make an update."""

    order: str  # "sequential", "fused", or "reference": the plain one of the tests, on the CPU
    precision: str = "float32"  # of the encoder: "float32" or "bfloat16"
    device: str = "cpu"  # or "cuda"
    compile: str = "off"  # one of COMPILE
    graph: bool = False  # learner.cuda_graph
    keeps_memory: bool = True  # on a CPU: in a process that keeps what it frees, as learners do


class Subject:
    """An update that can be made again and again, always of the same batch.

    The batch lies where the update reads it: in NumPy's memory on a CPU, else on the device.
    """

    def __init__(self, variant: Variant, size: Size) -> None:
        self.size, self._device = size, torch.device(variant.device)
        torch.manual_seed(SEED)
        agent = make_agent(size)
        batch = make_batch(size)
        if variant.order == "reference":
            self.reference = ReferenceUpdate(
                agent, size.learner, size.objective, size.behavior, seed=SEED
            )
            self._step: Callable[[], object] = lambda: self.reference.step(batch)
            self._agent = None
            return
        learner = replace(
            size.learner,
            update_order=variant.order,
            precision=variant.precision,
            compile_kernels=variant.compile == "kernels",
            cuda_graph=variant.graph,
        )
        self._agent = agent.to(self._device)
        update = CoReUpdate(
            agent, learner, size.objective, size.behavior, device=self._device, seed=SEED
        )
        given: dict[str, np.ndarray | Tensor] = dict(batch)
        if self._device.type != "cpu":
            given = {name: torch.from_numpy(each).to(self._device) for name, each in batch.items()}
        self._step = lambda: update.step(given)

    def run(self, updates: int) -> None:
        """Makes some updates and waits until the device is done with them."""
        for _ in range(updates):
            self._step()
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def parameters(self) -> Tensor:
        """Returns all parameters as they are now, float32 (P,) on the CPU, in one order for all."""
        reference = self.reference if self._agent is None else _as_reference(self._agent, self.size)
        values = [reference.p[name].detach().cpu().flatten() for name in sorted(reference.p)]
        return torch.cat(values)


def make_agent(size: Size) -> CoReAgent:
    """Returns an agent of this size, of torch's global random state."""
    return CoReAgent(size.model, size.objective, size.behavior, size.learner, size.action_dims)


def make_batch(size: Size) -> dict[str, np.ndarray]:
    """Returns one batch of noise, (T, B, ...), as replay gives it."""
    random = np.random.default_rng(SEED)
    shape = (size.learner.sequence_length, size.learner.batch_size)
    frames = (*shape, size.frame_size, size.frame_size, 3)
    return {
        "observation": random.integers(0, 256, frames, dtype=np.uint8),
        "action": random.uniform(-1.0, 1.0, (*shape, size.action_dims)).astype(np.float32),
        "reward": random.uniform(0.0, 1.0, shape).astype(np.float32),
        "discount": np.ones(shape, np.float32),
    }


def _as_reference(agent: CoReAgent, size: Size) -> ReferenceUpdate:
    """Returns a reference with these weights, for its plain layout of them."""
    return ReferenceUpdate(agent, size.learner, size.objective, size.behavior)
