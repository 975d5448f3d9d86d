"""New priorities on their way from the learner's device back to replay."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

Origin = TypeVar("Origin")

logger = logging.getLogger(__name__)


class PriorityReturn(Generic[Origin]):
    """Sends what updates found, in their order, without waiting for the device.

    On a CPU priorities are sent as they are added. On a GPU their copy to the host is enqueued
    behind the update, and they are sent by the first later call that finds it done, mostly one
    update later.

    Args:
        send: Takes a batch's origin and its priorities float32 (B,); does not wait.
    """

    def __init__(self, send: Callable[[Origin, np.ndarray], None]) -> None:
        self._send = send
        self._pending: deque[tuple[Origin, Tensor, torch.cuda.Event | None]] = deque()
        self._warned = False

    def add(self, origin: Origin, priorities: Tensor) -> None:
        """Take the priorities (B,) of the batch from `origin`, on any device; send what is there.

        Priorities that are not finite are dropped, with a warning the first time.
        """
        copied = None
        host = priorities.to("cpu", non_blocking=True)  # from a GPU into pinned memory
        if priorities.is_cuda:
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(priorities.device))
        self._pending.append((origin, host, copied))
        while self._pending and ((event := self._pending[0][2]) is None or event.query()):
            self._send_first()

    def flush(self) -> None:
        """Wait for the device and send all that was added."""
        while self._pending:
            if (event := self._pending[0][2]) is not None:
                event.synchronize()
            self._send_first()

    def clear(self) -> None:
        """Drop what was not sent: its windows are no longer those of replay."""
        self._pending.clear()

    def _send_first(self) -> None:
        origin, host, _ = self._pending.popleft()
        priorities = host.numpy()
        if np.isfinite(priorities).all():
            self._send(origin, priorities)
        elif not self._warned:
            self._warned = True
            logger.warning(
                "TD errors are no longer finite, so replay's priorities stay as they are: the "
                "learner has diverged. Lower learner.critic_rate or raise behavior.reward_divisor."
            )
