"""A policy that follows the learner: the module, the weights in it, and how old they are."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from actors.environments.interface import Observation

LOOKS_PER_ANSWER = 3  # ask the hub, receive its answer, receive the weights


class Module(Protocol):
    """What is followed with; `learners.module.AgentModule` is one."""

    def initial_state(self, count: int, /) -> Any:
        """See `actors.worker.Policy`."""
        ...

    def act(
        self, observation: Observation, state: Any, is_first: np.ndarray, explore: bool, /
    ) -> tuple[np.ndarray, Any]:
        """See `actors.worker.Policy`."""
        ...

    def load_weights(self, weights: Any, /) -> None:
        """Replaces the weights by those that the feed gave, which are only read."""
        ...


class Feed(Protocol):
    """Where weights come from; `actors.weights.WeightFeed` is one."""

    learner_updates: int | None

    def poll(self) -> tuple[int, Any] | None:
        """Takes one step towards newer weights without waiting."""
        ...

    def wait(self, timeout_s: float, /) -> tuple[int, Any] | None:
        """Waits for the newest weights."""
        ...

    def forget(self) -> None:
        """Takes every publication for new again."""
        ...


class FollowingPolicy:
    """Acts with published weights only, and never with those that the module was made with.

    Follows `actors.worker.Policy`. The first `act` waits for weights, so an actor that is new or
    was put back to a checkpoint takes no step with weights that nobody trained.

    The age of the weights is counted in updates: how many the learner had made when an agent step
    was taken, less those behind the weights that took it. The learner's count is known at the
    hub's answers and taken to grow evenly between two of them.

    Args:
        module: The policy.
        feed: Gives the weights.
        environments: Agent steps of one round.
        poll_agent_steps: Agent steps between two questions to the hub.
        timeout_s: Deadline of every wait for weights.

    Attributes:
        updates: Updates behind the weights in use; -1 before the first.
    """

    def __init__(
        self,
        module: Module,
        feed: Feed,
        *,
        environments: int,
        poll_agent_steps: int,
        timeout_s: float,
    ) -> None:
        self._module = module
        self._feed = feed
        self._environments = environments
        self._rounds_between_looks = max(1, poll_agent_steps // (LOOKS_PER_ANSWER * environments))
        self._rounds_to_look = 0
        self._timeout_s = timeout_s
        self.updates = -1
        self._learner_updates: int | None = None  # at the hub's last answer
        self._steps = 0  # agent steps since then
        self._versions = 0  # sum over them of the updates behind the weights that took them
        self._ages = {"agent_steps": 0, "sum": 0.0, "max": 0.0}

    def initial_state(self, count: int, /) -> Any:
        """See `actors.worker.Policy`."""
        return self._module.initial_state(count)

    def act(
        self, observation: Observation, state: Any, is_first: np.ndarray, explore: bool, /
    ) -> tuple[np.ndarray, Any]:
        """See `actors.worker.Policy`.

        Raises:
            TimeoutError: there are no weights within `timeout_s`.
        """
        if self.updates < 0:
            self._take(self._feed.wait(self._timeout_s))
        self._steps += len(is_first)
        self._versions += self.updates * len(is_first)
        return self._module.act(observation, state, is_first, explore)

    def look(self) -> None:
        """Looks for newer weights if it is time to; never waits. Call it before every round."""
        self._rounds_to_look -= 1
        if self._rounds_to_look <= 0:
            self._take(self._feed.poll())
            self._rounds_to_look = self._rounds_between_looks

    def take_exactly(self, updates: int) -> None:
        """Waits until the weights in use are those of `updates` updates.

        Raises:
            TimeoutError: the hub does not answer within `timeout_s`.
            RuntimeError: it holds others.
        """
        self._feed.learner_updates = self._learner_updates  # nobody learned while this actor acted
        self._close_interval()
        if updates != self.updates:
            self._take(self._feed.wait(self._timeout_s))
        if updates != self.updates:
            raise RuntimeError(
                f"The hub holds weights of {self.updates} updates where {updates} were asked for: "
                "does a second learner publish to it?"
            )

    def forget(self) -> None:
        """Drops the weights in use: the next step waits for those that are published now."""
        self._feed.forget()
        self._feed.learner_updates = None
        self.updates = -1
        self._learner_updates = None
        self._steps = self._versions = 0

    def take_ages(self) -> dict[str, float]:
        """Returns `agent_steps`, and `sum` and `max` of the ages of their weights, since the last
        call.
        """
        ages, self._ages = self._ages, {"agent_steps": 0, "sum": 0.0, "max": 0.0}
        return ages

    def _take(self, found: tuple[int, Any] | None) -> None:
        self._close_interval()
        if found is not None:
            updates, weights = found
            self._module.load_weights(weights)
            self.updates = updates

    def _close_interval(self) -> None:
        """Counts the ages since the hub's last answer, if there is a new one."""
        now, self._feed.learner_updates = self._feed.learner_updates, None
        if now is None:
            return
        before = now if self._learner_updates is None else self._learner_updates
        if self._steps:
            self._ages["agent_steps"] += self._steps
            self._ages["sum"] += max(0.0, self._steps * (before + now) / 2 - self._versions)
            self._ages["max"] = max(self._ages["max"], now - self.updates)
        self._learner_updates = now
        self._steps = self._versions = 0
