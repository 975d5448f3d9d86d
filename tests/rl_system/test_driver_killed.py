"""A driver that dies on a cluster that lives on: the shards of its run wait for the next life."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from rl_system.algorithm import CoReConfig
from rl_system.config import settings_from_dict
from rl_system.errors import RunError
from rl_system.plane import living_shards
from tests.rl_system.tiny_run import TINY, train_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NAME = "core-killed-driver"
PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 6,
            "object_store_memory": 150 * 2**20,
            "include_dashboard": False,
        },
    )
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


class Driver:
    """A process of `tests.rl_system.killed_driver` and the lines that it has printed."""

    def __init__(self, address: str, directory: Path, *checkpoint: str) -> None:
        self.errors = directory / f"errors-{len(checkpoint)}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.rl_system.killed_driver", address, str(directory),
             *checkpoint],
            stdout=subprocess.PIPE, stderr=self.errors.open("w"), text=True,
            env=os.environ | {"RAY_ADDRESS": address},
        )  # fmt: skip
        self.lines: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.lines.append(json.loads(line))

    def until(self, key: str, enough: Callable[[Any], bool] = lambda _: True) -> Any:
        """Waits for a line under `key` that is `enough` and returns it."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for line in list(self.lines):
                if key in line and enough(line[key]):
                    return line[key]
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        errors = self.errors.read_text()[-3000:]
        raise AssertionError(f"no such {key}: {self.lines[-3:]} {errors}")

    def kill(self) -> None:
        self.process.kill()  # SIGKILL
        self.process.wait(timeout=30)


def test_a_run_whose_driver_was_killed_goes_on_with_its_living_shards_and_meets_no_other(
    address: str, tmp_path: Path
) -> None:
    first = Driver(address, tmp_path)
    try:
        first.until("metrics", lambda m: m["replay/agent_steps"] > 500)
        config = CoReConfig.from_settings(settings_from_dict(TINY), tmp_path / "replay", NAME)
        with pytest.raises(RunError, match="conducts the run 'core-killed-driver'"):
            config.build_algo()
        metrics = first.lines[-1]["metrics"]
    finally:
        first.kill()
    shards = living_shards(NAME)
    assert len(shards) == 2

    second = Driver(address, tmp_path, str(tmp_path / "checkpoints" / "000001"))
    try:
        told = second.until("told")
        assert "2 shards were still alive" in told and "Nothing was loaded" in told
        after = second.until(
            "metrics",
            lambda m: (
                m["replay/inserted_agent_steps"] > metrics["replay/inserted_agent_steps"] + 50
                and m["updates"] > metrics["updates"]
            ),
        )
        assert after["replay/agent_steps"] >= metrics["replay/agent_steps"]
        assert after["replay/restarts"] == after["replay/lost_agent_steps"] == 0
        assert sorted(living_shards(NAME)) == sorted(shards)
    finally:
        second.kill()

    # Other settings than those of the living shards: they are ended, the snapshot is loaded.
    larger = TINY | {"replay": TINY["replay"] | {"capacity_agent_steps": 8000}}
    config = CoReConfig.from_settings(settings_from_dict(larger), tmp_path / "replay", NAME)
    algorithm = config.build_algo()
    try:
        assert not algorithm._plane.adopted
        lines: list[str] = []
        algorithm.tell = lines.append
        algorithm.restore_from_path(tmp_path / "checkpoints" / "000001")
        assert "were loaded from" in lines[-1]
        saved = json.loads((tmp_path / "checkpoints" / "000001" / "replay.json").read_text())
        assert algorithm._plane.replay.stats()["agent_steps"] == saved["agent_steps"] > 0
    finally:
        algorithm.stop()
    assert living_shards(NAME) == []
    assert (tmp_path / "replay" / "000001" / "manifest.json").is_file()
    assert not (tmp_path / "replay" / "recovery").exists()


def test_a_run_whose_learner_died_is_built_again_around_its_living_shards(
    address: str, tmp_path: Path
) -> None:
    config = CoReConfig.from_settings(settings_from_dict(TINY), tmp_path / "replay", "core-learner")
    first = config.build_algo()
    try:
        train_until(first, lambda metrics: metrics["updates"] >= 20)
        stored = first._plane.replay.stats()["agent_steps"]
        (pid,) = [r.get() for r in first.learner_group.foreach_learner(lambda _: os.getpid())]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ray.exceptions.RayActorError):
            for _ in range(20):
                first.train()
    finally:
        first.stop()
    assert len(living_shards("core-learner")) == 2
    second = config.copy(copy_frozen=False).build_algo()
    try:
        assert second._plane.adopted
        metrics = train_until(second, lambda metrics: metrics["updates"] >= 5)
        assert metrics["replay/agent_steps"] > stored > 0
    finally:
        second.stop()
    assert living_shards("core-learner") == []
