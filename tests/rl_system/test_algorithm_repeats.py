"""Lock step: with one actor and `run.deterministic` a run repeats bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from rl_system.algorithm import CoRe
from tests.rl_system.tiny_run import tiny_config


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, object_store_memory=150 * 2**20, include_dashboard=False)
    yield
    ray.shutdown()


def _run(rounds: int) -> tuple[list[float], list[float], int, int]:
    config = tiny_config().settings_update(run={"deterministic": True}).learners(num_learners=0)
    built: CoRe = config.build_algo()
    losses: list[float] = []
    try:
        for _ in range(rounds):
            built.training_step()
            losses.append(built._tally._losses.get("loss/model", 0.0))
        tally = built._tally
        return losses, list(tally._returns), tally.agent_steps, tally.updates
    finally:
        built.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_runs_of_one_seed_have_the_same_losses_and_returns(cluster: None) -> None:
    first = _run(24)
    assert first == _run(24)
    losses, returns, agent_steps, updates = first
    assert agent_steps == 24 * 25
    assert updates > 100 and losses[-1] > 0 and len(returns) >= 4
