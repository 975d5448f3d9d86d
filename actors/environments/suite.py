"""A DeepMind Control Suite task as a pixel environment with distractions.

One `step` is one agent step: the action is repeated for `action_repeat` simulator steps while
rewards add up and distractions tick, then one picture is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import dm_env
import numpy as np
from dm_env import specs

from actors.environments import distractions
from actors.environments.catalog import Entry
from actors.environments.interface import Observation, PixelEnvironment, clip_action
from actors.environments.rendering import Renderer, quality_for
from actors.environments.settings import EnvironmentSettings, view_of
from actors.environments.snapshot import Snapshot
from actors.environments.tasks import episode_simulator_steps, load_task, step_task

_STATE_VERSION = 3
# Settings that the rest of a run depends on; pictures may be of another size or quality.
_SHAPING = (
    "difficulty",
    "intensity",
    "dynamic",
    "distractions",
    "natural_mask",
    "background_blend",
    "ground_alpha",
)


class SuiteEnvironment(PixelEnvironment):
    """One task of the catalogue; made by `catalog.make_environment`.

    See `PixelEnvironment` for what every environment promises.
    """

    def __init__(self, entry: Entry, settings: EnvironmentSettings, seed: int, split: str) -> None:
        seeds = distractions.stream_seeds(seed)
        self.name = entry.name
        self.settings = settings
        self.action_repeat = entry.repeat(settings)
        self.simulator_steps = 0
        self._control = load_task(entry, seeds["task"])
        self.episode_agent_steps = math.ceil(
            episode_simulator_steps(self._control) / self.action_repeat
        )
        self._snapshot = Snapshot(self._control)
        view = view_of(settings)
        self._renderer = Renderer(
            self._control.physics,
            distractions.camera_id(entry.domain),
            settings.image_size,
            quality_for(settings.quality, settings.image_size, view),
            view,
        )
        self._distractions = distractions.Distractions(
            self._control, entry, settings, split, self._renderer, seeds
        )
        self._action_spec = _unit_actions(self._control.action_spec(), entry.name)
        self._low, self._high = (
            np.asarray(bound, np.float64)
            for bound in (self._control.action_spec().minimum, self._control.action_spec().maximum)
        )
        self._scaled = not (np.all(self._low == -1.0) and np.all(self._high == 1.0))
        self._memory: np.ndarray | None = None  # where the next time step's observation goes
        self._reset_next_step = True
        self._closed = False

    def reset(self, seed: int | None = None) -> dm_env.TimeStep:
        """Starts an episode: a FIRST time step, whose reward and discount are None.

        Args:
            seed: Begin all random streams anew from this seed, as a new environment of that seed
                would.

        Raises:
            ValueError: the seed is negative.
        """
        self._check_open()
        if seed is not None:
            seeds = distractions.stream_seeds(seed)
            self._control.task.random.seed(seeds["task"])
            self._distractions.reseed(seeds)
        self._control.reset()
        self._distractions.reset()
        self._reset_next_step = False
        self.simulator_steps = 0
        return dm_env.restart(self._observe())

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        """Takes one agent step; after a LAST time step it resets instead, as dm_env asks.

        Args:
            action: float32 (action dimensions,); numbers outside [-1, 1] are clipped.

        Raises:
            ValueError: the action has another shape, or a number in it is not finite.
        """
        self._check_open()
        if self._reset_next_step:
            return self.reset()
        command = self._command(action)
        total, discount, ended = 0.0, 1.0, False
        self.simulator_steps = 0
        while self.simulator_steps < self.action_repeat and not ended:
            reward, discount, ended = step_task(self._control, command)
            self._distractions.tick()
            total += reward
            self.simulator_steps += 1
        self._distractions.settle()
        self._reset_next_step = ended
        kind = dm_env.StepType.LAST if ended else dm_env.StepType.MID
        return dm_env.TimeStep(kind, total, discount, self._observe())

    def observe_into(self, memory: Observation) -> None:
        """Gives memory for the observation of the next `reset` or `step`, which holds it then.

        Args:
            memory: writable C-contiguous uint8 (image_size, image_size, 3).

        Raises:
            ValueError: it is something else.
        """
        shape = (self.settings.image_size, self.settings.image_size, 3)
        if not isinstance(memory, np.ndarray) or memory.shape != shape or memory.dtype != np.uint8:
            given = type(memory).__name__
            if isinstance(memory, np.ndarray):
                given = f"{memory.dtype} {memory.shape}"
            raise ValueError(
                f"{self.name} writes observations of uint8 {shape}, and the memory for them is "
                f"{given}: give memory like `observation_spec`."
            )
        if not (memory.flags.c_contiguous and memory.flags.writeable):
            lacks = "writable" if memory.flags.c_contiguous else "C-contiguous"
            raise ValueError(
                f"The memory for observations of {self.name} is not {lacks}: give an array of its "
                "own, or whole rows of a larger one."
            )
        self._memory = memory

    def observation(self) -> np.ndarray:
        """Draws the current state: a new uint8 array (image_size, image_size, 3)."""
        self._check_open()
        return self._distractions.observe()

    def clean_observation(self) -> np.ndarray:
        """Draws the current state as the same task without distractions would.

        It has the task's own camera pose, colours, floor and sky: equal, byte for byte, to the
        picture of an environment of difficulty "none" in the same state. For denoising and for
        measuring; costs one more picture.
        """
        self._check_open()
        with self._distractions.removed():
            return self._renderer.observe(own_sky=True)

    def render_frame(self, size: int = 240) -> np.ndarray:
        """Draws the current state, distractions included, for people: uint8 (size, 4/3 size, 3).

        Videos that "natural" pastes into observations are not in it.

        Raises:
            ValueError: the size is below 8.
        """
        self._check_open()
        if size < 8:
            raise ValueError(f"A frame of {size} pixels is asked for; 8 is the least.")
        return self._distractions.film(size)

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
    def time_s(self) -> float:
        """Simulated seconds since the episode began."""
        return float(self._control.physics.time())

    @property
    def distractions(self) -> distractions.Distractions:
        """What disturbs the picture, to look at."""
        return self._distractions

    def get_state(self) -> dict[str, Any]:
        """Returns all that the rest of the run depends on: plain, picklable, 10 to 20 kilobytes."""
        self._check_open()
        return {
            "identity": self._identity(),
            "simulator_steps": self.simulator_steps,
            "reset_next_step": self._reset_next_step,
            "control": self._snapshot.save(),
            "distractions": self._distractions.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` was called; `observation` then gives that moment's picture.

        Raises:
            ValueError: the state is of another environment, of other settings, or of another
                version of this class; nothing is changed then.
        """
        self._check_open()
        parts = {"identity", "simulator_steps", "reset_next_step", "control", "distractions"}
        if not isinstance(state, Mapping) or state.keys() != parts:
            raise ValueError("This is no state that get_state of this version has returned.")
        differing = [
            f"{key} {state['identity'].get(key)!r} instead of {value!r}"
            for key, value in self._identity().items()
            if state["identity"].get(key) != value
        ]
        if differing:
            raise ValueError(
                f"The saved state has {', '.join(differing)}: restore it with the same environment "
                "settings."
            )
        self._distractions.set_state(state["distractions"])
        self._snapshot.restore(state["control"])
        self.simulator_steps = state["simulator_steps"]
        self._reset_next_step = state["reset_next_step"]

    def close(self) -> None:
        """Frees the drawing context. The environment cannot be used afterwards."""
        self._renderer.close()
        self._closed = True

    def _observe(self) -> np.ndarray:
        memory, self._memory = self._memory, None
        return self._distractions.observe(memory)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"This {self.name} has been closed: make another.")

    def _identity(self) -> dict[str, Any]:
        shaping = {name: getattr(self.settings, name) for name in _SHAPING}
        return {
            "version": _STATE_VERSION,
            "name": self.name,
            "action_repeat": self.action_repeat,
            **shaping,
        }

    def _command(self, action: np.ndarray) -> np.ndarray:
        command = clip_action(action, self._action_spec.shape, self.name)
        if self._scaled:
            command = self._low + (command + 1.0) * 0.5 * (self._high - self._low)
        return command


def _unit_actions(spec: specs.BoundedArray, name: str) -> specs.BoundedArray:
    if not (np.isfinite(spec.minimum).all() and np.isfinite(spec.maximum).all()):
        raise ValueError(f"{name} has unbounded actions and cannot be trained on.")
    return specs.BoundedArray(spec.shape, np.float32, -1.0, 1.0, name="action")
