"""SAC on pixels: an encoder of a few pictures at once, and no model of the world."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from learners.agent import ActingState, Agent, Observation
from learners.augment import centre_crop, to_pixels
from learners.behaviors.sac import SoftActorCritic
from learners.models.encoder import PixelEncoder
from learners.models.observation import ObservationModel
from learners.models.policy import Actor, TwinCritic
from learners.noise import Generator
from learners.pixel_sac_settings import (
    PixelSACBehaviorSettings,
    PixelSACLearnerSettings,
    PixelSACModelSettings,
    PixelSACObjectiveSettings,
)


class PixelSACAgent(Agent):
    """Soft actor-critic (Haarnoja et al. 2018) on features of the newest `model.frames` pictures.

    Attributes:
        model: Encoder of stacked pictures, and of numbers beside the newest one.
        behavior: Actor, critics and temperature.
    """

    acting_parts = ("model.", "behavior.actor.")

    def __init__(
        self,
        model: PixelSACModelSettings,
        objective: PixelSACObjectiveSettings,
        behavior: PixelSACBehaviorSettings,
        learner: PixelSACLearnerSettings,
        action_dims: int,
        proprioception_size: int = 0,
    ) -> None:
        super().__init__()
        self.frames = model.frames
        self.crop_size = learner.crop_size
        self.action_dims = action_dims
        self.proprioception_size = proprioception_size
        encoder = PixelEncoder(model, learner.crop_size, channels=3 * model.frames)
        self.model = ObservationModel(encoder, proprioception_size, model.proprioception_dims)
        dims = model.feature_dims + self.model.felt_dims
        actor = Actor(behavior, dims, action_dims)
        critics = TwinCritic(dims, action_dims, behavior.critic_dims)
        self.behavior = SoftActorCritic(behavior, actor, critics, action_dims)

    def stack(self, pixels: Tensor) -> Tensor:
        """Put each picture behind those before it: (T, B, 3, S, S) to (T - n + 1, B, 3 n, S, S),
        n being `frames`; the first row is that of step n - 1.
        """
        count = len(pixels) - self.frames + 1
        return torch.cat([pixels[first : first + count] for first in range(self.frames)], 2)

    def initial_state(self, count: int) -> ActingState:
        """Return the pictures before the first, which are black."""
        shape = (count, 3 * self.frames, self.crop_size, self.crop_size)
        return {"pixels": torch.zeros(shape, device=self.device)}

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        state: ActingState,
        is_first: np.ndarray,
        explore: bool,
        generator: Generator = None,
    ) -> tuple[np.ndarray, ActingState]:
        """Choose actions from the newest pictures; an episode's first one stands for those before.

        As `Agent.act`: exploring samples the action, otherwise it is tanh(mean).
        """
        tensors = self.observed(observation)
        newest = to_pixels(centre_crop(tensors["observation"], self.crop_size))  # (N, 3, S, S)
        first = torch.as_tensor(is_first, dtype=torch.bool, device=self.device)
        before = state["pixels"][:, 3:]
        same = newest.repeat(1, self.frames - 1, 1, 1)
        before = torch.where(first[:, None, None, None], same, before)
        pixels = torch.cat([before, newest], 1)
        features = self.model.encode(pixels, tensors.get("proprioception"))
        actor = self.behavior.actor
        action = actor.sample(features, generator)[0] if explore else actor.deterministic(features)
        return action.cpu().numpy(), {"pixels": pixels}

    def compute_in(self, precision: torch.dtype) -> None:
        """Set the dtype of the pixel encoder."""
        encoder = self.model.encoder
        assert isinstance(encoder, PixelEncoder)
        encoder.precision = precision

    def compile_kernels(self) -> None:
        """Nothing: there is no loop over time."""
