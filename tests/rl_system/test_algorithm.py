"""A whole tiny run on Ray: data flow, checkpoints, evaluation, and processes that are killed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from actors.environments.settings import EnvironmentSettings
from learners.learner import SystemLearner
from replay.errors import SnapshotError
from rl_system.algorithm import CoRe, load_policy
from rl_system.errors import CheckpointError, SettingsError
from rl_system.evaluator import EvaluationSchedule
from rl_system.metrics import UNITS
from tests.rl_system.tiny_run import tiny_config, train_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=6, object_store_memory=150 * 2**20, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def algorithm(cluster: None, short_slices: None) -> Iterator[CoRe]:
    built = tiny_config().build_algo()
    yield built
    built.stop()


@pytest.fixture(scope="module")
def checkpoint(algorithm: CoRe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    train_until(algorithm, lambda metrics: metrics["updates"] >= 100)
    path = tmp_path_factory.mktemp("checkpoints") / "000001"
    algorithm.save_to_path(path)
    return path


def _learner_digest(algorithm: CoRe) -> float:
    results = algorithm.learner_group.foreach_learner(
        lambda learner: sum(float(p.double().abs().sum()) for p in learner._agent.parameters())
    )
    return next(iter(results)).get()


def test_actors_feed_replay_and_the_learner_publishes_weights_that_they_use(
    algorithm: CoRe,
) -> None:
    metrics = train_until(
        algorithm, lambda m: m["updates"] >= 60 and "weights/age_updates" in m and m["episodes"] > 2
    )
    assert metrics["agent_steps"] > 200
    assert metrics["simulator_steps"] > 7 * metrics["agent_steps"]
    assert metrics["replay/agent_steps"] > 200
    assert metrics["weights/version"] > 0
    assert np.isfinite(metrics["loss/model"]) and np.isfinite(metrics["loss/critic"])
    assert 0 <= metrics["learner/busy_percent"] <= 100
    assert metrics["replay/gaps"] == metrics["replay/repeated_chunks"] == 0


def test_every_metric_is_in_the_published_table(algorithm: CoRe) -> None:
    names = set(train_until(algorithm, lambda m: "loss/model" in m))
    assert not names - set(UNITS)


def test_rllibs_own_names_are_filled_for_tune(algorithm: CoRe) -> None:
    result = algorithm.train()
    assert result["num_env_steps_sampled_lifetime"] == result["metrics"]["agent_steps"]
    assert np.isfinite(result["env_runners"]["episode_return_mean"])
    assert result["learners"]["default_policy"]["updates"] == result["metrics"]["updates"]


def test_samples_per_insert_stay_within_the_band(algorithm: CoRe) -> None:
    metrics = train_until(algorithm, lambda m: m["updates"] >= 150)
    work, settings = algorithm._plane.replay.workload, algorithm._plane.replay.settings
    # An episode that was begun is never held back: its steps come on top of the band.
    open_episode = 125 * (work.samples_per_insert or 0)
    limit = settings.shards * (work.band(settings) + open_episode)
    assert abs(metrics["replay/limiter_error_agent_steps"]) <= limit


def test_evaluation_uses_published_weights_and_leaves_replay_alone(algorithm: CoRe) -> None:
    train_until(algorithm, lambda m: m["updates"] > 0)
    result = algorithm.evaluate()["evaluation"]
    assert result["episodes"] == 1
    assert 0 <= result["return_mean"] <= 1000
    assert result["updates"] > 0


def test_a_restored_run_continues_with_the_same_counters_weights_and_replay(
    algorithm: CoRe, checkpoint: Path
) -> None:
    train_until(algorithm, lambda m: m["updates"] >= 150)
    algorithm.restore_from_path(checkpoint)
    saved = algorithm._tally.state_dict()
    stored = algorithm._plane.replay.stats()
    digest = _learner_digest(algorithm)
    assert stored["agent_steps"] > 200 and stored["sampled_agent_steps"] > 0
    metrics = train_until(algorithm, lambda m: m["updates"] > saved["updates"])
    assert metrics["agent_steps"] >= saved["agent_steps"]
    assert metrics["replay/inserted_agent_steps"] >= stored["inserted_agent_steps"]
    assert metrics["elapsed_s"] > saved["elapsed_s"]
    algorithm.restore_from_path(checkpoint)
    assert _learner_digest(algorithm) == digest
    assert algorithm._tally.updates == saved["updates"]
    assert algorithm._plane.replay.stats()["sampled_agent_steps"] == stored["sampled_agent_steps"]


def test_a_checkpoint_without_replay_is_refused(algorithm: CoRe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="replay"):
        algorithm.restore_from_path(tmp_path)


def test_a_checkpoint_with_damaged_replay_is_refused_and_nothing_changes(
    algorithm: CoRe, checkpoint: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(checkpoint, damaged)
    victim = next((damaged / "replay" / "shard-1").glob("*.steps"))
    content = victim.read_bytes()
    victim.unlink()  # it shares its content with other snapshots
    victim.write_bytes(content[:-4] + b"junk")
    before = train_until(algorithm, lambda m: m["updates"] > 0)
    with pytest.raises(SnapshotError, match=victim.name):
        algorithm.restore_from_path(damaged)
    after = train_until(algorithm, lambda m: m["updates"] > before["updates"])
    assert after["agent_steps"] >= before["agent_steps"]


def test_the_policy_of_a_checkpoint_acts_without_ray(algorithm: CoRe, checkpoint: Path) -> None:
    settings = algorithm.config.resolved()
    policy = load_policy(checkpoint, settings)
    frames = np.zeros((3, 28, 28, 3), np.uint8)
    action, _ = policy.act(frames, policy.initial_state(3), np.ones(3, bool), False)
    assert action.shape == (3, 1) and np.abs(action).max() <= 1
    with pytest.raises(CheckpointError, match="no policy"):
        load_policy(checkpoint / "nothing", settings)


def test_a_killed_actor_comes_back_nothing_is_stored_twice_and_nobody_waits_for_it(
    algorithm: CoRe,
) -> None:
    before = train_until(algorithm, lambda m: m["updates"] > 0)
    (pid,) = algorithm.env_runner_group.foreach_env_runner(lambda runner: runner.pid())
    os.kill(pid, signal.SIGKILL)
    # RLlib's own probe would hold the driver, and with it all others, until the actor is back.
    during = algorithm.train()["metrics"]
    assert during["actor/restarts"] == before["actor/restarts"]
    steps = before["agent_steps"] + 300
    after = train_until(algorithm, lambda m: m["agent_steps"] >= steps)
    (new,) = algorithm.env_runner_group.foreach_env_runner(lambda runner: runner.pid())
    assert new != pid
    assert after["actor/restarts"] == before["actor/restarts"] + 1
    assert after["replay/repeated_chunks"] == after["replay/gaps"] == 0


def test_a_killed_shard_goes_back_to_the_snapshot_and_training_goes_on(
    algorithm: CoRe, checkpoint: Path
) -> None:
    ray.kill(algorithm._plane.replay.shards[0], no_restart=False)
    before = train_until(algorithm, lambda m: m.get("replay/restarts", 0) >= 1)
    after = train_until(algorithm, lambda m: m["updates"] > before["updates"] + 20)
    assert after["replay/agent_steps"] > 0


def test_published_weights_survive_the_death_of_the_learner(algorithm: CoRe) -> None:
    """Stands behind all others of this algorithm, which does not learn any more after this."""
    train_until(algorithm, lambda m: m["updates"] > 0 and m["weights/version"] >= 20)
    (pid,) = [r.get() for r in algorithm.learner_group.foreach_learner(lambda _: os.getpid())]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayActorError):
        train_until(algorithm, lambda _: False)
    _, updates, (reference,) = ray.get(algorithm._plane.hub.newest.remote(None), timeout=20)
    layout, values = ray.get(reference, timeout=20)
    assert updates >= 20
    assert any(name.startswith("behavior.actor") for name, _ in layout)
    assert values.any() and np.isfinite(values).all()


def test_a_hung_evaluation_is_given_up_and_the_next_gets_a_new_evaluator(
    cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck:
        def evaluate(self, number: int, episodes: int) -> dict[str, float]:
            threading.Event().wait(60.0)
            return {}

    class Prompt:
        def evaluate(self, number: int, episodes: int) -> dict[str, float]:
            return {"number": float(number)}

    kinds = iter((Stuck, Prompt))

    def start(*_: object) -> ray.actor.ActorHandle:
        return ray.remote(next(kinds)).options(num_cpus=0).remote()

    config = tiny_config().evaluation(every_agent_steps=10, timeout_s=0.5)
    schedule = EvaluationSchedule("none", config.resolved(), 1, start)
    assert schedule.go_on(10, wait=True) is None
    assert "evaluation.timeout_s" in caplog.text
    schedule._settings = tiny_config().evaluation(every_agent_steps=10).resolved()
    assert schedule.go_on(20, wait=True) == {"number": 1.0}
    schedule.stop()


@pytest.mark.slow
def test_a_learner_inside_the_driver_does_not_starve_the_actors_it_waits_for(
    cluster: None,
) -> None:
    built = tiny_config().learners(num_learners=0).build_algo()
    try:
        metrics = train_until(built, lambda m: m["updates"] >= 50)
        assert metrics["agent_steps"] > 200
    finally:
        built.stop()


@pytest.mark.slow
def test_a_wrong_folder_of_videos_is_named_when_the_actors_cannot_start(cluster: None) -> None:
    config = tiny_config().settings_update(
        environment={"difficulty": "easy", "videos": "/no/such/folder"}
    )
    assert config.resolved().environment != EnvironmentSettings()
    with pytest.raises(SettingsError, match="/no/such/folder"):
        config.build_algo()


def test_of_a_learner_that_cannot_be_built_nothing_is_left(cluster: None, tmp_path: Path) -> None:
    class Broken(SystemLearner):
        def build(self) -> None:
            super().build()
            (tmp_path / "process").write_text(str(os.getpid()))
            raise ValueError("no such optimiser")

    config = tiny_config().learners(learner_class=Broken)
    with pytest.raises(ValueError, match="no such optimiser") as failed:
        config.build_algo()
    process, deadline = int((tmp_path / "process").read_text()), time.monotonic() + 20
    while Path(f"/proc/{process}").exists():  # although the error and so RLlib's group live on
        assert time.monotonic() < deadline, f"the learner lives on after {failed.value!r}"
        time.sleep(0.1)


def test_a_cluster_that_is_too_small_is_an_error_and_no_silent_wait(cluster: None) -> None:
    config = tiny_config().settings_update(
        actors={"num_cpus_per_actor": 64.0}, run={"startup_timeout_s": 0.2}
    )
    with pytest.raises(SettingsError, match=r"needs 66\.01 CPUs"):
        config.build_algo()


@pytest.mark.slow
def test_nothing_is_left_running_after_stop(cluster: None) -> None:
    built = tiny_config().build_algo()
    prefix = built._plane.prefix
    built.stop()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        names = [actor for actor in ray.util.list_named_actors() if prefix in actor]
        if not names:
            break
    assert not names
