"""The trained policy by itself: built from settings, or loaded from a checkpoint, without Ray."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from learners.agent import Agent
from learners.systems import SYSTEMS
from rl_system.errors import CheckpointError

if TYPE_CHECKING:
    from rl_system.config import Settings

# Where RLlib puts the module's weights inside a checkpoint; names begin with "agent.".
MODULE_STATE = Path("learner_group/learner/rl_module/default_policy/module_state.pkl")
_PREFIX = "agent."


def build_agent(settings: Settings, action_dims: int) -> Agent:
    """Returns a new agent of these settings, on the CPU."""
    return SYSTEMS[settings.run.system].agent(
        settings.model,
        settings.objective,
        settings.behavior,
        settings.learner,
        action_dims,
        settings.proprioception_size,
    )


def load_policy(checkpoint: str | Path, settings: Settings) -> Agent:
    """Returns the agent saved in the directory `checkpoint`, ready to act.

    It follows `actors.worker.Policy`: `initial_state(count)` and `act(...)`; with `explore=False`
    it acts as well as it can: by its mean (CoRe, SAC), or as CVRL plans or by its mode.

    Raises:
        CheckpointError: files are missing, or the weights do not fit `settings`.
    """
    path = Path(checkpoint) / MODULE_STATE
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint} holds no policy ({MODULE_STATE} is missing): name the directory of one "
            "checkpoint, such as RUN_DIR/checkpoints/000010."
        )
    with path.open("rb") as file:
        state: dict[str, Any] = pickle.load(file)
    weights = {
        name.removeprefix(_PREFIX): np.asarray(value)
        for name, value in state.items()
        if name.startswith(_PREFIX)
    }
    outputs = [value for name, value in weights.items() if ".actor." in name]
    if not outputs:
        raise CheckpointError(f"{path} holds no actor: it was written by another version.")
    agent = build_agent(settings, len(outputs[-1]) // 2)  # the last layer gives mean and deviation
    try:
        agent.load_acting_tensors(weights)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return agent.eval()
