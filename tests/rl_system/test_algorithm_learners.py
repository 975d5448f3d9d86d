"""A run with two learner processes: one agent, one checkpoint, one report."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError

from rl_system.algorithm import CoRe
from rl_system.errors import RunError, SettingsError
from tests.rl_system.tiny_run import tiny_config, train_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=6, object_store_memory=150 * 2**20, include_dashboard=False)
    yield
    ray.shutdown()


def digests(algorithm: CoRe) -> list[tuple[int, float, int]]:
    """Updates, weights and windows of a batch, of each learner at rest."""
    results = algorithm.learner_group.foreach_learner(
        lambda learner: (
            learner._core.updates,
            sum(float(p.double().abs().sum()) for p in learner._agent.parameters()),
            learner._service.workload.batch_size,
        )
    )
    return [result.get() for result in results]


def test_two_learners_train_one_agent_and_go_on_from_its_checkpoint(
    cluster: None, tmp_path: Path
) -> None:
    algorithm = tiny_config().learners(num_learners=2).build_algo()
    try:
        whole = algorithm._settings.learner.batch_size
        metrics = train_until(algorithm, lambda m: m["updates"] >= 60 and "loss/model" in m)
        assert metrics["agent_steps"] > 200 and metrics["weights/version"] > 0
        algorithm.save_to_path(tmp_path / "saved")
        saved = algorithm._tally.updates
        train_until(algorithm, lambda m: m["updates"] > saved)
        algorithm.restore_from_path(tmp_path / "saved")
        first, second = digests(algorithm)
        assert first == second == (saved, first[1], whole // 2)
        train_until(algorithm, lambda m: m["updates"] >= saved + 20)
        ratio = algorithm._plane.replay.stats()["samples_per_insert"]
        assert ratio == pytest.approx(algorithm._settings.samples_per_insert, rel=0.5)
        algorithm._come_to_rest()
        first, second = digests(algorithm)
        assert first == second and first[0] >= saved + 20
    finally:
        algorithm.stop()


def test_learners_that_wait_for_actors_come_to_rest_and_save(cluster: None, tmp_path: Path) -> None:
    config = tiny_config().learners(num_learners=2)
    algorithm = config.settings_update(learner={"updates_per_agent_step": 0.05}).build_algo()
    try:
        for number in range(2):
            updates = algorithm._tally.updates
            train_until(algorithm, lambda m, done=updates: m["updates"] >= done + 2)
            algorithm.save_to_path(tmp_path / str(number))
        first, second = digests(algorithm)
        assert first == second
    finally:
        algorithm.stop()


def test_when_a_learner_of_two_dies_shards_stay_for_the_run_that_goes_on(cluster: None) -> None:
    algorithm = tiny_config().learners(num_learners=2).build_algo()
    try:
        train_until(algorithm, lambda m: m["updates"] >= 5)
        results = algorithm.learner_group.foreach_learner(lambda learner: os.getpid())
        os.kill([result.get() for result in results][1], signal.SIGKILL)
        with pytest.raises((RunError, RayActorError)):
            train_until(algorithm, lambda m: False)
        assert algorithm._leave_shards
    finally:
        algorithm.stop()
        for shard in algorithm._plane.replay.shards:
            ray.kill(shard)


def test_a_repeating_run_has_one_learner() -> None:
    config = tiny_config().settings_update(
        run={"deterministic": True},
        actors={"count": 1, "environments_per_actor": 1},
        learner={"count": 2},
    )
    with pytest.raises(SettingsError, match=r"only with one learner, and learner\.count is 2"):
        config.resolved()
