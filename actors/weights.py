"""The newest weights, fetched between two steps without waiting for them."""

from __future__ import annotations

import logging
import time
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError

logger = logging.getLogger(__name__)

Weights = dict[str, Any]  # parameter name -> array


class WeightFeed:
    """Follows a hub: asks, lets the answer and then the weights arrive, hands them over when there.

    The hub is any Ray actor with `newest(known_mark) -> (mark, updates, [reference]) | None`. A hub
    that is being started again, or weights whose owner died, are tried again at the next poll: the
    actor goes on with what it has.
    """

    def __init__(self, hub: ActorHandle) -> None:
        self._hub = hub
        self._mark: str | None = None
        self._answer: Any = None  # pending answer of the hub
        self._arriving: tuple[str, int, Any] | None = None  # mark, updates, reference on its way

    def poll(self) -> tuple[int, Weights] | None:
        """Takes one step towards newer weights; returns (updates, weights) when they are here.

        Never waits: at most one small local look-up. Call it now and then between steps.
        """
        try:
            if self._arriving is not None:
                return self._take()
            if self._answer is None:
                self._answer = self._hub.newest.remote(self._mark)
            elif _is_here(self._answer):
                self._receive()
        except RayError as error:
            logger.warning("Newer weights could not be fetched, going on with the old: %s", error)
            self._answer = self._arriving = None
        return None

    def wait(self, updates: int, timeout_s: float) -> tuple[int, Weights] | None:
        """Waits for weights of exactly `updates` updates; None if the newest known are those.

        Raises:
            TimeoutError: the hub has no such weights within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        self._answer = self._arriving = None
        try:
            found = ray.get(self._hub.newest.remote(self._mark), timeout=timeout_s)
            if found is None:
                return None
            mark, version, (reference,) = found
            left = max(0.0, deadline - time.monotonic())
            weights = ray.get(reference, timeout=left)
        except GetTimeoutError as error:
            raise TimeoutError(f"No weights from the hub within {timeout_s:g} s.") from error
        if version != updates:
            raise TimeoutError(
                f"The hub holds weights of {version} updates where {updates} were asked for: "
                "does a second learner publish to it?"
            )
        self._mark = mark
        return version, weights

    def forget(self) -> None:
        """Takes every publication for new again, after the weights in use were replaced."""
        self._mark = None
        self._answer = self._arriving = None

    def _receive(self) -> None:
        found, self._answer = ray.get(self._answer), None
        if found is not None:
            mark, updates, (reference,) = found
            self._arriving = (mark, updates, reference)

    def _take(self) -> tuple[int, Weights] | None:
        assert self._arriving is not None
        mark, updates, reference = self._arriving
        if not _is_here(reference):
            return None
        weights = ray.get(reference)
        self._mark, self._arriving = mark, None
        return updates, weights


def _is_here(reference: Any) -> bool:
    ready, _ = ray.wait([reference], timeout=0, fetch_local=True)
    return bool(ready)
