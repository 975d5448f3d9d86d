"""Door opening in robosuite as a pixel environment, whose simulator needs a Python of its own.

robosuite's version limits exclude those of the rest of the system. Where this process is of a
Python that has robosuite, as actors are by default, `RobosuiteEnvironment` has the simulator within
itself. Elsewhere a second Python runs the folder `robosuite_process`, and is asked for steps and
pictures over pipes. `make robosuite` builds that Python; docs/robosuite.md tells the rest.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import dm_env
import numpy as np
from dm_env import specs
from PIL import Image

from actors.environments import backend, self_check
from actors.environments.catalog import Entry
from actors.environments.interface import Observation, PixelEnvironment, clip_action
from actors.environments.local_door import LocalDoor
from actors.environments.robosuite_process import ROBOSUITE_VERSION
from actors.environments.robosuite_process.errors import GraphicsError
from actors.environments.server_process import ProcessFailed, ServerProcess
from actors.environments.settings import EnvironmentSettings

START_TIMEOUT_S = 300.0  # imports, the robot's meshes, and the first use of a compiler cache
CALL_TIMEOUT_S = 120.0  # the first steps compile parts of the controller: seconds, on a busy node
PYTHON_VARIABLE = "RL_SYSTEM_ROBOSUITE_PYTHON"

_PROGRAM = Path(__file__).with_name("robosuite_process")
_BUILT = Path(".venv-robosuite", "bin", "python")
_CONTROL_HZ = 20
_WINDOW = 144  # pixels of the part of the picture that an observation shows
_STATE_VERSION = 1
_SELF_CHECK = Path(self_check.__file__)
# Settings of other environments. `dynamic` and the distraction "background", which have no effect
# either, are on by default, so that they may be given.
_UNUSED = (
    *("intensity", "videos", "videos_split", "num_videos", "background_blend"),
    *("natural_mask", "view", "ground_alpha"),
)
# What the other Python must not inherit: this one's paths, its choice of OpenGL, and the GPUs of
# this process, which robosuite would take for EGL devices (an empty list stops it).
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYOPENGL_PLATFORM", "CUDA_VISIBLE_DEVICES")
_ONE_THREAD = ("LP_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class RobosuiteMissing(RuntimeError):
    """There is no Python with robosuite; the message says how to build or to name one."""


class RobosuiteEnvironment(PixelEnvironment):
    """One robot before its door; made by `catalog.make_environment`.

    An observation is a window of the front camera's picture, 144 x 144 of 256 x 256, its middle 24
    pixels left of the picture's and 16 above it; it is resized if `image_size` is another.
    `difficulty` "randomized" draws new looks at every reset: colours, textures and lights if
    `distractions` has "color", the camera's place and angle if it has "camera". They stay for the
    episode, so `dynamic` has no effect, and neither has the distraction "background". An episode is
    500 control steps after one of doing nothing (CoRe's code takes it too), and never ends early. A
    control step in which the simulation diverges earns 0 and repeats the observation before it.

    One seed gives the same episodes on the same machine, bit for bit, and so does `set_state` of an
    environment with the same settings. `split` changes the seed alone: held-out episodes are of the
    same distribution.

    Before anything else a known scene is drawn. With `gl` "auto" an EGL that cannot, or that draws
    it wrong, gives way to OSMesa if that is installed: in a process beside, since one process draws
    with one library.

    Raises:
        RobosuiteMissing: no Python with robosuite.
        backend.GraphicsUnavailable: it cannot draw here.
        ProcessFailed: its process beside ended, or gave no answer in time; later calls raise it
            too.
        ValueError: a setting that has no effect here (`dynamic` and "background" may be given), or
            a negative seed.
    """

    _simulator: LocalDoor | ServerProcess

    def __init__(self, entry: Entry, settings: EnvironmentSettings, seed: int, split: str) -> None:
        _refuse_unused(settings)
        self.name = entry.name
        self.settings = settings
        self._robot = entry.task.capitalize()
        self._split = split
        self.action_repeat = entry.repeat(settings)
        self.episode_agent_steps = -(-entry.episode_simulator_steps // self.action_repeat)
        self.simulator_steps = 0
        self._episode_simulator_steps = entry.episode_simulator_steps
        self._elapsed = 0  # control steps of this episode
        self._randomize = _randomized(settings)
        seeds = _derive_seeds(seed, split)
        self._is_local = settings.robosuite_simulator == "actor" and has_robosuite()
        self._python = Path(sys.executable) if self._is_local else find_python(settings)
        self._libraries = list_libraries(settings)
        sizes = self._start(seeds)
        if sizes["proprioception"] != entry.proprioception_dims:
            raise RuntimeError(
                f"{entry.name} has a proprioception of {entry.proprioception_dims} numbers, and "
                f"this robosuite gives {sizes['proprioception']}: `make robosuite` builds the "
                "version that fits."
            )
        self._action_spec = specs.BoundedArray(
            (sizes["action"],), np.float32, -1.0, 1.0, name="action"
        )
        self._proprioception_size = sizes["proprioception"]
        self._last: Observation | None = None
        self._reset_next_step = True

    @property
    def time_s(self) -> float:
        """Simulated seconds since the episode began."""
        return self._elapsed / _CONTROL_HZ

    def reset(self, seed: int | None = None) -> dm_env.TimeStep:
        """Starts an episode: a FIRST time step, whose reward and discount are None.

        Args:
            seed: Begin anew from this seed, as a new environment of that seed would. That makes
                another simulator, which takes seconds: a door that was opened before leaves traces
                of 1e-7 in its first episode.
        """
        if seed is not None:
            seeds = _derive_seeds(seed, self._split)
            self._simulator.close()
            self._start(seeds)
        reply = self._call("reset")
        self._reset_next_step = False
        self._elapsed = self.simulator_steps = 0
        return dm_env.restart(self._observe(reply))

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        """Takes one agent step; after a LAST time step it resets instead, as dm_env asks.

        Args:
            action: float32 (7,), a difference of the hand's position and angle (at most 5 cm and
                0.5 rad per axis) and the gripper; numbers outside [-1, 1] are clipped.

        Raises:
            ValueError: the action has another shape, or a number in it is not finite.
        """
        if self._reset_next_step:
            return self.reset()
        command = clip_action(action, self._action_spec.shape, self.name)
        left = self._episode_simulator_steps - self._elapsed
        self.simulator_steps = min(self.action_repeat, left)
        reply = self._call("step", command, self.simulator_steps)
        self._elapsed += self.simulator_steps
        self._reset_next_step = self._elapsed >= self._episode_simulator_steps
        kind = dm_env.StepType.LAST if self._reset_next_step else dm_env.StepType.MID
        return dm_env.TimeStep(kind, float(reply["reward"]), 1.0, self._observe(reply))

    def observation(self) -> Observation:
        """Draws the current state: what the last time step observed, once more."""
        return self._unpack(self._call("observe"))

    def clean_observation(self) -> Observation:
        """Draws the current state with the original colours, textures, lights and cameras."""
        return self._unpack(self._call("observe_original"))

    def render_frame(self, size: int = 240) -> np.ndarray:
        """Draws the whole view, distractions included: uint8 (size, 4/3 size, 3)."""
        picture: np.ndarray = self._call("film", size, -(-size * 4 // 3))["picture"]
        return picture

    def action_spec(self) -> specs.BoundedArray:
        """Returns the actions: float32 (7,) in [-1, 1]."""
        return self._action_spec

    def observation_spec(self) -> specs.BoundedArray | dict[str, specs.Array]:
        """Returns the picture's spec; with proprioception a dictionary of both specs.

        Proprioception is float32: 32 numbers for Panda and 40 for Jaco (cosines, sines and speeds
        of 7 joints, the hand's position and quaternion, and the fingers' positions and speeds).
        """
        size = self.settings.image_size
        picture = specs.BoundedArray((size, size, 3), np.uint8, 0, 255, name="observation")
        if not self.settings.proprioception:
            return picture
        numbers = specs.Array((self._proprioception_size,), np.float32, name="proprioception")
        return {"observation": picture, "proprioception": numbers}

    def get_state(self) -> dict[str, Any]:
        """Returns all that the rest of the run depends on: plain, picklable, under 40 kilobytes."""
        return {
            **self._identity(),
            "elapsed": self._elapsed,
            "simulator_steps": self.simulator_steps,
            "reset_next_step": self._reset_next_step,
            "simulator": self._call("get_state"),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` was called; `observation` then gives that moment's picture.

        Raises:
            ValueError: the state is of another environment, or of another version of this class.
        """
        here = self._identity()
        saved = {key: state.get(key) for key in here}
        if saved != here:
            raise ValueError(
                f"The saved state is of {saved}, this environment is {here}: make that one."
            )
        self._observe(self._call("set_state", state["simulator"]))
        self._elapsed = state["elapsed"]
        self.simulator_steps = state["simulator_steps"]
        self._reset_next_step = state["reset_next_step"]

    def close(self) -> None:
        """Ends the simulator. The environment cannot be used afterwards; twice is fine."""
        self._simulator.close()

    @property
    def process_id(self) -> int:
        """Of the process that the simulator is in: another one, or this."""
        return self._simulator.process_id

    @property
    def library(self) -> str:
        """Of OpenGL, which draws: "egl" or "osmesa"."""
        return self._libraries[0]

    def _identity(self) -> dict[str, Any]:
        return {
            "version": _STATE_VERSION,
            "name": self.name,
            "action_repeat": self.action_repeat,
            "randomize": self._randomize,
        }

    def _start(self, seeds: tuple[int, int]) -> dict[str, int]:
        """Makes the simulator and returns its sizes; a library that cannot draw is given up."""
        arguments = {
            "robot": self._robot,
            "task_seed": seeds[0],
            "looks_seed": seeds[1],
            "randomize": self._randomize,
            "quality": self.settings.quality,
            "self_check": str(_SELF_CHECK),
        }
        failures: list[str] = []
        for library in self._libraries:
            variables = list_variables(self.settings, library)
            try:
                sizes = self._open(arguments, variables)
            except GraphicsError as error:
                failures.append(str(error))
                if "MUJOCO_EGL_DEVICE_ID" in failures[-1]:
                    break  # a device that the user named does not exist: nothing takes its place
                self._is_local = False
            else:
                self._libraries = [library]
                return sizes
        raise backend.GraphicsUnavailable(
            f"robosuite cannot draw here ({'; '.join(failures)}): set environment.render_device to "
            "another device, or install OSMesa (on Debian or Ubuntu "
            f"`{backend.INSTALL_HINTS['osmesa']}`) and leave environment.gl at auto."
        )

    def _open(self, arguments: dict[str, Any], variables: dict[str, str]) -> dict[str, int]:
        """Makes the simulator here or in a process beside; returns its sizes.

        Raises:
            GraphicsError: it cannot draw.
            RobosuiteMissing: there is none in that Python.
        """
        if self._is_local:
            try:
                self._simulator = LocalDoor(arguments, variables)
            except ModuleNotFoundError as error:
                raise self._missing(str(error)) from error
            return self._simulator.sizes
        server = ServerProcess(self._python, _PROGRAM, arguments, variables)
        self._simulator = server
        try:
            sizes: dict[str, int] = server.receive("start", START_TIMEOUT_S)["sizes"]
        except ProcessFailed as error:
            server.close()
            reason = str(error).strip().splitlines()[-1].partition(": ")[2]
            if error.kind == ModuleNotFoundError.__name__:
                raise self._missing(reason) from error
            if error.kind == GraphicsError.__name__:
                library, _, words = reason.partition(": ")
                raise GraphicsError(words, library) from error
            raise
        return sizes

    def _missing(self, reason: str) -> RobosuiteMissing:
        return RobosuiteMissing(
            f"{self._python} cannot run robosuite ({reason}): `make robosuite` builds a Python "
            "that can."
        )

    def _call(self, name: str, *arguments: Any) -> dict[str, Any]:
        return self._simulator.call(name, *arguments, timeout_s=CALL_TIMEOUT_S)

    def _observe(self, reply: dict[str, Any]) -> Observation:
        """Returns the observation of a reply; the last one again if it has none."""
        if "picture" in reply:
            self._last = self._unpack(reply)
        assert self._last is not None  # every observation but a diverged one's is in its reply
        if isinstance(self._last, dict):
            return {name: value.copy() for name, value in self._last.items()}
        return self._last.copy()

    def _unpack(self, reply: dict[str, Any]) -> Observation:
        picture, size = reply["picture"], self.settings.image_size
        if size != _WINDOW:
            resized = Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR)
            picture = np.array(resized)
        if not self.settings.proprioception:
            return picture
        return {"observation": picture, "proprioception": reply["proprioception"]}


