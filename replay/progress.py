"""How far a long load or save has come, told now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

QUIET_S = 5.0  # between two lines at least
Tell = Callable[[str, int, int], None]  # (what is being done, bytes done, bytes in all)

logger = logging.getLogger(__name__)


class Progress:
    """Counts the bytes of one task after another, and logs a line at most every `QUIET_S` seconds.

    Written by one thread; others may read it.

    Attributes:
        task: What is being done, such as "checking".
        done: Bytes of it done.
        total: Bytes of it in all.
    """

    def __init__(self, subject: str = "Replay snapshot", tell: Tell | None = None) -> None:
        """`subject` begins the lines; `tell` is called after every step of a few megabytes."""
        self.task, self.done, self.total = "", 0, 0
        self._subject = subject
        self._tell = tell
        self._told_at = time.monotonic()

    def begin(self, task: str, total: int) -> None:
        """Begins a task of `total` bytes."""
        self.task, self.done, self.total = task, 0, total
        self.advance(0)

    def advance(self, nbytes: int) -> None:
        """Counts `nbytes` more as done."""
        self.done += nbytes
        if self._tell is not None:
            self._tell(self.task, self.done, self.total)
        if time.monotonic() - self._told_at >= QUIET_S:
            self._told_at = time.monotonic()
            logger.info("%s: %s.", self._subject, as_text(self.task, self.done, self.total))


def as_text(task: str, done: int, total: int) -> str:
    """Such as "checking 1.25 of 3.00 GiB"."""
    return f"{task} {done / 2**30:.2f} of {total / 2**30:.2f} GiB"
