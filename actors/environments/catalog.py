"""What can be trained on: names, the papers' action repeats, and `make_environment`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from actors.environments import backend
from actors.environments.settings import EnvironmentSettings

if TYPE_CHECKING:
    from actors.environments.suite import SuiteEnvironment

Split = Literal["train", "held_out"]

PREFIX = "dcs/"
DEFAULT_ACTION_REPEAT = 2

# Tasks of the DeepMind Control Suite by domain; PAPER_TASKS are those of the distracting one.
_TASKS: dict[str, tuple[str, ...]] = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": (
        "balance",
        "balance_sparse",
        "swingup",
        "swingup_sparse",
        "two_poles",
        "three_poles",
    ),
    "cheetah": ("run",),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("swim", "upright"),
    "hopper": ("hop", "stand"),
    "humanoid": ("run", "stand", "walk"),
    "manipulator": ("bring_ball",),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run"),
    "reacher": ("easy", "hard"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("run", "stand", "walk"),
}

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

PAPER_TASKS: tuple[str, ...] = (
    "dcs/ball_in_cup-catch",
    "dcs/cartpole-swingup",
    "dcs/cheetah-run",
    "dcs/finger-spin",
    "dcs/reacher-easy",
    "dcs/walker-walk",
)


class UnknownEnvironment(ValueError):
    """The catalogue has no environment of that name; the message gives the nearest ones."""


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue."""

    name: str  # "dcs/<domain>-<task>"
    domain: str  # dm_control's domain
    task: str  # dm_control's task
    action_repeat: int  # simulator steps per agent step when the settings give none
    in_paper: bool  # one of the six tasks of the Distracting Control Suite benchmark


def list_environments() -> list[Entry]:
    """Returns every environment by name, the paper's six first. Imports no simulator."""
    entries = [
        Entry(
            name=f"{PREFIX}{domain}-{task}",
            domain=domain,
            task=task,
            action_repeat=_ACTION_REPEATS.get(domain, DEFAULT_ACTION_REPEAT),
            in_paper=f"{PREFIX}{domain}-{task}" in PAPER_TASKS,
        )
        for domain, tasks in _TASKS.items()
        for task in tasks
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
    wanted = name if name.startswith(PREFIX) else PREFIX + name
    near = difflib.get_close_matches(wanted, list(entries), n=3, cutoff=0.4) or list(PAPER_TASKS)
    raise UnknownEnvironment(
        f"No environment is called {name!r}. Nearest: {', '.join(near)}. "
        "`rl-system envs` lists all."
    )


def make_environment(
    settings: EnvironmentSettings, seed: int, split: Split = "train"
) -> SuiteEnvironment:
    """Makes one environment, ready for its first `reset`.

    Args:
        settings: task, picture and distractions.
        seed: one non-negative integer from which the task's start states and all distractions
            follow: the same seed and actions give the same frames and rewards, on the same machine
                bit for bit.
        split: which background videos are shown, "train" or the disjoint "held_out". Everything
            else of an episode is the same for both.

    Raises:
        UnknownEnvironment: no such name.
        ValueError: settings that do not fit the task, or a seed below 0.
        videos.VideoFolderError: the folder of videos does not exist or holds none.
        backend.GraphicsUnavailable: pictures cannot be drawn here; says what to install.
    """
    entry = find(settings.name)
    if split not in ("train", "held_out"):
        raise ValueError(f"split is {split!r}; choose train or held_out.")
    backend.require(settings.gl, settings.render_device)
    # dm_control reads the choice of OpenGL library at its first import: so only now.
    from actors.environments.suite import SuiteEnvironment

    return SuiteEnvironment(entry, settings, seed, split)
