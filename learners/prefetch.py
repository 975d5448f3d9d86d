"""A thread that keeps batches ready, so that an update never waits for data that could be there."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

_CHECK_S = 0.2  # how soon the thread notices that it shall stop


class NoBatch(TimeoutError):
    """No batch was ready in time; the message says since when. The call can be repeated."""


class Prefetcher(Generic[Item]):
    """Calls `next_batch` in a thread of its own and holds up to `depth` results, in order.

    Args:
        next_batch: Returns the next batch, waiting for it up to the seconds that it is given;
            raises TimeoutError if there is none by then (it is simply asked again). Only the thread
            calls it. Any other exception ends the thread and is raised by the next `get`.
        depth: Batches held ready beside the one that `next_batch` is making.
        wait_s: Seconds that `next_batch` is given each time. `close` may take that long.
        idle: Called by the thread again and again while enough batches are ready.
    """

    def __init__(
        self,
        next_batch: Callable[[float], Item],
        depth: int,
        *,
        wait_s: float = 1.0,
        idle: Callable[[], None] | None = None,
    ) -> None:
        if depth < 1:
            raise ValueError(f"prefetch depth is {depth}; hold at least 1 batch ready.")
        self._next_batch = next_batch
        self._wait_s = wait_s
        self._idle = idle
        self._ready: queue.Queue[Item] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._last_timeout: TimeoutError | None = None
        self._received_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def get(self, timeout_s: float) -> Item:
        """Returns the next batch.

        Raises:
            NoBatch: none within `timeout_s`; the message carries what `next_batch` last said.
            Exception: what `next_batch` raised, once the batches made before it were handed out.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            try:
                batch = self._ready.get(timeout=min(_CHECK_S, left)) if left > 0 else self._now()
            except queue.Empty:
                if self._error is not None and self._ready.empty():
                    raise self._error from None
                if self._stop.is_set():
                    raise RuntimeError("The prefetcher is closed: make a new one.") from None
                if left <= 0:
                    raise self._no_batch() from None
                continue
            self._received_at = time.monotonic()
            return batch

    @property
    def ready(self) -> int:
        """Batches that `get` would return at once."""
        return self._ready.qsize()

    def close(self, timeout_s: float = 10.0) -> None:
        """Ends the thread and drops what is ready. Safe to call twice.

        Raises:
            TimeoutError: `next_batch` did not return within `timeout_s`.
        """
        self._stop.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"The prefetch thread has not ended within {timeout_s:g} s.")
        while not self._ready.empty():
            self._ready.get_nowait()

    def _now(self) -> Item:
        return self._ready.get_nowait()

    def _no_batch(self) -> NoBatch:
        waited = time.monotonic() - self._received_at
        reason = "" if self._last_timeout is None else f" {self._last_timeout}"
        return NoBatch(f"The learner has waited {waited:.1f} s for a batch.{reason}")

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                batch = self._next_batch(self._wait_s)
            except TimeoutError as error:
                self._last_timeout = error
                continue
            except BaseException as error:  # handed to the caller of `get`, whatever it is
                self._error = error
                return
            while not self._stop.is_set():
                try:
                    self._ready.put(batch, timeout=_CHECK_S)
                    break
                except queue.Full:
                    if self._idle is not None:
                        self._idle()
