"""The traffic that every replay store is measured with, and the loops that time it.

Imports nothing but NumPy, since other Pythons run it, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

FRAME = (100, 100, 3)  # uint8
ACTION = (6,)  # float32
EPISODE = 256  # steps
CHUNK = 32  # steps, the unit in which writers count
LENGTH, BATCH = 32, 32  # T and B of a batch

# The fields of a step: shape and dtype.
FIELDS: dict[str, tuple[tuple[int, ...], str]] = {
    "observation": (FRAME, "uint8"),
    "action": (ACTION, "float32"),
    "reward": ((), "float32"),
    "is_first": ((), "bool"),
    "is_last": ((), "bool"),
    "discount": ((), "float32"),
}
STEP_BYTES = sum(int(np.prod(s)) * np.dtype(dtype).itemsize for s, dtype in FIELDS.values())
BATCH_BYTES = LENGTH * BATCH * STEP_BYTES


class Steps:
    """Endless episodes of `EPISODE` steps, whose frames are those of a file in turn.

    Args:
        path: uint8 (N, *FRAME) in NumPy's format.
        seed: where in the file the first episode begins.
    """

    def __init__(self, path: str | Path, seed: int) -> None:
        self._frames = np.load(path)
        self._next = seed * 97 % len(self._frames)
        self._action = np.linspace(-1.0, 1.0, *ACTION, dtype=np.float32)

    def episode(self) -> Iterator[dict[str, Any]]:
        """Gives the steps of one episode; a frame is a view of the file's."""
        for index in range(EPISODE):
            yield {
                "observation": self._frames[self._next],
                "action": self._action,
                "reward": np.float32(1.0),
                "is_first": np.bool_(index == 0),
                "is_last": np.bool_(index == EPISODE - 1),
                "discount": np.float32(1.0),
            }
            self._next = (self._next + 1) % len(self._frames)


def write(
    advance: Callable[[], int],
    flush: Callable[[], object],
    start_at: float,
    seconds: float | None,
    agent_steps: int | None,
) -> dict[str, float]:
    """Writes from `start_at` for some seconds, or so many steps; ends when all is acknowledged.

    Args:
        advance: writes some steps and returns how many.
        flush: waits until everything written is stored.
        start_at: of the system's clock; later if that is over.
        seconds: how long to go on; None: until `agent_steps` are written.
        agent_steps: see `seconds`.

    Returns:
        `amount` (steps stored), `begin` and `end` on the system's clock.
    """
    time.sleep(max(0.0, start_at - time.time()))
    begin, amount = time.time(), 0
    while amount < agent_steps if agent_steps is not None else time.time() < begin + (seconds or 0):
        amount += advance()
    flush()
    return {"amount": amount, "begin": begin, "end": time.time()}


def read(next_batch: Callable[[], object], start_at: float, seconds: float) -> dict[str, float]:
    """Reads batches all the time and counts those from `start_at` on; returns as `write`.

    What was fetched ahead before is used up until then.
    """
    next_batch()
    while time.time() < start_at:
        next_batch()
    begin, amount = time.time(), 0
    while amount == 0 or time.time() < begin + seconds:
        next_batch()
        amount += 1
    return {"amount": amount, "begin": begin, "end": time.time()}