def has_robosuite() -> bool:
    """Whether this Python has the robosuite of the published task."""
    try:
        return importlib.metadata.version("robosuite") == ROBOSUITE_VERSION
    except importlib.metadata.PackageNotFoundError:
        return False


def find_python(settings: EnvironmentSettings) -> Path:
    """Returns the Python that has robosuite: the settings', the variable's, or the one built here.

    Raises:
        RobosuiteMissing: there is none; the message says what to do.
    """
    named = {
        "environment.robosuite_python": settings.robosuite_python,
        PYTHON_VARIABLE: os.environ.get(PYTHON_VARIABLE),
    }
    for source, name in named.items():
        if name:
            if not _is_program(Path(name)):
                raise RobosuiteMissing(f"{source} is {name!r}, and no program is there.")
            return Path(name).absolute()
    built = [Path(__file__).resolve().parents[2] / _BUILT, Path.cwd() / _BUILT]
    for path in built:
        if _is_program(path):
            return path
    raise RobosuiteMissing(
        f"{settings.name} needs a second Python with robosuite, and {built[0]} does not exist. "
        "Run `make robosuite`, or name one in environment.robosuite_python (or in "
        f"{PYTHON_VARIABLE}); docs/robosuite.md says what it must have."
    )


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _refuse_unused(settings: EnvironmentSettings) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    given = [name for name in _UNUSED if getattr(settings, name) != defaults[name]]
    if given:
        raise ValueError(
            f"{', '.join(f'environment.{name}' for name in given)} would have no effect on "
            f"{settings.name}: leave {'it' if len(given) == 1 else 'them'} out."
        )


