"""Waiting for calls to shards that may take long, as long as they advance."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from replay.progress import QUIET_S, Tell, as_text

ASK_TIMEOUT_S = 1.0  # a shard that is putting steps in place answers only afterwards

logger = logging.getLogger(__name__)


def follow(
    calls: Sequence[Any], shards: Sequence[Any], timeout_s: float, tell: Tell | None = None
) -> list[Any]:
    """Waits for `calls`, each to one of `shards`, and returns those that are not answered.

    Gives up when for `timeout_s` nothing was answered and no shard's `progress` has changed. Every
    few seconds it logs how far they are, all together, and calls `tell`.
    """
    seen: dict[int, tuple[str, int, int]] = {}
    left = len(calls)
    deadline = time.monotonic() + timeout_s
    while True:
        patience_s = max(0.0, min(QUIET_S, deadline - time.monotonic()))
        _, missing = ray.wait(list(calls), num_returns=len(calls), timeout=patience_s)
        if not missing:
            return []
        now = seen | _progress_of(shards)
        if now != seen or len(missing) < left:
            deadline = time.monotonic() + timeout_s
            seen, left = now, len(missing)
            _report(seen, tell)
        elif time.monotonic() >= deadline:
            return list(missing)


def _progress_of(shards: Sequence[Any]) -> dict[int, tuple[str, int, int]]:
    """What the shards that answer at once are doing, by number."""
    asked = [shard.progress.remote() for shard in shards]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=ASK_TIMEOUT_S)
    found = {}
    for index, call in enumerate(asked):
        if call in answered:
            try:
                found[index] = ray.get(call)
            except RayError:
                continue  # being started again: its own call will tell
    return found


def _report(progress: dict[int, tuple[str, int, int]], tell: Tell | None) -> None:
    """Tells how far the shards at the first one's task are, all together."""
    tasks = [task for task, _, _ in progress.values() if task]
    if not tasks:
        return
    of_task = [(done, total) for task, done, total in progress.values() if task == tasks[0]]
    done, total = sum(done for done, _ in of_task), sum(total for _, total in of_task)
    if tell is not None:
        tell(tasks[0], done, total)
    logger.info("Replay shards: %s.", as_text(tasks[0], done, total))
