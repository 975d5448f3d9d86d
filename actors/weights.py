"""The newest weights, fetched between two steps without waiting for them."""

from __future__ import annotations

import logging
import time
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError

logger = logging.getLogger(__name__)

Weights = Any  # what was published, arrays in it where the object store has them: not to be changed


class WeightFeed:
    """Follows a hub: asks, lets the answer and then the weights arrive, hands them over when there.

    The hub is any Ray actor with `news(known_mark) -> (learner's updates, publication or None)`,
    a publication being (mark, updates, [reference]). A hub that is being started again, or weights
    whose owner died, are tried again at the next poll: the actor goes on with what it has.

    Attributes:
        learner_updates: Updates that the learner had made at the hub's last answer; None if there
            was no answer since this was set to None.
    """

    def __init__(self, hub: ActorHandle) -> None:
        self._hub = hub
        self.learner_updates: int | None = None
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
                self._answer = self._hub.news.remote(self._mark)
            elif _is_here(self._answer):
                self._receive()
        except RayError as error:
            logger.warning("Newer weights could not be fetched, going on with the old: %s", error)
            self._answer = self._arriving = None
        return None

    def wait(self, timeout_s: float) -> tuple[int, Weights] | None:
        """Waits for the newest weights; None if those that were handed over last are the newest.

        Raises:
            TimeoutError: the hub does not answer within `timeout_s`, or holds no weights.
        """
        deadline = time.monotonic() + timeout_s
        self._answer = self._arriving = None
        try:
            self.learner_updates, found = ray.get(
                self._hub.news.remote(self._mark), timeout=timeout_s
            )
            if found is None:
                if self._mark is None:
                    raise TimeoutError(
                        "The weight hub holds no weights: the learner publishes some before actors "
                        "step, so the hub was started again. It has them after the next updates."
                    )
                return None
            mark, updates, (reference,) = found
            weights = ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
        except GetTimeoutError as error:
            raise TimeoutError(
                f"No weights from the hub within {timeout_s:g} s: is its process alive? Else raise "
                "actors.timeout_s."
            ) from error
        self._mark = mark
        return updates, weights

    def forget(self) -> None:
        """Takes every publication for new again, after the weights in use were replaced."""
        self._mark = None
        self._answer = self._arriving = None

    def _receive(self) -> None:
        (self.learner_updates, found), self._answer = ray.get(self._answer), None
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
