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
from rl_system.resources import required_cpus
from tests.rl_system.tiny_run import tiny_config, train_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def algorithm(short_slices: None) -> Iterator[CoRe]:
    """With two learners, built where nobody has started Ray."""
    assert not ray.is_initialized()
    try:
        built = tiny_config().learners(num_learners=2).build_algo()
        yield built
        built.stop()
    finally:
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


def test_ray_is_started_with_the_cpus_of_the_run_where_none_runs(algorithm: CoRe) -> None:
    assert ray.cluster_resources()["CPU"] >= required_cpus(algorithm._settings)
    assert algorithm.train()["metrics"]["agent_steps"] > 0


def test_two_learners_train_one_agent_and_go_on_from_its_checkpoint(
    algorithm: CoRe, tmp_path: Path
) -> None:
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


def test_learners_that_wait_for_actors_come_to_rest_and_save(
    algorithm: CoRe, tmp_path: Path
) -> None:
    settings, replay = algorithm._settings, algorithm._plane.replay
    usual = settings.samples_per_insert
    replay.limit(samples_per_insert=usual * 0.05 / settings.learner.updates_per_agent_step)
    try:
        for number in range(2):
            updates = algorithm._tally.updates
            train_until(algorithm, lambda m, done=updates: m["updates"] >= done + 2)
            algorithm.save_to_path(tmp_path / str(number))
        first, second = digests(algorithm)
        assert first == second
    finally:
        replay.limit(samples_per_insert=usual)


def test_when_a_learner_of_two_dies_shards_stay_for_the_run_that_goes_on(algorithm: CoRe) -> None:
    """Stands behind all others of this algorithm, which does not learn any more after this."""
    updates = algorithm._tally.updates
    train_until(algorithm, lambda m: m["updates"] >= updates + 5)
    results = algorithm.learner_group.foreach_learner(lambda learner: os.getpid())
    os.kill([result.get() for result in results][1], signal.SIGKILL)
    with pytest.raises((RunError, RayActorError)):
        train_until(algorithm, lambda m: False)
    assert algorithm._leave_shards


def test_a_repeating_run_has_one_learner() -> None:
    config = tiny_config().settings_update(
        run={"deterministic": True},
        actors={"count": 1, "environments_per_actor": 1},
        learner={"count": 2},
    )
    with pytest.raises(SettingsError, match=r"only with one learner, and learner\.count is 2"):
        config.resolved()
