"""A lock between the processes of a machine: it ends with its holder, and waiting has a limit."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LockTimeout(TimeoutError):
    """Another process holds the lock and did not release it in time."""


@contextmanager
def file_lock(path: Path, timeout_s: float, purpose: str) -> Iterator[None]:
    """Holds the lock of `path` inside the `with` block.

    The file is made if it is missing and stays. The system releases the lock of a process that
    dies. Two locks of one process on the same path exclude each other, too.

    Args:
        path: the file; its folder must exist.
        timeout_s: how long to wait, in seconds.
        purpose: what the holder does, for the message: "making the frames of bear".

    Raises:
        LockTimeout: `timeout_s` have passed.
        OSError: the file cannot be opened or locked.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _wait(handle, path, timeout_s, purpose)
    except BaseException:
        os.close(handle)
        raise
    try:
        yield
    finally:
        os.close(handle)


def _wait(handle: int, path: Path, timeout_s: float, purpose: str) -> None:
    """Blocks until the lock is ours. flock has no time limit of its own, so a thread waits for it.

    After a time-out the handle is closed by the one of both who comes last.
    """
    turn = threading.Lock()
    answered = threading.Event()
    failures: list[OSError] = []
    given_up = False

    def take() -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            failures.append(error)
        with turn:
            if given_up:
                os.close(handle)
            answered.set()

    threading.Thread(target=take, name=f"wait-{path.name}", daemon=True).start()
    in_time = False
    try:
        in_time = answered.wait(timeout_s)
    finally:
        with turn:
            given_up = not in_time
            if answered.is_set() and (given_up or failures):
                os.close(handle)
    if failures:
        raise failures[0]
    if given_up:
        raise LockTimeout(
            f"Another process has been {purpose} for more than {timeout_s:.0f} s and holds {path}: "
            "wait until it is done, or end it, and start again."
        )
