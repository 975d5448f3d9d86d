"""Every system trains on the same actors, replay and learner, and its policy comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from rl_system.algorithm import ALGORITHMS, CONFIGS, load_policy
from rl_system.config import SettingsError, settings_from_dict
from rl_system.evaluation import evaluate
from rl_system.presets import merge
from tests.rl_system.tiny_run import TINY, train_until

CONVOLUTIONS = {
    "conv_channels": [4, 8],
    "conv_kernels": [3, 3],
    "conv_strides": [2, 2],
    "conv_paddings": [1, 1],
}
# What differs of a system from the tiny run of CoRe.
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "cvrl": {
        "model": CONVOLUTIONS
        | {
            "recurrent_dims": 16,
            "latent_dims": 4,
            "hidden_dims": 16,
            "observation_code_dims": [16],
            "state_code_dims": [16],
            "reward_dims": [16],
        },
        "behavior": {"actor_dims": [16], "value_dims": [16], "critic_dims": [16], "horizon": 4},
    },
    "sac": {
        "model": CONVOLUTIONS | {"feature_dims": 16},
        "behavior": {"actor_dims": [32, 32], "critic_dims": [32, 32]},
    },
}


def sections(system: str) -> dict[str, dict[str, Any]]:
    shared = {name: dict(values) for name, values in TINY.items() if name not in OWN["cvrl"]}
    del shared["learner"]["update_order"]
    shared["learner"]["random_crop"] = True
    return merge(merge(shared, OWN[system]), {"run": {"system": system}})


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=6, include_dashboard=False, object_store_memory=200 << 20)
    yield
    ray.shutdown()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("system", OWN)
def test_a_system_trains_saves_and_its_policy_acts_alone(
    cluster: None, short_slices: None, tmp_path: Path, system: str
) -> None:
    config = CONFIGS[system]().settings_update(**sections(system))
    algorithm = config.build_algo()
    assert isinstance(algorithm, ALGORITHMS[system])
    try:
        metrics = train_until(algorithm, lambda m: m.get("updates", 0) >= 30 and "loss/critic" in m)
        assert all(np.isfinite(v) for n, v in metrics.items() if n.startswith("loss/"))
        assert metrics["weights/version"] > 0
        algorithm.save_to_path(str(tmp_path))
        updates = algorithm.train()["metrics"]["updates"]
        algorithm.restore_from_path(str(tmp_path))
        assert algorithm.train()["metrics"]["updates"] < updates + 2000
    finally:
        algorithm.stop()
    settings = config.resolved()
    policy = load_policy(tmp_path, settings)
    assert np.isfinite(evaluate(policy, settings, episodes=1, seed=3).mean)


def test_settings_of_one_system_do_not_configure_another() -> None:
    settings = settings_from_dict(sections("cvrl"))
    with pytest.raises(SettingsError, match=r"CONFIGS\['cvrl'\]"):
        CONFIGS["core"].from_settings(settings)
    config = CONFIGS["core"]().settings_update(run={"system": "cvrl"})
    with pytest.raises(SettingsError, match=r"CONFIGS\['cvrl'\]"):
        config.validate()
