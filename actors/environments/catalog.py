"""What can be trained on: names, the papers' action repeats, and `make_environment`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from actors.environments import backend
from actors.environments.settings import DIFFICULTIES, EnvironmentSettings

if TYPE_CHECKING:
    from actors.environments.interface import PixelEnvironment

Split = Literal["train", "held_out"]

PREFIX = "dcs/"
ROBOSUITE_PREFIX = "robosuite/"
DEFAULT_ACTION_REPEAT = 2
NATURAL_ACTION_REPEAT = 2

# Tasks of the DeepMind Control Suite and their action dimensions, by domain.
_TASKS: dict[str, dict[str, int]] = {
    "acrobot": {"swingup": 1, "swingup_sparse": 1},
    "ball_in_cup": {"catch": 2},
    "cartpole": {
        "balance": 1,
        "balance_sparse": 1,
        "swingup": 1,
        "swingup_sparse": 1,
        "two_poles": 1,
        "three_poles": 1,
    },
    "cheetah": {"run": 6},
    "dog": {"stand": 38, "walk": 38, "trot": 38, "run": 38, "fetch": 38},
    "finger": {"spin": 2, "turn_easy": 2, "turn_hard": 2},
    "fish": {"swim": 5, "upright": 5},
    "hopper": {"hop": 4, "stand": 4},
    "humanoid": {"run": 21, "stand": 21, "walk": 21},
    "humanoid_CMU": {"run": 56, "stand": 56, "walk": 56},
    "manipulator": {"bring_ball": 5, "bring_peg": 5, "insert_ball": 5, "insert_peg": 5},
    "pendulum": {"swingup": 1},
    "point_mass": {"easy": 2, "hard": 2},
    "quadruped": {"walk": 12, "run": 12, "escape": 12, "fetch": 12},
    "reacher": {"easy": 2, "hard": 2},
    "stacker": {"stack_2": 5, "stack_4": 5},
    "swimmer": {"swimmer6": 5, "swimmer15": 14},
    "walker": {"run": 6, "stand": 6, "walk": 6},
}
# Robots of robosuite, with the dimensions of their actions and of their proprioception.
_ROBOTS: dict[str, tuple[int, int]] = {"panda": (7, 32), "jaco": (7, 40)}

# Action repeats of PlaNet, Dreamer v1 and CoRe, which agree where they overlap.
_ACTION_REPEATS: dict[str, int] = {
    "ball_in_cup": 4,
    "cartpole": 8,
    "cheetah": 4,
    "finger": 2,
    "pendulum": 4,
    "point_mass": 4,
    "reacher": 4,
    "walker": 2,
}

# The benchmark of the Distracting Control Suite, as in CoRe.
PAPER_TASKS: tuple[str, ...] = (
    "dcs/ball_in_cup-catch",
    "dcs/cartpole-swingup",
    "dcs/cheetah-run",
    "dcs/finger-spin",
    "dcs/reacher-easy",
    "dcs/walker-walk",
)

# Natural MuJoCo, the benchmark of CVRL.
NATURAL_TASKS: tuple[str, ...] = (
    "dcs/ball_in_cup-catch",
    "dcs/cartpole-balance",
    "dcs/cartpole-swingup",
    "dcs/cheetah-run",
    "dcs/finger-spin",
    "dcs/pendulum-swingup",
    "dcs/quadruped-walk",
    "dcs/reacher-easy",
    "dcs/walker-run",
    "dcs/walker-walk",
)


class UnknownEnvironment(ValueError):
    """The catalogue has no environment of that name; the message gives the nearest ones."""


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue."""

    name: str  # "dcs/<domain>-<task>" or "robosuite/<task>-<robot>"
    family: str  # "dcs" or "robosuite": who simulates it
    domain: str  # dm_control's domain; "door" for robosuite
    task: str  # dm_control's task; the robot for robosuite
    action_dims: int  # size of an action
    action_repeat: int  # simulator steps per agent step when the settings give none
    in_paper: bool  # one of the six tasks of the Distracting Control Suite benchmark
    episode_simulator_steps: int = 1000  # simulator steps of a full episode
    proprioception_dims: int = 0  # size of the proprioception; 0: this environment has none

    @property
    def difficulties(self) -> tuple[str, ...]:
        """The levels of distraction that this environment has."""
        robosuite = self.family == "robosuite"
        return tuple(
            level
            for level in DIFFICULTIES
            if level == "none" or (level == "randomized") == robosuite
        )

    def repeat(self, settings: EnvironmentSettings) -> int:
        """Returns the simulator steps per agent step: the settings', else the papers'."""
        if settings.action_repeat is not None:
            return settings.action_repeat
        return NATURAL_ACTION_REPEAT if settings.difficulty == "natural" else self.action_repeat


