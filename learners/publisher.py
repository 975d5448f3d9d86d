"""Weights out of a learner, while it goes on learning.

    between two updates:      flatten the weights on their device      (the learner's thread)
    beside the next updates:  wait for the copy off a GPU, send it     (a thread of its own)

This file imports no ray: what sending means is up to who makes the publisher.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

import numpy as np
import torch

from learners.weights import FlatWeights, Published

CLOSE_S = 10.0  # how long `close` waits for weights on their way
RETRY_S = 1.0  # after weights could not be sent, until newer ones are tried

logger = logging.getLogger(__name__)


class WeightPublisher:
    """Copies weights as they are after an update and sends the copy in a thread of its own.

    One copy is on its way at a time, in memory that is made once. The learner waits neither for a
    GPU to reach the copy nor for the sending.

    Args:
        weights: Of the agent that is trained, on the device where it is trained.
        send: Called by the thread with a count of updates and the weights after them. Their array
            is filled again after it returns.
        retry_on: Errors of `send` after which newer weights are sent, with a warning. Any other is
            raised by the next call of `offer` or `publish`.

    Attributes:
        published: Updates behind the newest weights that were sent; -1 before the first.
    """

    def __init__(
        self,
        weights: FlatWeights,
        send: Callable[[int, Published], None],
        retry_on: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> None:
        self._layout = weights.layout
        self._send = send
        self._retry_on = retry_on
        on_gpu = weights.device.type == "cuda"
        self._copy: _Copy = _DeviceCopy(weights) if on_gpu else _HostCopy(weights)
        self._thread: ThreadPoolExecutor | None = None
        self._sending: Future[int] | None = None
        self._retry_at = 0.0
        self.published = -1

    def offer(self, updates: int) -> bool:
        """Begin to publish the weights after `updates` updates, which are those of now.

        Returns False, having done nothing, while earlier ones are on their way. Never waits: on a
        CPU it takes one copy of the weights, on a GPU the launch of one.
        """
        self.look()
        if self._sending is not None or time.monotonic() < self._retry_at:
            return False
        self._begin(updates)
        return True

    def publish(self, updates: int, timeout_s: float) -> None:
        """Publish the weights after `updates` updates; they are sent on return.

        Raises:
            TimeoutError: Sending them, or earlier ones before them, took longer than `timeout_s`.
            Exception: What `send` raised for them.
        """
        deadline = time.monotonic() + timeout_s
        if self._sending is not None:
            self._wait(deadline, timeout_s)
            self.look()
        self._begin(updates)
        sending = self._wait(deadline, timeout_s)
        self._sending = None
        self.published = sending.result()

    def look(self) -> None:
        """Note whether what was on its way has been sent; never waits."""
        if self._sending is None or not self._sending.done():
            return
        sending, self._sending = self._sending, None
        try:
            self.published = sending.result()
        except self._retry_on as error:
            self._retry_at = time.monotonic() + RETRY_S
            logger.warning("Weights could not be sent, newer ones will be: %s", error)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """End the thread; weights after that start another.

        What is on its way is waited for up to `timeout_s`: a thread that still sends while the
        process ends could use what is gone by then.
        """
        if self._sending is not None:
            wait([self._sending], timeout_s)
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None

    def _begin(self, updates: int) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "publish")
        self._copy.begin()
        self._sending = self._thread.submit(self._finish, updates)

    def _finish(self, updates: int) -> int:
        self._send(updates, (self._layout, self._copy.wait()))
        return updates

    def _wait(self, deadline: float, timeout_s: float) -> Future[int]:
        assert self._sending is not None
        try:
            self._sending.exception(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise TimeoutError(
                f"Weights were not sent within {timeout_s:g} s: is the process that they go to "
                "alive and not starved of CPU?"
            ) from None
        return self._sending


class _Copy(Protocol):
    """Memory for one copy of the weights."""

    def begin(self) -> None:
        """Copy the weights as they are now, or enqueue that; the last copy was waited for."""

    def wait(self) -> np.ndarray:
        """Wait for the copy and return it, float32 (size,), to be read until the next `begin`.

        Lets other threads run meanwhile.
        """


class _HostCopy:
    """Weights of a CPU: done when `begin` returns."""

    def __init__(self, weights: FlatWeights) -> None:
        self._weights = weights
        self._flat = torch.empty(weights.size)

    def begin(self) -> None:
        self._weights.flatten(self._flat)

    def wait(self) -> np.ndarray:
        return self._flat.numpy()


class _DeviceCopy:
    """Weights of a GPU: flattened there between updates, then copied off on a stream of its own."""

    def __init__(self, weights: FlatWeights) -> None:
        self._weights = weights
        self._flat = torch.empty(weights.size, device=weights.device)
        self._pinned = torch.empty(weights.size, pin_memory=True)
        self._stream = torch.cuda.Stream(weights.device)
        self._flattened = torch.cuda.Event()
        self._copied = torch.cuda.Event(blocking=True)  # who waits sleeps, and keeps no core busy

    def begin(self) -> None:
        current = torch.cuda.current_stream(self._weights.device)
        self._weights.flatten(self._flat)
        self._flattened.record(current)
        with torch.cuda.stream(self._stream):
            self._flattened.wait(self._stream)
            self._pinned.copy_(self._flat, non_blocking=True)
            self._copied.record(self._stream)

    def wait(self) -> np.ndarray:
        self._copied.synchronize()
        return self._pinned.numpy()
