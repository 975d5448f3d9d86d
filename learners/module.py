"""An agent as an RLModule: the form in which RLlib builds it on actors and learners."""

from __future__ import annotations

from typing import cast

import gymnasium as gym
import numpy as np
from ray.rllib.core.rl_module.torch import TorchRLModule

from learners.agent import ActingState, Agent, Observation
from learners.systems import SYSTEMS
from learners.weights import Published


class AgentModule(TorchRLModule):
    """Holds an agent and answers as a policy.

    `model_config` carries the name of the `system` and its settings objects `model`, `objective`,
    `behavior` and `learner`; the sizes of actions and of proprioception come from the spaces.
    RLlib's forward methods are not used: acting goes through `act` and training through
    `learners.update`.
    """

    agent: Agent

    def setup(self) -> None:
        """Builds the agent; called by RLlib's constructor."""
        config, space = self.model_config, self.observation_space
        size = 0
        if isinstance(space, gym.spaces.Dict):
            size = cast(gym.spaces.Box, space["proprioception"]).shape[0]
        self.agent = SYSTEMS[config["system"]].agent(
            config["model"],
            config["objective"],
            config["behavior"],
            config["learner"],
            int(self.action_space.shape[0]),
            size,
        )

    def initial_state(self, count: int) -> ActingState:
        """See `Agent.initial_state`."""
        return self.agent.initial_state(count)

    def act(
        self, observation: Observation, state: ActingState, is_first: np.ndarray, explore: bool
    ) -> tuple[np.ndarray, ActingState]:
        """See `Agent.act`; noise comes from torch's global generator."""
        return self.agent.act(observation, state, is_first, explore)

    def load_weights(self, published: Published) -> None:
        """Replaces the weights that acting needs; see `FlatWeights.load`."""
        self.agent.acting_weights().load(published)
