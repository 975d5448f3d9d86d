"""CoRe under Tune, on a cluster that has exactly the CPUs that one trial asks for."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune

from replay.placement import NAMESPACE
from rl_system.algorithm import CoRe, CoReConfig, required_cpus
from rl_system.plane import living_shards
from rl_system.snapshots import Reference
from tests.rl_system.tiny_run import tiny_config, train_until


@pytest.fixture(scope="module")
def config() -> Iterator[CoReConfig]:
    """As many CPUs as one trial needs: a process in another's bundle would block it for ever."""
    config = tiny_config().settings_update(
        actors={"count": 2, "num_cpus_per_actor": 0.5}, replay={"cpus_per_shard": 0.495}
    )
    settings = config.resolved()
    cpus = required_cpus(settings)
    assert cpus == pytest.approx(3)
    ray.init(address="local", num_cpus=3, object_store_memory=200 * 2**20, include_dashboard=False)
    yield config
    ray.shutdown()


@pytest.mark.timeout(300)
def test_a_trial_that_fills_the_cluster_runs_samples_its_search_space_and_saves_replay(
    config: CoReConfig, tmp_path: Path
) -> None:
    config.learner(model_rate=tune.choice([1.25e-3]))
    results = tune.Tuner(
        CoRe,
        param_space=config,
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            stop={"metrics/updates": 20},
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
            verbose=0,
        ),
    ).fit()
    (result,) = results
    assert result.error is None
    assert result.metrics is not None and result.checkpoint is not None
    assert result.metrics["metrics"]["updates"] >= 20
    assert result.metrics["config"]["settings"]["learner"]["model_rate"] == 1.25e-3
    # Outside the directory that Tune copies; shards end with the trial.
    reference = Reference.read(Path(result.checkpoint.path))
    assert reference.path is not None
    assert Path(reference.path).parent == Path(result.path) / "replay"
    assert (Path(reference.path) / "manifest.json").is_file()
    assert not (Path(result.checkpoint.path) / "replay").exists()
    assert living_shards(reference.run) == []


class KillTrial(tune.Callback):
    """Kills the process of a trial once, after its first checkpoint, and notes its shards."""

    def __init__(self) -> None:
        self.shards: list[set[int]] = []
        self.metrics: list[dict[str, Any]] = []

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        names = [
            entry["name"]
            for entry in ray.util.list_named_actors(all_namespaces=True)
            if entry["namespace"] == NAMESPACE and "/shard-" in entry["name"]
        ]
        shards = [ray.get_actor(name, NAMESPACE) for name in names]
        self.shards.append(set(ray.get([shard.pid.remote() for shard in shards], timeout=60)))
        self.metrics.append(result["metrics"])
        if trial.has_checkpoint() and trial.num_failures == 0:
            os.kill(result["pid"], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_trial_whose_process_is_killed_goes_on_with_its_living_shards(
    config: CoReConfig, tmp_path: Path
) -> None:
    watcher = KillTrial()
    (result,) = tune.Tuner(
        CoRe,
        param_space=config,
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            stop={"metrics/updates": 300},
            failure_config=tune.FailureConfig(max_failures=1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=2),
            callbacks=[watcher],
            verbose=0,
        ),
    ).fit()
    assert result.error is None
    assert all(shards == watcher.shards[0] for shards in watcher.shards)
    assert len(watcher.shards[0]) == 2
    inserted = [metrics["replay/inserted_agent_steps"] for metrics in watcher.metrics]
    assert inserted == sorted(inserted)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_another_trials_checkpoint_is_taken_over_without_copying_its_replay(
    config: CoReConfig, tmp_path: Path
) -> None:
    """As a population does: the donor's checkpoint, restored in the folder of another trial."""

    def build(name: str) -> CoRe:
        settings = config.copy(copy_frozen=False).learner(model_rate=1e-3).resolved()
        folder = tmp_path / name / "replay"
        return CoReConfig.from_settings(settings, folder, f"core-{name}").build_algo()

    checkpoint = tmp_path / "donor" / "checkpoint_000000"
    donor = build("donor")
    try:
        train_until(donor, lambda metrics: metrics["updates"] >= 10)
        donor.save_to_path(checkpoint)
    finally:
        donor.stop()
    reference = Reference.read(checkpoint)
    assert reference.path is not None

    exploiter = build("exploiter")
    try:
        exploiter.restore_from_path(checkpoint)
        assert exploiter._plane.replay.stats()["agent_steps"] == reference.agent_steps > 0
        (own,) = (tmp_path / "exploiter" / "replay").glob("0*")
        blocks = sorted(own.rglob("*.steps"))
        donors = sorted(Path(reference.path).rglob("*.steps"))
        assert blocks and [b.stat().st_ino for b in blocks] == [d.stat().st_ino for d in donors]
        shutil.rmtree(tmp_path / "donor")
        shard = exploiter._plane.replay.shards[0]
        ray.kill(shard, no_restart=False)
        after = train_until(exploiter, lambda metrics: metrics.get("replay/restarts", 0) >= 1)
        assert after["replay/agent_steps"] >= 0.9 * reference.agent_steps
        second = tmp_path / "exploiter" / "checkpoint_000000"
        exploiter.save_to_path(second)
        assert Reference.read(second).run == "core-exploiter"
    finally:
        exploiter.stop()
