"""robosuite's door within this process, for actors that run in robosuite's own Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from actors.environments.robosuite_process.errors import GraphicsError
from actors.environments.server_process import ProcessFailed

# Variables that MuJoCo, OpenGL, robosuite and Numba read at their first import or first picture.
_READ_AT_START = (
    *("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID", "PYOPENGL_PLATFORM", "CUDA_VISIBLE_DEVICES"),
    *("LP_NUM_THREADS", "NUMBA_NUM_THREADS"),
)
_library: str | None = None  # of OpenGL, that this process has loaded
_checked = False  # it draws right


class LocalDoor:
    """Answers the calls that a `ServerProcess` with a door answers, without process and pipes.

    A deadline is not kept: a simulator that hangs is this process hanging. There may be several;
    each has a state of NumPy's global generator of its own, and leaves that of others alone. All
    must be used by the thread that made them.

    Attributes:
        sizes: see `Door.sizes`.

    Args:
        arguments: as for the program `robosuite_process`.
        variables: the environment variables to begin with; of those, only the ones that say how to
            draw are used, and the process has its own back afterwards.

    Raises:
        ModuleNotFoundError: this Python has no robosuite.
        GraphicsError: this process cannot draw, or draws with another library already.
    """

    def __init__(self, arguments: dict[str, Any], variables: dict[str, str]) -> None:
        from actors.environments.robosuite_process.start import make_door

        arguments = dict(arguments)
        self._random = np.random.RandomState(0).get_state()
        with _variables({name: variables.get(name) for name in _READ_AT_START}):
            _require(arguments.pop("self_check"), variables["MUJOCO_GL"])
            with self._own_generator():
                self._door: Any = make_door(arguments)
        self.sizes: dict[str, int] = self._door.sizes()

    @property
    def process_id(self) -> int:
        """Of this process."""
        return os.getpid()

    def call(self, name: str, *arguments: Any, timeout_s: float) -> dict[str, Any]:
        """Returns what the door's method of that name does, whose exceptions pass through.

        Raises:
            ProcessFailed: this is closed.
        """
        del timeout_s  # nobody is there to keep it
        if self._door is None:
            raise ProcessFailed("This environment is closed: make another.")
        with self._own_generator():
            reply: dict[str, Any] = getattr(self._door, name)(*arguments)
        return reply

    def close(self) -> None:
        """Gives back what the door holds; closing twice is fine."""
        door, self._door = self._door, None
        if door is not None:
            door.close()

    @contextmanager
    def _own_generator(self) -> Iterator[None]:
        """Puts this door's state of NumPy's global generator in place, and then the other back."""
        other = np.random.get_state()
        np.random.set_state(self._random)
        try:
            yield
        finally:
            self._random = np.random.get_state()
            np.random.set_state(other)


def _require(self_check: str, library: str) -> None:
    """Checks once in a process that it draws right with the library.

    Raises:
        GraphicsError: see `LocalDoor`.
    """
    from actors.environments.robosuite_process.start import check_graphics

    global _library, _checked
    if _library not in (None, library):
        raise GraphicsError(f"this process draws with {_library} already")
    _library = library
    if not _checked:
        check_graphics(self_check)
        _checked = True


@contextmanager
def _variables(values: dict[str, str | None]) -> Iterator[None]:
    """Sets environment variables, None removes one, and puts back what was there."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
