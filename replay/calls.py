"""Answers of shards: what they return, or the error that they raised, without Ray around it."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayTaskError

from replay.errors import ChunkError, ReplayError, ReplayTimeout


def answer(call: Any, timeout_s: float | None = None) -> Any:
    """What `call` returns.

    Raises the replay error that the shard raised as it is: its message says what to do, and the
    shard's own stack does not. Everything else comes as from `ray.get`.
    """
    try:
        return ray.get(call, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, (ChunkError, ReplayError, ReplayTimeout)):
            raise error.cause from None
        raise


def gone(shard: int, error: Exception) -> ReplayError:
    """What to raise when Ray will not start a shard again."""
    return ReplayError(
        f"Replay shard {shard} is gone and will not be started again ({type(error).__name__}). "
        "The service was stopped or its machine was lost: resume the run from its last checkpoint, "
        "or create the service anew and load its snapshot."
    )