def list_environments() -> list[Entry]:
    """Returns every environment by name, the paper's six first. Imports no simulator."""
    entries = [
        Entry(
            name=f"{PREFIX}{domain}-{task}",
            family="dcs",
            domain=domain,
            task=task,
            action_dims=action_dims,
            action_repeat=_ACTION_REPEATS.get(domain, DEFAULT_ACTION_REPEAT),
            in_paper=f"{PREFIX}{domain}-{task}" in PAPER_TASKS,
        )
        for domain, tasks in _TASKS.items()
        for task, action_dims in tasks.items()
    ]
    entries += [
        Entry(
            name=f"{ROBOSUITE_PREFIX}door-{robot}",
            family="robosuite",
            domain="door",
            task=robot,
            action_dims=action_dims,
            action_repeat=1,
            in_paper=False,
            episode_simulator_steps=500,
            proprioception_dims=proprioception_dims,
        )
        for robot, (action_dims, proprioception_dims) in _ROBOTS.items()
    ]
    return sorted(entries, key=lambda entry: (not entry.in_paper, entry.name))


def find(name: str) -> Entry:
    """Returns the entry of that name.

    Raises:
        UnknownEnvironment: there is none; the message names the nearest.
    """
    entries = {entry.name: entry for entry in list_environments()}
    if name in entries:
        return entries[name]
    wanted = name if "/" in name else PREFIX + name
    near = difflib.get_close_matches(wanted, list(entries), n=3, cutoff=0.4) or list(PAPER_TASKS)
    raise UnknownEnvironment(
        f"No environment is called {name!r}. Nearest: {', '.join(near)}. "
        "`rl-system envs` lists all."
    )


def make_environment(
    settings: EnvironmentSettings, seed: int, split: Split = "train"
) -> PixelEnvironment:
    """Makes one environment, ready for its first `reset`.

    Args:
        settings: task, picture and distractions.
        seed: one non-negative integer from which the task's start states and all distractions
            follow: the same seed and actions give the same frames and rewards, on the same machine
            bit for bit.
        split: which background videos are shown, "train" or the disjoint "held_out"; everything
            else of an episode is the same for both. robosuite has no videos: there the splits are
            other episodes of one distribution.

    Raises:
        UnknownEnvironment: no such name.
        ValueError: settings that do not fit the task, or a seed below 0.
        videos.VideoFolderError: the folder of videos does not exist or holds none.
        backend.GraphicsUnavailable: pictures cannot be drawn here; says what to install.
        robosuite.RobosuiteMissing: there is no Python with robosuite; says how to get one.
        server_process.ProcessFailed: robosuite's process ended, or gave no answer in time.
    """
    entry = find(settings.name)
    if split not in ("train", "held_out"):
        raise ValueError(f"split is {split!r}; choose train or held_out.")
    if settings.difficulty not in entry.difficulties:
        raise ValueError(
            f"environment.difficulty is {settings.difficulty!r}, and {entry.name} has: "
            f"{', '.join(entry.difficulties)}."
        )
    if entry.family == "robosuite":
        from actors.environments.robosuite import RobosuiteEnvironment

        return RobosuiteEnvironment(entry, settings, seed, split)
    if settings.proprioception:
        raise ValueError(
            f"environment.proprioception is for robosuite, and {entry.name} has pictures alone."
        )
    backend.require(settings.gl, settings.render_device)
    # dm_control reads the choice of OpenGL library at its first import: so only now.
    from actors.environments.suite import SuiteEnvironment

    return SuiteEnvironment(entry, settings, seed, split)
