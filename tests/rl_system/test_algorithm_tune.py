"""CoRe under Tune, on a cluster that has exactly the CPUs that one trial asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray import tune

from rl_system.algorithm import CoRe, CoReConfig, required_cpus
from tests.rl_system.tiny_run import tiny_config


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
    assert (Path(result.checkpoint.path) / "replay" / "manifest.json").is_file()