def _derive_seeds(seed: int, split: str) -> tuple[int, int]:
    """Returns the seeds of the task and of the looks, 0 to 2^32 - 1."""
    if seed < 0:
        raise ValueError(f"The environment's seed is {seed}; it must be 0 or more.")
    words = np.random.SeedSequence([seed, zlib.crc32(split.encode())]).generate_state(2)
    return int(words[0]), int(words[1])


def _randomized(settings: EnvironmentSettings) -> list[str]:
    if settings.difficulty == "none":
        return []
    kinds: list[str] = [kind for kind in ("color", "camera") if kind in settings.distractions]
    if not kinds:
        raise ValueError(
            f"environment.difficulty is {settings.difficulty}, and environment.distractions has "
            f"neither color nor camera: add one, or set environment.difficulty=none."
        )
    return kinds


def list_libraries(settings: EnvironmentSettings) -> list[str]:
    """Returns the OpenGL libraries to try, best first: "egl" or "osmesa", for gl=auto maybe both.

    Raises:
        backend.GraphicsUnavailable: none can be loaded; the message says what to install.
    """
    chosen = backend.select() if settings.gl == "auto" else settings.gl
    if chosen not in ("egl", "osmesa"):
        raise backend.GraphicsUnavailable(
            f"robosuite draws with egl or osmesa, and MUJOCO_GL is {chosen!r}. On Debian or Ubuntu "
            f"run `{backend.INSTALL_HINTS['egl']}`, or set environment.gl."
        )
    missing = backend.missing_libraries(chosen)
    if missing:
        raise backend.GraphicsUnavailable(
            f"robosuite cannot draw with {chosen} here: {', '.join(missing)} is missing. On Debian "
            f"or Ubuntu run `{backend.INSTALL_HINTS[chosen]}`, or set environment.gl."
        )
    if settings.gl == "auto" and chosen == "egl" and not backend.missing_libraries("osmesa"):
        return ["egl", "osmesa"]
    return [chosen]


def list_variables(settings: EnvironmentSettings, library: str) -> dict[str, str]:
    """Returns the environment variables of a process that draws with that library."""
    variables = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    variables |= {name: "0" if name == "LP_NUM_THREADS" else "1" for name in _ONE_THREAD}
    variables["MUJOCO_GL"] = library
    if settings.render_device is not None:
        variables["MUJOCO_EGL_DEVICE_ID"] = str(settings.render_device)
    return variables
