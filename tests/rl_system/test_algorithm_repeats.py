"""Lock step: with one actor and `run.deterministic` a run repeats bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from rl_system.algorithm import CoRe
from tests.rl_system.tiny_run import tiny_config


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, object_store_memory=150 * 2**20, include_dashboard=False)
    yield
    ray.shutdown()


def _build() -> CoRe:
    config = tiny_config().settings_update(run={"deterministic": True}).learners(num_learners=0)
    return config.build_algo()


def _step_until(algorithm: CoRe, updates: int) -> None:
    for _ in range(60):
        if algorithm._tally.updates >= updates:
            return
        algorithm.training_step()
    raise AssertionError(f"{algorithm._tally.updates} updates, not {updates}")


@pytest.mark.timeout(300)
def test_a_saved_run_goes_on_in_a_new_algorithm_and_after_going_back_in_the_same(
    cluster: None, tmp_path: Path
) -> None:
    first = _build()
    try:
        _step_until(first, 20)
        first.save_to_path(tmp_path)
        saved = first._tally.state_dict()
    finally:
        first.stop()
    second = _build()
    try:
        second.restore_from_path(tmp_path)
        assert second._tally.updates == saved["updates"]
        stored = second._plane.replay.stats()["agent_steps"]
        assert stored == saved["agent_steps"]
        second.training_step()
        weights = set(second._tally._weights_of.values())
        assert weights == {saved["updates"]}  # no step was taken with any others
        _step_until(second, saved["updates"] + 12)
        second.restore_from_path(tmp_path)
        assert second._plane.replay.stats()["agent_steps"] == stored
        second.training_step()
        assert set(second._tally._weights_of.values()) == {saved["updates"]}
        _step_until(second, saved["updates"] + 12)
        assert second._tally.restarts == 0
    finally:
        second.stop()


def _run(rounds: int) -> tuple[list[float], list[float], int, int]:
    built = _build()
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
