"""What every environment of this package is: a `dm_env` environment with a little more."""

from __future__ import annotations

from typing import Any

import dm_env
import numpy as np
from dm_env import specs

Observation = np.ndarray | dict[str, np.ndarray]


def clip_action(action: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Returns an action as float64 of that shape, clipped to [-1, 1].

    Raises:
        ValueError: it has another shape, or a number in it is not finite; `name` is the
            environment's.
    """
    clipped = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
    if clipped.shape != shape:
        raise ValueError(f"{name} takes actions of shape {shape}, not {clipped.shape}.")
    if not np.isfinite(clipped).all():
        raise ValueError(f"The action {action} is not finite: the policy has diverged.")
    return clipped


class PixelEnvironment(dm_env.Environment):
    """Pixels in, actions out; `catalog.make_environment` makes one.

    Observations are uint8 (image_size, image_size, 3) RGB; with `environment.proprioception` they
    are `{"observation": that, "proprioception": float32 (P,)}`. They are new arrays each time,
    unless the caller gives memory for them (`observe_into`). Actions are float32 in [-1, 1].
    Rewards are sums over the action repeat, discounts are 1.0 unless the task truly ended (time
    limits leave it at 1.0). An environment stays on the thread that first resets it.

    Attributes:
        name: its name in the catalogue.
        action_repeat: simulator steps per agent step; an episode's last agent step may have fewer.
        episode_agent_steps: agent steps of a full episode, 0 if the task has no time limit.
        simulator_steps: simulator steps of the last agent step (0 after a reset).
    """

    name: str
    action_repeat: int
    episode_agent_steps: int
    simulator_steps: int

    @property
    def time_s(self) -> float:
        """Simulated seconds since the episode began."""
        raise NotImplementedError

    def reset(self, seed: int | None = None) -> dm_env.TimeStep:
        """Starts an episode: a FIRST time step, whose reward and discount are None.

        Args:
            seed: Begin all random streams anew from this seed, as a new environment of that seed
                would; None goes on with those there are.

        Raises:
            ValueError: the seed is negative.
        """
        raise NotImplementedError

    def observe_into(self, memory: Observation) -> None:
        """Offers memory for the observation of the next `reset` or `step`, and of no other.

        An environment that takes the offer writes that observation there, and its time step holds
        the very arrays that were offered; any other ignores it and gives new arrays, as this one
        does. A caller that brings its own memory has steps that allocate nothing of a picture's
        size.

        Args:
            memory: writable C-contiguous arrays of the shapes and dtypes of `observation_spec`, in
                the form of an observation. Its content is undefined until the time step.

        Raises:
            ValueError: the memory does not fit.
        """

    def observation(self) -> Observation:
        """Draws the current state: what the last time step observed, once more."""
        raise NotImplementedError

    def clean_observation(self) -> Observation:
        """Draws the current state as if nothing were distracted: the twin of `observation`.

        Raises:
            NotImplementedError: this environment cannot.
        """
        raise NotImplementedError(f"{self.name} has no clean twin.")

    def render_frame(self, size: int = 240) -> np.ndarray:
        """Draws the current state, distractions included, for people: uint8 (size, 4/3 size, 3)."""
        raise NotImplementedError

    def action_spec(self) -> specs.BoundedArray:
        """Returns the actions: float32 in [-1, 1]."""
        raise NotImplementedError

    def observation_spec(self) -> specs.BoundedArray | dict[str, specs.Array]:
        """Returns shape and dtype of `observation`, by name if there are several."""
        raise NotImplementedError

    def get_state(self) -> dict[str, Any]:
        """Returns all that the rest of the run depends on: plain, picklable, some kilobytes."""
        raise NotImplementedError

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` was called; `observation` then gives that moment's picture.

        Raises:
            ValueError: the state is of another environment, or of another version of its class;
                nothing is changed then.
        """
        raise NotImplementedError
