"""An agent that carries the state of a recurrent state-space model from step to step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from learners.agent import ActingState, Agent, Observation
from learners.augment import centre_crop, to_pixels
from learners.models.layers import Gaussian
from learners.models.observation import RecurrentModel
from learners.models.rssm import States
from learners.noise import Generator


class RecurrentAgent(Agent):
    """What agents share whose world model is an RSSM, in training and in acting.

    Attributes:
        model: World model.
        crop_size: Side of the square that is seen, pixels.
    """

    model: RecurrentModel
    crop_size: int

    def observe(
        self,
        pixels: Tensor,
        actions: Tensor,
        generator: Generator = None,
        proprioception: Tensor | None = None,
    ) -> tuple[Tensor, States]:
        """Encode crops (T, B, 3, S, S), with proprioception (T, B, P) where the agent has it, and
        filter them: features x (T, B, F) and states.
        """
        with record_function("phase/encode"):
            features = self.model.encode(pixels, proprioception)
        with record_function("phase/filter"):
            return features, self.model.rssm.observe(features, actions, generator)

    def initial_state(self, count: int) -> ActingState:
        """Return zero acting states of `count` environments: h, s and the previous action."""
        return self.model.rssm.initial_state(count, self.device)

    def filter(
        self, observation: Observation, state: ActingState, is_first: np.ndarray
    ) -> tuple[Gaussian, Tensor]:
        """Take in one more observation of N environments, as `act` is given it.

        Returns:
            The posterior of s (N, Ds), and h (N, Dh).
        """
        tensors = self.observed(observation)
        pixels = to_pixels(centre_crop(tensors["observation"], self.crop_size))
        features = self.model.encode(pixels, tensors.get("proprioception"))  # (N, F)
        first = torch.as_tensor(is_first, dtype=torch.bool, device=self.device)[:, None]
        return self.model.rssm.correct(features, state, first)

    def compile_kernels(self) -> None:
        """Have torch.compile fuse the recurrent step, and the imagined one."""
        self.model.rssm.compile_steps()
