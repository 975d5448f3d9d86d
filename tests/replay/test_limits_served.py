"""Limits and preloads of a service that serves, also after a shard was killed."""

from __future__ import annotations

import os
import signal
import time

import pytest
import ray

from replay import ReplayError, ReplayTimeout, Workload
from replay.service import ReplayService
from tests.replay.conftest import Make
from tests.replay.episodes import assert_windows_are_whole, chunk, episode, write


def test_the_limit_is_changed_while_actors_wait_and_frees_them(make: Make) -> None:
    service = make(
        shards=1, workload=Workload(2.0, batch_length=6, batch_size=4, chunk_length=8), timeout_s=20
    )
    writer = service.writer("a")
    with pytest.raises(ReplayTimeout, match="hold new episodes back"):
        for number in range(100):
            for part in episode("a", number, 8):
                writer.write(part, timeout_s=0.3)
    service.limit(samples_per_insert=None)
    writer.flush(timeout_s=20)
    inserted = service.stats()["inserted_agent_steps"]
    write(writer, *range(200, 220))
    assert service.stats()["inserted_agent_steps"] == inserted + 400
    assert service.workload.samples_per_insert is None


def test_offline_data_is_preloaded_and_then_limited(make: Make) -> None:
    service = make(
        shards=2, workload=Workload(1.0, batch_length=6, batch_size=4, chunk_length=8), timeout_s=20
    )
    writer, reader = service.writer("a"), service.reader(in_flight=0)
    with service.preload():
        write(writer, *range(16))  # far more than the limiter would let in
        with pytest.raises(ReplayTimeout, match="is being preloaded"):
            reader.read(timeout_s=0.3)
    assert_windows_are_whole(reader.read())  # at once: the minimum counts what was preloaded
    stats = service.stats()
    assert stats["agent_steps"] == 320
    assert stats["limiter_error_agent_steps"] == -24  # one batch; the preload does not count
    reader.close()


def kill_and_wait(service: ReplayService) -> None:
    """Kills the only shard's process and waits until Ray has started it again."""
    (shard,) = service.shards
    os.kill(ray.get(shard.pid.remote()), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if service.stats()["restarts"]:
                return
        except ReplayError:
            pass
    pytest.fail("the shard was not started again")


def test_limits_set_while_serving_hold_after_a_shard_was_killed(make: Make) -> None:
    service = make(
        shards=1, workload=Workload(1.0, batch_length=6, batch_size=4, chunk_length=8), timeout_s=20
    )
    service.limit(samples_per_insert=None)
    kill_and_wait(service)
    write(service.writer("a"), *range(40))  # the first ratio would hold it back
    assert service.stats()["inserted_agent_steps"] == 800


def test_a_preload_goes_on_after_a_shard_was_killed_and_then_ends(make: Make) -> None:
    service = make(
        shards=1, workload=Workload(1.0, batch_length=6, batch_size=4, chunk_length=8), timeout_s=20
    )
    with service.preload():
        kill_and_wait(service)
        write(service.writer("a"), *range(40))
    assert_windows_are_whole(service.reader(in_flight=0).read())


def test_a_band_is_at_the_ratio_that_holds_whoever_sets_it(make: Make) -> None:
    service = make(shards=1, workload=Workload(2.0, batch_length=6, batch_size=4, chunk_length=8))
    other = ReplayService.connect(service.prefix)
    service.limit(samples_per_insert=40.0)
    other.limit(band_agent_steps=100.0)
    writer = service.writer("a")
    with pytest.raises(ReplayTimeout):
        for number in range(100):
            for part in episode("a", number, 8):
                writer.write(part, timeout_s=0.5)
    error = service.stats()["limiter_error_agent_steps"]
    assert 4000 - 8 * 40 <= error <= 4000


def test_a_table_that_never_holds_the_minimum_at_once_gives_batches_all_the_same(
    make: Make,
) -> None:
    service = make(
        shards=1,
        capacity_agent_steps=40,
        minimum_agent_steps=40,
        workload=Workload(1.0, batch_length=6, batch_size=4, chunk_length=15),
    )
    writer = service.writer("a")
    for number in range(3):  # 30 steps are stored, 45 were inserted
        writer.write(chunk("a", number, 0, 15, last=True))
    writer.flush()
    assert service.stats()["agent_steps"] == 30
    assert_windows_are_whole(service.reader(in_flight=0).read())
