"""The camera distraction: a camera that wanders around the robot while it looks at it.

Ranges, random walk and the order of random draws are those of the published package, whose own
wrapper draws each episode's start. The walk is computed here on plain numbers, bit for bit the
same, and the pose is set only when a picture is drawn: the wrapper takes 0.1 ms per simulator step.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from dm_control.rl import control

from actors.environments import published

Vector = tuple[float, float, float]


class CameraWalk:
    """The random walk of one camera: positions on a sphere, a roll, and their velocities.

    `reset` and `tick` follow the published order; `place` moves the camera, `swap` shows its own
    pose for a moment. The simulator computes the camera's own pose anew in every step, so a pose
    lasts until then.

    Args:
        task: the task whose camera walks.
        camera_id: which camera.
        scale: range of the walk, 0 to 1 (easy 0.1, medium 0.2, hard 0.3).
        dynamic: whether the camera moves within an episode.
        domain: dm_control's name of the task's domain.
        seed: 32 bit.

    Raises:
        ValueError: the camera is of a kind that the walk cannot move.
    """

    def __init__(
        self,
        task: control.Environment,
        camera_id: int,
        scale: float,
        dynamic: bool,
        domain: str,
        seed: int,
    ) -> None:
        self._physics = task.physics
        self._id = camera_id
        _check_mode(task.physics)
        ranges = published.suite_utils.get_camera_kwargs(domain, scale, dynamic)
        self._start = published.camera.DistractingCameraEnv(
            task, camera_id=camera_id, seed=seed, **ranges
        )
        self._random: np.random.RandomState = self._start._random_state
        self._looks_upright = bool(ranges["limit_to_upper_quadrant"])
        self._sphere: Vector = (0.0, 0.0, 0.0)  # radius, horizontal and vertical angle
        self._position: Vector = (0.0, 0.0, 0.0)  # the same place, x y z
        self._velocity: Vector = (0.0, 0.0, 0.0)
        self._roll = self._roll_velocity = 0.0
        self._own_pose: tuple[np.ndarray, np.ndarray] | None = None  # while the camera is moved

    def reset(self) -> None:
        """Draws the start of a walk around the task's present state."""
        start = self._start
        start.setup_camera()
        self._sphere = (float(start._radius), float(start._h_angle), float(start._v_angle))
        self._position = _to_cartesian(self._sphere)
        x, y, z = start._camera_vel.tolist()
        self._velocity = (x, y, z)
        self._roll, self._roll_velocity = float(start._roll), float(start._roll_vel)
        self._own_pose = None
        self.tick()

    def tick(self) -> None:
        """Walks on by one simulator step."""
        limits = self._start
        kick_x, kick_y, kick_z, kick_roll = self._random.standard_normal(4).tolist()
        spread, scaling = limits._vel_std, float(limits._vel_scaling)
        x = self._velocity[0] + kick_x * spread * scaling
        y = self._velocity[1] + kick_y * spread * scaling
        z = self._velocity[2] + kick_z * spread * scaling
        speed, fastest = math.sqrt(x * x + y * y + z * z), limits._max_vel * scaling
        if speed > fastest:
            shrink = fastest / speed
            x, y, z = x * shrink, y * shrink, z * shrink
        turn = self._roll_velocity + kick_roll * limits._roll_vel_std
        turn = min(max(turn, -limits._max_roll_vel), limits._max_roll_vel)

        old = self._position
        radius, horizontal, vertical = _to_sphere((old[0] + x, old[1] + y, old[2] + z))
        self._sphere = (
            min(max(radius, limits._min_radius), limits._max_radius),
            min(max(horizontal, limits._min_h_angle), limits._max_h_angle),
            min(max(vertical, limits._min_v_angle), limits._max_v_angle),
        )
        new = self._position = _to_cartesian(self._sphere)
        self._velocity = (new[0] - old[0], new[1] - old[1], new[2] - old[2])
        roll = min(max(self._roll + turn, limits._min_roll), limits._max_roll)
        self._roll_velocity, self._roll = roll - self._roll, roll
        self._own_pose = None

    def place(self) -> None:
        """Moves the camera to where the walk is; at most once after each simulator step."""
        data = self._physics.data
        position, matrix = data.cam_xpos[self._id], data.cam_xmat[self._id]
        self._own_pose = (position.copy(), matrix.copy())
        place = np.array(self._position)
        if self._start._camera_type == "fixed":
            target = self._start._cam_initial_lookat_point
        else:
            center = data.subtree_com[1]
            target = _looked_at(*self._own_pose, center)
            place = place + center  # the walk goes around the robot
        looks = (
            published.camera.get_lookat_xmat_no_roll
            if self._looks_upright
            else published.camera.get_lookat_xmat
        )
        towards = np.reshape(looks(target, place), (3, 3))
        roll = published.camera.rotvec2mat(self._roll, np.array([0.0, 0.0, 1.0]))
        position[:] = place
        matrix[:] = np.dot(towards, roll).ravel()

    def swap(self) -> None:
        """Exchanges the camera's own pose and the walk's; a second call undoes the first."""
        if self._own_pose is None:
            return
        data = self._physics.data
        shown = (data.cam_xpos[self._id].copy(), data.cam_xmat[self._id].copy())
        data.cam_xpos[self._id], data.cam_xmat[self._id] = self._own_pose
        self._own_pose = shown

    def get_state(self) -> dict[str, Any]:
        """Returns a plain, picklable copy of the walk."""
        start = {
            name: value
            for name, value in vars(self._start).items()
            if name not in ("_env", "_random_state")
        }
        return {
            "start": copy.deepcopy(start),
            "sphere": self._sphere,
            "position": self._position,
            "velocity": self._velocity,
            "roll": self._roll,
            "roll_velocity": self._roll_velocity,
            "own_pose": copy.deepcopy(self._own_pose),
            "random": self._random.get_state(legacy=False),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state` of a walk with the same arguments."""
        for name, value in copy.deepcopy(state["start"]).items():
            setattr(self._start, name, value)
        self._sphere, self._position = state["sphere"], state["position"]
        self._velocity = state["velocity"]
        self._roll, self._roll_velocity = state["roll"], state["roll_velocity"]
        self._own_pose = copy.deepcopy(state["own_pose"])
        self._random.set_state(state["random"])

    def reseed(self, seed: int) -> None:
        """Draws from a generator of that seed (32 bit) from now on."""
        self._random.seed(seed)


# NumPy's sine, cosine and arctangent, which may differ from the C library's in the last bit.


def _to_cartesian(sphere: Vector) -> Vector:
    radius, horizontal, vertical = sphere
    across = radius * float(np.sin(vertical))
    return (
        across * float(np.cos(horizontal)),
        across * float(np.sin(horizontal)),
        radius * float(np.cos(vertical)),
    )


def _to_sphere(position: Vector) -> Vector:
    x, y, z = position
    level = x * x + y * y
    return (
        math.sqrt(level + z * z),
        float(np.arctan2(y, x)),
        float(np.arctan2(math.sqrt(level), z)),
    )


def _looked_at(position: np.ndarray, matrix: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Returns the point that a camera looks at, as far away as `center` is; all (3,)."""
    distance = np.sqrt(np.sum((position - center) ** 2.0))
    return np.dot(matrix.reshape(3, 3), np.array([0.0, 0.0, -distance])) + position


def _check_mode(physics: Any) -> None:
    modes = published.camera.CAMERA_MODES
    mode = modes[physics.model.cam_mode[0]] if physics.model.ncam else "free"
    if mode not in ("fixed", "trackcom"):
        raise ValueError(
            f"the task's camera is {mode!r}, and the camera distraction moves fixed and trackcom "
            "ones: leave camera out of environment.distractions."
        )
