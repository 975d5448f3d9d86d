from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.environments import local_door, robosuite
from actors.environments.local_door import LocalDoor
from actors.environments.robosuite import RobosuiteMissing, find_python
from actors.environments.robosuite_process import start
from actors.environments.robosuite_process.errors import GraphicsError
from actors.environments.server_process import ProcessFailed
from actors.environments.settings import EnvironmentSettings

_PROGRAM = Path(__file__).with_name("local_door_program.py")


class Drawing:
    """Stands where a door would: draws from NumPy's global generator, as robosuite does."""

    def __init__(self, task_seed: int) -> None:
        self.library = os.environ.get("MUJOCO_GL")
        self.gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        self.is_closed = False
        np.random.seed(task_seed)

    def sizes(self) -> dict[str, int]:
        return {"action": 7, "proprioception": 32}

    def draw(self) -> dict[str, Any]:
        return {"number": np.random.uniform()}

    def fail(self) -> dict[str, Any]:
        np.random.uniform()
        raise ArithmeticError("diverged")

    def where(self) -> dict[str, Any]:
        return {"library": self.library, "gpus": self.gpus}

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Doors without robosuite; the list gets the file of every check of the graphics."""
    checks: list[str] = []
    monkeypatch.setattr(start, "make_door", lambda arguments: Drawing(**arguments))
    monkeypatch.setattr(start, "check_graphics", checks.append)
    monkeypatch.setattr(local_door, "_library", None)
    monkeypatch.setattr(local_door, "_checked", False)
    return checks


def _make(task_seed: int = 0, **variables: str) -> LocalDoor:
    arguments = {"task_seed": task_seed, "self_check": "self_check.py"}
    return LocalDoor(arguments, {"MUJOCO_GL": "egl"} | variables)


def _draw(door: LocalDoor) -> float:
    number: float = door.call("draw", timeout_s=1.0)["number"]
    return number


def test_each_door_has_a_generator_of_its_own_and_leaves_that_of_others_alone() -> None:
    np.random.seed(5)
    one, two = _make(1), _make(2)
    drawn = [(_draw(one), _draw(two)) for _ in range(3)]
    alone = [np.random.RandomState(seed).uniform(size=3) for seed in (1, 2)]
    np.testing.assert_equal(np.array(drawn).T, alone)
    assert np.random.uniform() == np.random.RandomState(5).uniform()


def test_a_failing_call_passes_through_and_gives_the_generator_back() -> None:
    door = _make()
    np.random.seed(5)
    with pytest.raises(ArithmeticError, match="diverged"):
        door.call("fail", timeout_s=1.0)
    assert np.random.uniform() == np.random.RandomState(5).uniform()


def test_variables_hold_while_it_is_made_and_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    before = dict(os.environ)
    door = _make(MUJOCO_EGL_DEVICE_ID="0")
    assert dict(os.environ) == before
    assert door.call("where", timeout_s=1.0) == {"library": "egl", "gpus": None}


def test_the_graphics_are_checked_once_in_a_process(checked: list[str]) -> None:
    for _ in range(3):
        _make()
    assert checked == ["self_check.py"]


def test_graphics_that_failed_are_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise GraphicsError("no light")

    monkeypatch.setattr(start, "check_graphics", fail)
    for _ in range(2):
        with pytest.raises(GraphicsError, match="egl: no light"):
            _make()


def test_a_second_library_in_one_process_is_refused() -> None:
    _make()
    with pytest.raises(GraphicsError, match="osmesa: this process draws with egl already"):
        _make(MUJOCO_GL="osmesa")


def test_a_closed_door_refuses_calls_and_closing_twice_is_fine() -> None:
    door = _make()
    inner = door._door
    door.close()
    door.close()
    assert inner.is_closed
    with pytest.raises(ProcessFailed, match="closed: make another"):
        _draw(door)


def test_it_is_this_process() -> None:
    door = _make()
    assert door.process_id == os.getpid()
    assert door.sizes == {"action": 7, "proprioception": 32}


def test_this_python_has_no_robosuite_and_so_the_simulator_would_be_a_process() -> None:
    assert not robosuite.has_robosuite()


@pytest.mark.parametrize("robot", ["panda", "jaco"])
@pytest.mark.slow
def test_doors_inside_a_process_are_bit_for_bit_those_beside_it(robot: str) -> None:
    try:
        python = find_python(EnvironmentSettings(name="robosuite/door-panda"))
    except RobosuiteMissing:
        pytest.skip("no Python with robosuite here: `make robosuite` builds it")
    done = subprocess.run(
        [str(python), "-W", "ignore", str(_PROGRAM), robot],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.stdout.strip().endswith("equal"), done.stderr
    assert sys.executable != str(python)
