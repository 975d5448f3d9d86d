"""The weight hub on Ray: what it keeps, who outlives whom, and how actors come to their weights."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
from ray.actor import ActorHandle

from actors.following import FollowingPolicy
from actors.weights import WeightFeed
from rl_system.hub import find_hub, start_hub

LAYOUT = (("weight", (500_000,)),)
TIMEOUT_S = 30.0

_names = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture
def hub(cluster: None) -> Iterator[ActorHandle]:
    started = start_hub(f"hub-{next(_names)}")
    yield started
    ray.kill(started)


def weights(value: float) -> tuple[Any, np.ndarray]:
    return LAYOUT, np.full(500_000, value, np.float32)  # 2 MB: not sent inside a message


def ask(call: Any) -> Any:
    return ray.get(call, timeout=TIMEOUT_S)


def newest(hub: ActorHandle) -> tuple[int, np.ndarray]:
    _, updates, (reference,) = ask(hub.newest.remote(None))
    layout, values = ask(reference)
    assert layout == LAYOUT
    return updates, values


class Module:
    """Acts with the first of its weights, which it reads where they are."""

    def __init__(self) -> None:
        self.values = np.zeros(1, np.float32)

    def initial_state(self, count: int, /) -> None:
        return None

    def act(self, observation: Any, state: Any, is_first: Any, explore: bool, /) -> Any:
        return np.full((len(is_first), 1), self.values[0]), None

    def load_weights(self, published: tuple[Any, np.ndarray], /) -> None:
        assert published[0] == LAYOUT
        self.values = published[1]


def following(hub: ActorHandle) -> tuple[FollowingPolicy, Module]:
    module = Module()
    feed = WeightFeed(hub)
    return (
        FollowingPolicy(module, feed, environments=1, poll_agent_steps=1, timeout_s=TIMEOUT_S),
        module,
    )


def act(policy: FollowingPolicy) -> float:
    action, _ = policy.act(np.zeros((1, 2, 2, 3), np.uint8), None, np.zeros(1, bool), True)
    return float(action[0, 0])


def look_until(policy: FollowingPolicy, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not done():
        policy.look()
        assert time.monotonic() < deadline


def look_for_ages(policy: FollowingPolicy) -> dict[str, float]:
    """Returns the ages of the steps since they were last asked for, once the hub has answered."""
    ages = policy.take_ages()
    deadline = time.monotonic() + TIMEOUT_S
    while not ages["agent_steps"]:
        policy.look()
        ages = policy.take_ages()
        assert time.monotonic() < deadline
    return ages


def test_there_is_nothing_before_the_first_publication_and_each_is_given_once(
    hub: ActorHandle,
) -> None:
    assert ask(hub.news.remote(None)) == (-1, None)
    mark = ask(hub.publish.remote(3, weights(1.0)))
    assert ask(hub.newest.remote(mark)) is None
    assert ask(hub.newest.remote("another life's"))[:2] == (mark, 3)
    assert ask(hub.publish.remote(3, weights(1.0))) != mark


def test_weights_outlive_the_process_that_published_them(hub: ActorHandle) -> None:
    @ray.remote(num_cpus=0)
    class Publisher:
        def publish(self, hub: ActorHandle) -> int:
            ray.get(hub.publish.remote(7, weights(7.0)))
            return os.getpid()

    publisher = Publisher.remote()
    os.kill(ask(publisher.publish.remote(hub)), signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayActorError):
        for _ in range(20):
            ask(publisher.publish.remote(hub))
    updates, values = newest(hub)
    assert updates == 7 and (values == 7.0).all()


def test_weights_are_read_in_place_and_stay_whole_while_newer_ones_are_published(
    hub: ActorHandle,
) -> None:
    ask(hub.publish.remote(1, weights(1.0)))
    _, values = newest(hub)
    assert not values.flags.writeable and not values.flags.owndata
    for updates in range(2, 60):  # 2 MB each, more than the store holds
        ask(hub.publish.remote(updates, weights(updates)))
    assert (values == 1.0).all()
    updates, values = newest(hub)
    assert updates == 59 and (values == 59.0).all()


def test_a_hub_that_was_killed_is_started_again_empty_and_takes_new_weights(
    hub: ActorHandle,
) -> None:
    policy, module = following(hub)
    ask(hub.publish.remote(1, weights(1.0)))
    assert act(policy) == 1.0
    ray.kill(hub, no_restart=False)
    ask(hub.publish.remote(2, weights(2.0)))
    assert act(policy) == 1.0
    look_until(policy, lambda: policy.updates == 2)
    assert act(policy) == 2.0 and (module.values == 2.0).all()


def test_the_reported_age_is_how_far_the_learner_was_ahead_of_the_weights_that_acted(
    hub: ActorHandle,
) -> None:
    policy, _ = following(hub)
    ask(hub.publish.remote(10, weights(10.0)))
    for _ in range(4):
        assert act(policy) == 10.0
    ask(hub.count.remote(30))  # it learns on, and publishes nothing
    # 0 to 20 behind, 10 on average
    assert look_for_ages(policy) == {"agent_steps": 4, "sum": 40.0, "max": 20}
    ask(hub.publish.remote(40, weights(40.0), 50))  # old already when they are there
    look_until(policy, lambda: policy.updates == 40)
    for _ in range(3):
        assert act(policy) == 40.0
    assert look_for_ages(policy) == {"agent_steps": 3, "sum": 30.0, "max": 10}


def test_going_back_to_a_checkpoint_lowers_the_learners_count(hub: ActorHandle) -> None:
    ask(hub.publish.remote(100, weights(1.0), 120))
    ask(hub.publish.remote(80, weights(0.5)))
    learner_updates, (_, updates, _) = ask(hub.news.remote(None))
    assert (learner_updates, updates) == (80, 80)


def test_a_hub_is_found_by_the_name_of_its_run(cluster: None) -> None:
    with pytest.raises(ValueError, match="no-such-run"):
        find_hub("no-such-run")
    started = start_hub("found")
    try:
        ask(started.publish.remote(5, weights(5.0)))
        assert newest(find_hub("found"))[0] == 5
    finally:
        ray.kill(started)
