"""For robosuite's own Python: doors within this process, compared with doors in processes beside.

    PYTHON local_door_program.py panda

Ends with a line "equal", or with the traceback of the first difference. Without pytest, which that
Python does not have.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import dm_env
import numpy as np

from actors.environments import local_door
from actors.environments.catalog import make_environment
from actors.environments.robosuite import RobosuiteEnvironment
from actors.environments.settings import EnvironmentSettings


def equal(one: Any, two: Any) -> None:
    if isinstance(one, dm_env.TimeStep):
        one, two = tuple(one), tuple(two)
    np.testing.assert_equal(one, two)


def _list_variables() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in local_door._READ_AT_START}


def roll(environment: RobosuiteEnvironment, count: int, seed: int = 0) -> list[dm_env.TimeStep]:
    generator = np.random.default_rng(seed)
    return [environment.step(generator.uniform(-1, 1, 7)) for _ in range(count)]


def compare(robot: str) -> None:
    inside = EnvironmentSettings(
        name=f"robosuite/door-{robot}",
        image_size=144,
        difficulty="randomized",
        proprioception=True,
    )
    beside = replace(inside, robosuite_simulator="process", robosuite_python=sys.executable)
    variables = _list_variables()
    ours: list[Any] = [make_environment(inside, seed) for seed in (7, 8)]
    assert _list_variables() == variables, "making a door changed this process's variables"
    theirs: list[Any] = [make_environment(beside, seed) for seed in (7, 8)]
    assert all(one.process_id == os.getpid() for one in ours)
    assert all(one.process_id != os.getpid() for one in theirs)
    for _ in range(2):  # two doors of one process take turns, and others draw from its generator
        for one, two in zip(ours, theirs, strict=True):
            equal(one.reset(), two.reset())
        for number in range(3):
            np.random.seed(number)
            expected = np.random.RandomState(number).uniform(size=3)
            for one, two in zip(ours, theirs, strict=True):
                equal(roll(one, 1, number)[0], roll(two, 1, number)[0])
            equal(np.random.uniform(size=3), expected)  # doors leave that generator alone
        for one, two in zip(ours, theirs, strict=True):
            equal(one.clean_observation(), two.clean_observation())
            equal(one.render_frame(480), two.render_frame(480))
            equal(one.observation(), two.observation())
    for source, target in ((ours[0], theirs[1]), (theirs[0], ours[1])):  # states go either way
        target.set_state(source.get_state())
        for one, two in zip(roll(source, 3, 9), roll(target, 3, 9), strict=True):
            equal(one, two)
    equal(ours[0].reset(seed=8), theirs[0].reset(seed=8))
    for one, two in zip(roll(ours[0], 3), roll(theirs[0], 3), strict=True):
        equal(one, two)
    ours[0].close()
    ours[0].close()
    equal(ours[1].reset(), theirs[1].reset())  # goes on without the other
    for environment in (*theirs, ours[1]):
        environment.close()


if __name__ == "__main__":
    compare(sys.argv[1])
    print("equal")
