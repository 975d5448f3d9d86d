"""A policy that follows the learner: which weights act, and how old they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.following import FollowingPolicy


class Module:
    """Acts with its weights."""

    def __init__(self) -> None:
        self.version = -99.0

    def initial_state(self, count: int) -> None:
        return None

    def act(
        self, observation: np.ndarray, state: Any, is_first: np.ndarray, explore: bool
    ) -> tuple[np.ndarray, Any]:
        return np.full((len(is_first), 1), self.version, np.float32), None

    def load_weights(self, weights: dict[str, Any]) -> None:
        self.version = weights["version"]


class Feed:
    """Hands over what `publish` was given, at the next poll."""

    def __init__(self) -> None:
        self.learner_updates: int | None = None
        self.newest: int | None = None
        self.known: int | None = None
        self.polls = 0

    def publish(self, updates: int) -> None:
        self.newest = self.learner_updates = updates

    def poll(self) -> tuple[int, dict[str, Any]] | None:
        self.polls += 1
        if self.newest is None or self.newest == self.known:
            return None
        self.known = self.newest
        return self.known, {"version": float(self.known)}

    def wait(self, timeout_s: float) -> tuple[int, dict[str, Any]] | None:
        if self.newest is None:
            raise TimeoutError("no weights")
        self.learner_updates = self.newest
        return self.poll()

    def forget(self) -> None:
        self.known = None


def _policy(environments: int = 1, poll_agent_steps: int = 3) -> tuple[FollowingPolicy, Feed]:
    feed = Feed()
    more: dict[str, Any] = {"poll_agent_steps": poll_agent_steps, "timeout_s": 1.0}
    return FollowingPolicy(Module(), feed, environments=environments, **more), feed


def _act(policy: FollowingPolicy, environments: int = 1) -> float:
    frames = np.zeros((environments, 4, 4, 3), np.uint8)
    action, _ = policy.act(frames, None, np.zeros(environments, bool), True)
    return float(action[0, 0])


def test_no_step_is_taken_with_weights_that_nobody_published() -> None:
    policy, feed = _policy()
    with pytest.raises(TimeoutError, match="no weights"):
        _act(policy)
    feed.publish(7)
    assert _act(policy) == 7 == policy.updates


def test_after_going_back_to_a_checkpoint_the_next_step_waits_for_the_restored_weights() -> None:
    policy, feed = _policy()
    feed.publish(40)
    assert _act(policy) == 40
    policy.forget()
    assert policy.updates == -1
    feed.publish(20)
    assert _act(policy) == 20


def test_in_lock_step_exactly_the_weights_asked_for_act_even_when_known_before() -> None:
    policy, feed = _policy()
    feed.publish(100)
    policy.take_exactly(100)
    policy.forget()
    policy.take_exactly(100)
    assert _act(policy) == 100
    with pytest.raises(RuntimeError, match="100 updates where 101"):
        policy.take_exactly(101)


def test_in_lock_step_weights_have_no_age() -> None:
    policy, feed = _policy()
    for updates in (0, 5, 10):
        feed.publish(updates)
        policy.take_exactly(updates)
        _act(policy)
    ages = policy.take_ages()
    assert (ages["agent_steps"], ages["sum"], ages["max"]) == (2, 0.0, 0.0)


def test_the_age_grows_with_the_learner_and_not_with_publications() -> None:
    policy, feed = _policy()
    feed.publish(0)
    policy.look()
    for _ in range(10):
        _act(policy)
    feed.learner_updates = 20  # nothing newer is published: 0 to 20 behind, 10 on average
    policy.look()
    ages = policy.take_ages()
    assert (ages["agent_steps"], ages["sum"] / 10, ages["max"]) == (10, 10.0, 20)
    _act(policy)
    feed.learner_updates = 30
    policy.look()
    ages = policy.take_ages()
    assert (ages["agent_steps"], ages["sum"], ages["max"]) == (1, 25.0, 30)


@pytest.mark.parametrize("environments", [1, 4])
def test_the_hub_is_asked_by_agent_steps_however_many_environments_there_are(
    environments: int,
) -> None:
    policy, feed = _policy(environments, poll_agent_steps=48)
    for _ in range(96 // environments):
        policy.look()
    assert feed.polls == 6  # two questions of three looks each
