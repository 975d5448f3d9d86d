"""Door opening with one robot: the task of CoRe (Srivastava et al. 2021, section 3.4).

Operational space control of the hand's pose, as a difference, and the gripper (7 numbers); 20
control steps a second; the shaped reward; a door with a latch. An episode starts with a control
step of doing nothing, as in CoRe's code.
"""

from __future__ import annotations

import sys
from typing import Any

import mujoco
import numpy as np
import robosuite
from robosuite.controllers import load_controller_config

from actors.environments.robosuite_process import ROBOSUITE_VERSION
from actors.environments.robosuite_process.camera import Camera
from actors.environments.robosuite_process.randomizer import Randomizer

CONTROL_HZ = 20
HORIZON = 500  # control steps; the episode's end is the caller's to see

_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
# Results of MuJoCo's last forward pass that pictures, rewards and sensors read. They belong to the
# state before the last integration, so the integrated state does not give them back.
_DERIVED = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos"),
    *("site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir", "subtree_com", "cvel"),
    *("sensordata", "qacc"),
)
_DIVERGED = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)


class Door:
    """The task of one robot.

    Args:
        robot: robosuite's name of it, "Panda" or "Jaco".
        task_seed: of the door's placement and the robot's first pose, 0 to 2^32 - 1. They come from
            NumPy's global generator: whoever has several tasks in one process gives each its own
            state of it.
        looks_seed: of the randomisation, 0 to 2^32 - 1.
        randomize: any of "color" (with textures and lights) and "camera".
        quality: see `Camera`.

    Raises:
        RuntimeError: this is another version of robosuite.
        GraphicsError: nothing can be drawn here.
    """

    def __init__(
        self, robot: str, task_seed: int, looks_seed: int, randomize: list[str], quality: str
    ) -> None:
        if robosuite.__version__ != ROBOSUITE_VERSION:
            raise RuntimeError(
                f"{sys.executable} has robosuite {robosuite.__version__}, and the published task "
                f"needs {ROBOSUITE_VERSION}: `make robosuite` builds a Python with it."
            )
        # Making it places a door too, and traces of that (1e-7) reach into the first episode.
        np.random.seed(task_seed)
        self.env = robosuite.make(
            "Door",
            robots=robot,
            controller_configs=load_controller_config(default_controller="OSC_POSE"),
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            reward_shaping=True,
            control_freq=CONTROL_HZ,
            horizon=HORIZON,
            ignore_done=True,
            hard_reset=False,
        )
        self._nothing = np.zeros(self.env.action_dim)
        self.env.reset()  # hides the marks that robosuite shows until then
        self.env.step(self._nothing)  # compiles the controller: seconds, the first time ever
        sim = self.env.sim
        self._model, self._data = sim.model._model, sim.data._data
        self.camera = Camera(self._model, self._data, quality)
        self.randomizer = Randomizer(sim, self.camera, randomize, looks_seed) if randomize else None
        np.random.seed(task_seed)

    def close(self) -> None:
        """Gives back what the simulation and its pictures hold."""
        self.camera.close(*(self.randomizer.contexts if self.randomizer is not None else ()))
        self.env.close()

    def sizes(self) -> dict[str, int]:
        """Returns the numbers in an action and in the proprioception."""
        return {"action": self.env.action_dim, "proprioception": len(self._proprioception())}

    def reset(self) -> dict[str, Any]:
        """Starts an episode with new looks and a new placement; returns its first observation."""
        if self.randomizer is not None:
            self.randomizer.randomize()
        self.env.reset()
        self.env.step(self._nothing)
        return self.observe()

    def step(self, action: np.ndarray, control_steps: int) -> dict[str, Any]:
        """Repeats an action; returns the sum of its rewards, and the observation at the end.

        A control step in which the simulation diverges earns nothing, and then there is no
        observation: as in CoRe's code, the one before it is to be repeated. MuJoCo has put the
        simulation back to its first pose by then.
        """
        reward, diverged = 0.0, False
        for _ in range(control_steps):
            earned = self._advance(action)
            diverged = diverged or earned is None
            reward += earned or 0.0
        return {"reward": reward} if diverged else {"reward": reward, **self.observe()}

    def observe(self) -> dict[str, Any]:
        """Returns picture and proprioception as the simulation stands."""
        return {"picture": self.camera.observe(), "proprioception": self._proprioception()}

    def observe_original(self) -> dict[str, Any]:
        """Returns `observe` as if nothing had been randomised."""
        if self.randomizer is None:
            return self.observe()
        picture = self.randomizer.observe_original()
        return {"picture": picture, "proprioception": self._proprioception()}

    def film(self, height: int, width: int) -> dict[str, Any]:
        """Returns the whole view for people, uint8 (height, width, 3)."""
        return {"picture": self.camera.film(height, width)}

    def get_state(self) -> dict[str, Any]:
        """Returns all that the rest of the run depends on, as plain values and arrays."""
        integration = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, self._data, integration, _STATE)
        return {
            "integration": integration,
            "derived": {name: np.array(getattr(self._data, name)) for name in _DERIVED},
            "placement": [np.array(self._model.body_pos), np.array(self._model.body_quat)],
            "controller": self._controller_fields(),
            "gripper": np.array(self.env.robots[0].gripper.current_action),
            "clock": [self.env.timestep, self.env.cur_time],
            "random": np.random.get_state(legacy=False),
            "looks": None if self.randomizer is None else self.randomizer.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Continues where `get_state` was called; returns that moment's observation."""
        if self.randomizer is not None:
            self.randomizer.set_state(state["looks"])
        self._model.body_pos[...], self._model.body_quat[...] = state["placement"]
        mujoco.mj_setState(self._model, self._data, state["integration"], _STATE)
        for name in _DERIVED:
            getattr(self._data, name)[...] = state["derived"][name]
        robot = self.env.robots[0]
        for name, value in state["controller"].items():
            setattr(robot.controller, name, value)
        robot.gripper.current_action = state["gripper"]
        self.env.timestep, self.env.cur_time = state["clock"]
        np.random.set_state(state["random"])
        return self.observe()

    def _advance(self, action: np.ndarray) -> float | None:
        """Takes one control step; returns its reward, None if the simulation diverged."""
        warnings = self._data.warning
        for kind in _DIVERGED:
            warnings[kind].number = 0
        try:
            reward = float(self.env.step(action)[1])
        except (mujoco.FatalError, np.linalg.LinAlgError):
            return None
        return None if any(warnings[kind].number for kind in _DIVERGED) else reward

    def _proprioception(self) -> np.ndarray:
        observations = self.env._get_observations(force_update=True)
        return np.asarray(observations["robot0_proprio-state"], np.float32)

    def _controller_fields(self) -> dict[str, Any]:
        """Returns goals, gains and last readings of the controller."""
        return {
            name: np.array(value) if isinstance(value, np.ndarray) else value
            for name, value in vars(self.env.robots[0].controller).items()
            if value is None or isinstance(value, (bool, int, float, np.ndarray))
        }
