"""The learner on a real replay service: what it draws, and what its priorities do to the draws."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from learners.learner import SystemLearner
from learners.module import AgentModule
from learners.settings import ObjectiveSettings
from replay import Chunk, ChunkKey, ReplaySettings, Workload, step_schema
from replay.service import ReplayService
from rl_system.hub import start_hub
from tests.learners.conftest import ACTION_DIMS, BEHAVIOR, LEARNER, MODEL, acting_arrays

SCHEMA = step_schema((20, 20, 3), ACTION_DIMS)
EPISODES, EPISODE_AGENT_STEPS = 20, 12
LOUD = range(0, EPISODES, 4)  # episodes whose rewards are large, and so are their TD errors

Start = Callable[..., tuple[SystemLearner, ReplayService]]


@pytest.fixture
def start(cluster: None) -> Iterator[Start]:
    """Starts a learner beside two shards that hold loud and quiet episodes."""
    ends: list[Callable[[], None]] = []
    numbers = itertools.count()

    def make(
        sampler: str, order: str = "fused", publish_updates: int = 50, mirror_replay: bool = False
    ) -> tuple[SystemLearner, ReplayService]:
        prefix = f"learner-{sampler}-{order}-{next(numbers)}"
        settings = replace(
            LEARNER,
            batch_size=8,
            update_order=order,
            report_updates=1,
            publish_updates=publish_updates,
            mirror_replay=mirror_replay,
        )
        replay = ReplaySettings(
            shards=2,
            capacity_agent_steps=1000,
            minimum_agent_steps=10,
            sampler=sampler,
            timeout_s=30.0,
            cpus_per_shard=0.1,
        )
        load = Workload(batch_length=settings.sequence_length, batch_size=settings.batch_size)
        service = ReplayService.create(prefix, SCHEMA, replay, load)
        ends.append(service.stop)
        hub = start_hub(prefix)
        ends.append(lambda: ray.kill(hub))
        write_episodes(service)
        sections = {"model": MODEL, "objective": ObjectiveSettings(), "behavior": BEHAVIOR}
        sections |= {"system": "core", "learner": settings}
        config = AlgorithmConfig()
        config.plane = sections | {"prefix": prefix, "seed": 0}
        spec = RLModuleSpec(
            module_class=AgentModule,
            observation_space=gym.spaces.Box(0, 255, (20, 20, 3), np.uint8),
            action_space=gym.spaces.Box(-1.0, 1.0, (ACTION_DIMS,)),
            model_config=sections,
        )
        learner = SystemLearner(config=config, module_spec=spec)
        learner.build()
        ends.append(learner.shutdown)
        return learner, service

    yield make
    for end in reversed(ends):
        end()


def write_episodes(service: ReplayService) -> None:
    random = np.random.default_rng(0)
    writer = service.writer("actor")
    for number in range(EPISODES):
        steps = SCHEMA.empty(EPISODE_AGENT_STEPS)
        steps["observation"][...] = random.integers(0, 256, steps["observation"].shape)
        steps["action"][...] = random.uniform(-1, 1, steps["action"].shape)
        steps["reward"][...] = 20.0 if number in LOUD else 0.0
        steps["discount"][...] = 1.0
        steps["is_first"][...] = np.arange(EPISODE_AGENT_STEPS) == 0
        steps["is_last"][...] = np.arange(EPISODE_AGENT_STEPS) == EPISODE_AGENT_STEPS - 1
        writer.write(Chunk(ChunkKey("actor", number, 0), steps))
        writer.flush()  # episodes sent together may arrive in any order
    writer.close()


def loud_share(service: ReplayService) -> float:
    """The share of loud episodes' windows in batches drawn as the service's settings say."""
    reader = service.reader(batch_size=50, in_flight=0)
    found = [(reader.read()["reward"][0] > 0).mean() for _ in range(4)]
    reader.close()
    return float(np.mean(found))


@pytest.mark.parametrize("order", ["sequential", "fused"])
def test_in_lock_step_windows_with_larger_errors_come_to_be_drawn_oftener(
    start: Start, order: str
) -> None:
    learner, service = start("prioritised", order)
    uniform = len(LOUD) / EPISODES
    assert loud_share(service) == pytest.approx(uniform, abs=0.1)
    result = learner.update(updates=40)
    assert result["new_updates"] == 40
    assert result["metrics"]["priority/mean"] > 0
    assert 0 < result["metrics"]["importance/mean"] < 1
    assert loud_share(service) > 1.5 * uniform


def test_in_lock_step_equal_seeds_give_equal_weights(start: Start) -> None:
    """Every draw knows of the priorities of every update before it."""
    weights = []
    for _ in range(2):
        learner, _ = start("prioritised")
        learner.update(updates=40)
        weights.append(learner.get_state()["rl_module"]["default_policy"])
    assert weights[0].keys() == weights[1].keys() and weights[0]
    for name, value in weights[0].items():
        assert np.array_equal(value, weights[1][name]), name


def test_in_lock_step_weights_are_the_same_with_replay_mirrored(start: Start) -> None:
    weights = []
    for mirror_replay in (False, True):
        learner, _ = start("prioritised", mirror_replay=mirror_replay)
        result = learner.update(updates=20)
        weights.append(learner.get_state()["rl_module"]["default_policy"])
    for name, value in weights[0].items():
        assert np.array_equal(value, weights[1][name]), name
    assert 0 < result["reader"]["uploaded_agent_steps"] <= EPISODES * EPISODE_AGENT_STEPS


def updates_by_time(learner: SystemLearner, count: int) -> dict[str, Any]:
    """Has the learner make so many updates in slices of time, and returns its last report."""
    deadline = time.monotonic() + 120
    while True:
        result = learner.update(seconds=0.5)
        assert result is not None and time.monotonic() < deadline
        count -= result["new_updates"]
        if count <= 0:
            return result


def test_in_a_slice_of_time_every_step_is_uploaded_once_to_the_mirror(start: Start) -> None:
    learner, service = start("prioritised", mirror_replay=True)
    result = updates_by_time(learner, 60)
    assert result["reader"]["mapped_shards"] == 2
    assert 0 < result["reader"]["uploaded_agent_steps"] <= EPISODES * EPISODE_AGENT_STEPS
    assert loud_share(service) > 1.5 * len(LOUD) / EPISODES  # weights and priorities find their way
    learner.reconnect()
    assert updates_by_time(learner, 1)["updates"] > 60


def test_in_a_slice_of_time_too(start: Start) -> None:
    learner, service = start("prioritised")
    result = updates_by_time(learner, 60)
    assert loud_share(service) > 1.5 * len(LOUD) / EPISODES
    assert result["reader"]["mapped_shards"] == 2


@pytest.mark.parametrize("sampler", ["windows", "episodes", "recency"])
def test_other_samplers_weigh_nothing_and_send_nothing_back(start: Start, sampler: str) -> None:
    learner, service = start(sampler)
    metrics = learner.update(updates=20)["metrics"] | learner.update(seconds=0.2)["metrics"]
    assert metrics and not {"priority/mean", "importance/mean"} & set(metrics)
    prioritised = service.reader(batch_size=50, sampler="prioritised", in_flight=0)
    _, drawn = prioritised.draw()
    assert (drawn.importance_weights == 1.0).all()  # priorities are as they were at first


def published(learner: SystemLearner) -> tuple[int, int, dict[str, np.ndarray]]:
    """What the hub knows: the learner's updates, those behind the weights, and weights by name."""
    known, (_, updates, (reference,)) = ray.get(learner._hub.news.remote(None), timeout=30)
    layout, values = ray.get(reference, timeout=30)
    ends = np.cumsum([int(np.prod(shape)) for _, shape in layout])
    parts = np.split(values, ends[:-1])
    pairs = zip(layout, parts, strict=True)
    return known, updates, {name: part.reshape(shape) for (name, shape), part in pairs}


