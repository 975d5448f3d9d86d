"""What an agent of any system is to those that train it and to those that act with it.

The files of agents import no ray: they train on any machine that has torch and NumPy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from learners.noise import Generator
from learners.weights import FlatWeights

ActingState = dict[str, Tensor]
Observation = np.ndarray | Mapping[str, np.ndarray]


class Agent(nn.Module, ABC):
    """Networks that are trained together, some of which act.

    An agent is made as `Class(model, objective, behavior, learner, action_dims,
    proprioception_size)`, the first four being its system's settings.

    Attributes:
        acting_parts: Beginnings of the names of the tensors that acting needs.
        action_dims: Size A of an action.
        proprioception_size: Numbers P observed beside each picture; 0: pictures alone.
    """

    acting_parts: tuple[str, ...]
    action_dims: int
    proprioception_size: int

    @abstractmethod
    def initial_state(self, count: int) -> ActingState:
        """Return acting states of `count` environments to begin with."""

    @abstractmethod
    def act(
        self,
        observation: Observation,
        state: ActingState,
        is_first: np.ndarray,
        explore: bool,
        generator: Generator = None,
    ) -> tuple[np.ndarray, ActingState]:
        """Take in one more observation of every environment and choose its action.

        Args:
            observation: uint8 (N, H, W, 3), the centre crop of it is seen; or that as `observation`
                in a dictionary with float32 (N, P) `proprioception`.
            state: Acting states of the N environments.
            is_first: bool (N,); where true the state restarts at the beginning of an episode.
            explore: Act as while data are collected; otherwise as well as the agent can.
            generator: Source of the noise; None uses torch's global one.

        Returns:
            Actions float32 (N, A) in [-1, 1] and the next acting states.
        """

    @abstractmethod
    def compute_in(self, precision: torch.dtype) -> None:
        """Set the dtype in which convolutions compute; weights stay float32."""

    @abstractmethod
    def compile_kernels(self) -> None:
        """Have torch.compile fuse the steps of loops over time, at their first use."""

    @property
    def device(self) -> torch.device:
        """Where the agent's tensors are."""
        return next(self.parameters()).device

    def acting_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that acting needs, by name: the agent's own, not copies."""
        return {
            name: value
            for name, value in self.state_dict(keep_vars=True).items()
            if name.startswith(self.acting_parts)
        }

    def acting_weights(self) -> FlatWeights:
        """Return these tensors as one, to be published from here or replaced here."""
        return FlatWeights(self.acting_tensors())

    @torch.no_grad()
    def load_acting_tensors(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over the values of `acting_tensors` of an agent with the same settings.

        Raises:
            ValueError: One is missing or has another shape; nothing is changed then.
        """
        own = self.acting_tensors()
        for name, tensor in own.items():
            found = weights[name].shape if name in weights else "missing"
            if found != tuple(tensor.shape):
                raise ValueError(
                    f"Weights do not fit this agent: {name} is {found}, expected "
                    f"{tuple(tensor.shape)}. Use the settings.yaml of the run that made them."
                )
        for name, tensor in own.items():
            tensor.copy_(torch.from_numpy(np.array(weights[name])))

    def observed(self, observation: Observation) -> dict[str, Tensor]:
        """Return an observation's parts on the agent's device: copies, as Ray's are read-only."""
        parts = observation if isinstance(observation, Mapping) else {"observation": observation}
        return {name: torch.tensor(value, device=self.device) for name, value in parts.items()}
