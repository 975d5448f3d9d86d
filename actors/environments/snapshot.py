"""The state of a dm_control environment as plain arrays: from mid-episode it continues bit for bit.

A state is the integration state of MuJoCo's data, the sensor readings and camera poses that no
recomputation gives back, the fields of the model that the task has changed (targets, sizes,
colours), the task's own fields and generator, and the episode's clock. It holds no textures and no
meshes: some kilobytes.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import mujoco
import numpy as np
from dm_control.rl import control

_LARGEST_FIELD = 100_000  # numbers; textures and meshes are larger, and no task changes them
_INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_DATA_FIELDS = ("sensordata", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir", "qacc", "ctrl")


class Snapshot:
    """Saves and restores one environment; made right after it, it notes the model as it was."""

    def __init__(self, environment: control.Environment) -> None:
        self._environment = environment
        self._original = {name: value.copy() for name, value in _model_fields(environment).items()}

    def save(self) -> dict[str, Any]:
        """Returns a plain, picklable copy of the environment's state."""
        environment = self._environment
        model, data = environment.physics.model.ptr, environment.physics.data.ptr
        integration = np.empty(mujoco.mj_stateSize(model, _INTEGRATION))
        mujoco.mj_getState(model, data, integration, _INTEGRATION)
        changed = {
            name: value.copy()
            for name, value in _model_fields(environment).items()
            if not np.array_equal(value, self._original[name])
        }
        task = {
            name: value for name, value in vars(environment.task).items() if _is_plain(name, value)
        }
        return {
            "integration": integration,
            "data": {name: np.array(getattr(data, name)) for name in _DATA_FIELDS},
            "model": changed,
            "task": copy.deepcopy(task),
            "random": environment.task.random.get_state(legacy=False),
            "step_count": environment._step_count,
            "reset_next_step": environment._reset_next_step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a state that `save` of an environment of the same task returned.

        Raises:
            ValueError: the state is of another task.
        """
        environment = self._environment
        model, data = environment.physics.model.ptr, environment.physics.data.ptr
        if len(state["integration"]) != mujoco.mj_stateSize(model, _INTEGRATION):
            raise ValueError(
                "The saved state belongs to another task: its physics has another size."
            )
        for name, value in _model_fields(environment).items():
            value[...] = state["model"].get(name, self._original[name])
        mujoco.mj_setState(model, data, state["integration"], _INTEGRATION)
        # Derived positions and velocities as after a control step; then what this cannot know.
        mujoco.mj_step1(model, data)
        for name in _DATA_FIELDS:
            getattr(data, name)[...] = state["data"][name]
        for name, value in copy.deepcopy(state["task"]).items():
            setattr(environment.task, name, value)
        environment.task.random.set_state(state["random"])
        environment._step_count = state["step_count"]
        environment._reset_next_step = state["reset_next_step"]


def _model_fields(environment: control.Environment) -> dict[str, np.ndarray]:
    model = environment.physics.model.ptr
    fields = {}
    for name in dir(model):
        if name.startswith(("_", "tex_", "mesh_", "hfield_", "skin_")):
            continue
        value = getattr(model, name)
        if (
            isinstance(value, np.ndarray)
            and value.size <= _LARGEST_FIELD
            and value.dtype.kind in "fiub"
        ):
            fields[name] = value
    return fields


def _is_plain(name: str, value: Any) -> bool:
    if name == "_random":
        return False
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True
