"""The same environments for agents written against Gymnasium.

    import actors.environments.gym_view  # registers the ids below
    env = gymnasium.make("rl_system/DCS-cheetah-run-medium-dynamic-v0", image_size=84)

Importing this module registers, for every task of the catalogue:

- `rl_system/DCS-<domain>-<task>-none-v0`: undistracted;
- `rl_system/DCS-<domain>-<task>-<level>-<static|dynamic>-v0`: the level is easy, medium, hard,
  background2 or background60;
- `rl_system/Natural-<domain>-<task>-v0`: the ten tasks of CVRL's Natural MuJoCo;
- `rl_system/Door-<robot>-v0` and `rl_system/Door-<robot>-randomized-v0`: robosuite's door.

`gymnasium.make("actors.environments.gym_view:<id>")` imports and makes in one line.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from actors.environments.catalog import NATURAL_TASKS, Split, list_environments, make_environment
from actors.environments.interface import Observation, PixelEnvironment
from actors.environments.settings import EnvironmentSettings
from actors.environments.spaces import space_of

NAMESPACE = "rl_system"
_FIELDS = tuple(field.name for field in dataclasses.fields(EnvironmentSettings))
_LARGEST_SEED = 2**31


class GymnasiumView(gymnasium.Env[Observation, np.ndarray]):
    """A `PixelEnvironment` as a `gymnasium.Env`.

    Observations are what the environment below gives: a uint8 (image_size, image_size, 3) array, or
    with `proprioception` a dict of that and a vector. Actions are float32 in [-1, 1]. An episode
    that reaches its time limit is truncated, one that truly ends (discount 0) is terminated.
    `info["simulator_steps"]` counts the physics steps of the last agent step, 0 after a reset.

    After `reset(seed=s)` everything equals what `catalog.make_environment(settings, s)` gives.
    `reset()` goes on to the next episode of the same seed. Before any seed is given, one is drawn.

    Args:
        name: name in the catalogue, such as dcs/cheetah-run.
        split: background videos "train" or "held_out".
        clean_twin: put each state drawn without distractions into `info["clean_observation"]`.
        render_mode: "rgb_array" for `render`, which gives uint8 (240, 320, 3).
        fields: any other field of `EnvironmentSettings`.

    Raises:
        ValueError: a field that does not exist (the message names the nearest) or does not fit.
        UnknownEnvironment: no such name.
        GraphicsUnavailable: pictures cannot be drawn here; says what to install.
    """

    # Tasks run at 10 to 50 agent steps per simulated second; films of all are shown at one rate.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(
        self,
        name: str,
        *,
        split: Split = "train",
        clean_twin: bool = False,
        render_mode: str | None = None,
        **fields: Any,
    ) -> None:
        self.render_mode = render_mode
        self.settings = _settings(name, fields)
        self._clean_twin = clean_twin
        self._ended = True
        seed = int(self.np_random.integers(_LARGEST_SEED))
        self._environment: PixelEnvironment | None = make_environment(self.settings, seed, split)
        self.observation_space = space_of(self._environment.observation_spec())
        self.action_space = space_of(self._environment.action_spec())

    @property
    def environment(self) -> PixelEnvironment:
        """The `dm_env` environment below, for what Gymnasium has no word for."""
        if self._environment is None:
            raise gymnasium.error.ClosedEnvironmentError(f"{self.settings.name} has been closed.")
        return self._environment

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode, of a new seed if one is given; `options` are ignored."""
        super().reset(seed=seed)
        time_step = self.environment.reset(None if seed is None else int(seed))
        self._ended = False
        return time_step.observation, self._info()

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Takes one agent step; numbers outside [-1, 1] are clipped.

        Raises:
            ResetNeeded: the episode has ended, or none has begun.
            ValueError: the action has another shape, or a number in it is not finite.
        """
        if self._ended:
            raise gymnasium.error.ResetNeeded(
                f"{self.settings.name} is between episodes: call reset() before step()."
            )
        time_step = self.environment.step(action)
        self._ended = bool(time_step.last())
        terminated = self._ended and time_step.discount == 0.0
        truncated = self._ended and not terminated
        reward = float(time_step.reward)
        return time_step.observation, reward, terminated, truncated, self._info()

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Draws the current state for people: uint8 (240, 320, 3), None without a render mode."""
        return None if self.render_mode is None else self.environment.render_frame()

    def get_state(self) -> dict[str, Any]:
        """Returns all that the rest of the run depends on: plain, picklable, some kilobytes."""
        return {"environment": self.environment.get_state(), "ended": self._ended}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` was called, on a view of the same settings.

        Raises:
            ValueError: the state is of another environment.
        """
        self.environment.set_state(state["environment"])
        self._ended = state["ended"]

    def close(self) -> None:
        """Frees the drawing context. Safe to call twice."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"simulator_steps": self.environment.simulator_steps}
        if self._clean_twin:
            info["clean_observation"] = self.environment.clean_observation()
        return info


def list_ids() -> dict[str, dict[str, Any]]:
    """Returns every id that this module registers, with the keywords that it stands for."""
    return dict(_ids())


def register() -> None:
    """Registers all ids with Gymnasium; those that are registered stay as they are."""
    for identifier, keywords in _ids():
        if identifier not in gymnasium.registry:
            gymnasium.register(
                identifier, entry_point=f"{__name__}:{GymnasiumView.__name__}", kwargs=keywords
            )


def _ids() -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in list_environments():
        if entry.family == "robosuite":
            door = f"{NAMESPACE}/Door-{entry.task}"
            # The whole window of the published task; its learner crops 128 pixels from it.
            given = {"name": entry.name, "image_size": 144}
            yield f"{door}-v0", given
            yield f"{door}-randomized-v0", given | {"difficulty": "randomized"}
            continue
        task = f"{entry.domain}-{entry.task}"
        for level in entry.difficulties:
            settings = {"name": entry.name, "difficulty": level}
            if level == "none":
                yield f"{NAMESPACE}/DCS-{task}-none-v0", settings
            elif level == "natural":
                if entry.name in NATURAL_TASKS:
                    yield f"{NAMESPACE}/Natural-{task}-v0", settings
            else:
                for motion in ("static", "dynamic"):
                    keywords = settings | {"dynamic": motion == "dynamic"}
                    yield f"{NAMESPACE}/DCS-{task}-{level}-{motion}-v0", keywords


def _settings(name: str, fields: dict[str, Any]) -> EnvironmentSettings:
    for field in fields:
        if field == "seed":
            raise ValueError("A seed is given to `reset(seed=...)`, not to the environment.")
        if field not in _FIELDS:
            near = difflib.get_close_matches(field, _FIELDS, n=1)
            raise ValueError(
                f"{field!r} is no setting of an environment"
                f"{f'; the nearest is {near[0]!r}' if near else ''}. "
                "`rl-system train --settings environment` lists all."
            )
    # Keywords that went through JSON have lists where the settings have tuples.
    values: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()
    }
    return EnvironmentSettings(name=name, **values)


register()
