"""A DeepMind Control Suite task as a pixel environment with distractions.

One `step` is one agent step: the action is repeated for `action_repeat` simulator steps while
rewards add up and distractions tick, then one picture is drawn.
"""

from __future__ import annotations

import math
from typing import Any

import dm_env
import numpy as np
from dm_env import specs

from actors.environments import distractions
from actors.environments.catalog import Entry
from actors.environments.rendering import Renderer, SkyMissing, quality_for
from actors.environments.settings import EnvironmentSettings
from actors.environments.snapshot import Snapshot
from actors.environments.tasks import load_task

_STATE_VERSION = 1


class SuiteEnvironment(dm_env.Environment):
    """One task of the catalogue; made by `catalog.make_environment`.

    Observations are uint8 (image_size, image_size, 3) RGB, a new array each time. Rewards are sums
    over the action repeat, discounts are 1.0 unless the task truly ended (time limits leave it at
    1.0). An environment stays on the thread that first resets it.

    Attributes:
        name: its name in the catalogue.
        action_repeat: simulator steps per agent step; an episode's last agent step may have fewer.
        episode_agent_steps: agent steps of a full episode, 0 if the task has no time limit.
        simulator_steps: simulator steps of the last agent step (0 after a reset).
    """

    def __init__(self, entry: Entry, settings: EnvironmentSettings, seed: int, split: str) -> None:
        seeds = distractions.stream_seeds(seed)
        self.name = entry.name
        self.settings = settings
        self.action_repeat = entry.repeat(settings)
        self.simulator_steps = 0
        self._control = load_task(entry, seeds["task"])
        limit = self._control._step_limit
        self.episode_agent_steps = (
            0 if math.isinf(limit) else math.ceil(math.ceil(limit) / self.action_repeat)
        )
        self._snapshot = Snapshot(self._control)
        self._renderer = Renderer(
            self._control.physics,
            distractions.camera_id(entry.domain),
            settings.image_size,
            quality_for(settings.quality, settings.image_size),
        )
        background = None
        if settings.difficulty != "none" and "background" in settings.distractions:
            try:
                self._renderer.replace_sky()
            except SkyMissing as error:
                raise ValueError(
                    f"{entry.name}: {error}; leave background out of environment.distractions."
                ) from error
            assert self._renderer.sky is not None
            background = distractions.make_background(
                settings, split, self._renderer.sky, seeds["background"]
            )
        self._task = distractions.DistractedTask(self._control, entry, settings, seeds, background)
        self._action_spec = _unit_actions(self._control.action_spec(), entry.name)
        self._low, self._high = (
            np.asarray(bound, np.float64)
            for bound in (self._control.action_spec().minimum, self._control.action_spec().maximum)
        )
        self._scaled = not (np.all(self._low == -1.0) and np.all(self._high == 1.0))
        self._reset_next_step = True

    def reset(self) -> dm_env.TimeStep:
        """Starts an episode: a FIRST time step, whose reward and discount are None."""
        self._task.reset()
        self._reset_next_step = False
        self.simulator_steps = 0
        return dm_env.restart(self.observation())

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        """Takes one agent step; after a LAST time step it resets instead, as dm_env asks.

        Args:
            action: float32 (action dimensions,); numbers outside [-1, 1] are clipped.

        Raises:
            ValueError: the action has another shape, or a number in it is not finite.
        """
        if self._reset_next_step:
            return self.reset()
        command = self._command(action)
        reward = 0.0
        self.simulator_steps = 0
        for _ in range(self.action_repeat):
            time_step = self._task.step(command)
            reward += float(time_step.reward)
            self.simulator_steps += 1
            if time_step.last():
                break
        self._reset_next_step = time_step.last()
        return dm_env.TimeStep(
            time_step.step_type, reward, float(time_step.discount), self.observation()
        )

    def observation(self) -> np.ndarray:
        """Draws the current state: a new uint8 array (image_size, image_size, 3)."""
        background = self._task.background
        if background is not None:
            self._renderer.send_sky(background.texture())
        return self._renderer.observe()

    def render_frame(self, size: int = 240) -> np.ndarray:
        """Draws the current state, distractions included, for people: uint8 (size, 4/3 size, 3)."""
        background = self._task.background
        if background is not None:
            self._renderer.send_sky(background.texture())
        return self._renderer.film(size)

    def action_spec(self) -> specs.BoundedArray:
        """Returns the actions: float32 in [-1, 1]."""
        return self._action_spec

    def observation_spec(self) -> specs.BoundedArray:
        """Returns the observations: uint8 (image_size, image_size, 3)."""
        size = self.settings.image_size
        return specs.BoundedArray((size, size, 3), np.uint8, 0, 255, name="observation")

    @property
    def frames_drawn(self) -> int:
        """Observations drawn since the environment was made."""
        return self._renderer.frames_drawn

    @property
    def physics(self) -> Any:
        """The task's dm_control physics, to look at."""
        return self._control.physics

    @property
    def background(self) -> distractions.Background | None:
        """The background's clock, None when that distraction is off."""
        return self._task.background

    def get_state(self) -> dict[str, Any]:
        """Returns all that the rest of the run depends on: plain, picklable, a few kilobytes."""
        return {
            "version": _STATE_VERSION,
            "name": self.name,
            "action_repeat": self.action_repeat,
            "simulator_steps": self.simulator_steps,
            "reset_next_step": self._reset_next_step,
            "control": self._snapshot.save(),
            "distractions": self._task.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` was called; `observation` then gives that moment's picture.

        Raises:
            ValueError: the state is of another environment, or of another version of this class.
        """
        here = {"version": _STATE_VERSION, "name": self.name, "action_repeat": self.action_repeat}
        saved = {key: state.get(key) for key in here}
        if saved != here:
            raise ValueError(
                f"The saved state is of {saved}, this environment is {here}: make that one."
            )
        self._task.set_state(state["distractions"])
        self._snapshot.restore(state["control"])
        self.simulator_steps = state["simulator_steps"]
        self._reset_next_step = state["reset_next_step"]

    def close(self) -> None:
        """Frees the drawing context. The environment cannot be used afterwards."""
        self._renderer.close()

    def _command(self, action: np.ndarray) -> np.ndarray:
        command = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        if command.shape != self._action_spec.shape:
            raise ValueError(
                f"{self.name} takes actions of shape {self._action_spec.shape}, "
                f"not {command.shape}."
            )
        if not np.isfinite(command).all():
            raise ValueError(f"The action {action} is not finite: the policy has diverged.")
        if self._scaled:
            command = self._low + (command + 1.0) * 0.5 * (self._high - self._low)
        return command


def _unit_actions(spec: specs.BoundedArray, name: str) -> specs.BoundedArray:
    if not (np.isfinite(spec.minimum).all() and np.isfinite(spec.maximum).all()):
        raise ValueError(f"{name} has unbounded actions and cannot be trained on.")
    return specs.BoundedArray(spec.shape, np.float32, -1.0, 1.0, name="action")
