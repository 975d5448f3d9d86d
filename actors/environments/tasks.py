"""Tasks of dm_control, stepped without what pictures have no use for."""

from __future__ import annotations

import math

import numpy as np
from absl import logging
from dm_control import suite
from dm_control.rl import control

from actors.environments.catalog import Entry


def load_task(entry: Entry, seed: int) -> control.Environment:
    """Returns the plain task of that entry, its start states drawn from `seed` (32 bit).

    dm_control's warnings about its own model files are not shown.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        return suite.load(entry.domain, entry.task, task_kwargs={"random": seed})
    finally:
        logging.set_verbosity(verbosity)


def episode_simulator_steps(task: control.Environment) -> int:
    """Returns the simulator steps of a full episode, 0 without a time limit."""
    return 0 if math.isinf(task._step_limit) else math.ceil(task._step_limit)


def step_task(task: control.Environment, action: np.ndarray) -> tuple[float, float, bool]:
    """Takes one simulator step: what `task.step(action)` does, but for its observations.

    Those are positions and velocities, computed in every step and thrown away by whoever looks at
    pictures.

    Returns:
        Reward, discount and whether the episode ended.
    """
    physics, rules = task._physics, task._task
    rules.before_step(action, physics)
    physics.step(task._n_sub_steps)
    rules.after_step(physics)
    reward = float(rules.get_reward(physics))
    task._step_count += 1
    discount = (
        1.0 if task._step_count >= task._step_limit else rules.get_termination(physics)
    )  # None: goes on
    if discount is None:
        return reward, 1.0, False
    task._reset_next_step = True
    return reward, float(discount), True