def test_in_lock_step_the_hub_has_the_weights_of_every_slice_on_return(start: Start) -> None:
    learner, _ = start("windows")
    assert learner.reconnect() == 0
    untrained = published(learner)[2]
    result = learner.update(updates=3)
    known, updates, weights = published(learner)
    assert result["published"] == known == updates == 3
    own = acting_arrays(learner._agent)
    assert own.keys() == weights.keys()
    for name, value in own.items():
        assert np.array_equal(value, weights[name]), name
    assert not np.array_equal(
        weights["model.encoder.linear.weight"], untrained["model.encoder.linear.weight"]
    )


def test_in_a_slice_of_time_weights_are_published_at_the_interval_that_is_set(
    start: Start,
) -> None:
    learner, _ = start("windows", publish_updates=10)
    learner.reconnect()
    seen = {0}
    deadline = time.monotonic() + 60.0
    while len(seen) < 5:
        updates = learner.update(seconds=0.3)["updates"]
        known, behind, weights = published(learner)
        assert behind <= known <= updates
        seen.add(behind)
        assert all(np.isfinite(value).all() for value in weights.values())
        assert time.monotonic() < deadline
    gaps = np.diff(sorted(seen))
    assert (gaps >= 10).all()


def test_a_learner_put_back_draws_anew_and_goes_on(start: Start) -> None:
    learner, _ = start("prioritised")
    learner.update(seconds=0.2)
    before = learner.reconnect()
    assert learner.update(seconds=0.3)["updates"] > before
    learner.shutdown()
    learner.shutdown()
