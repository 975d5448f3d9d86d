from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray

from replay import (
    ChunkError,
    ReplayError,
    ReplaySettings,
    ReplayTimeout,
    Workload,
    step_schema,
)
from replay.service import ReplayService
from replay.writer import ReplayWriter
from tests.replay.conftest import Make
from tests.replay.episodes import SCHEMA, assert_windows_are_whole, chunk, episode


def write(writer: ReplayWriter, *numbers: int, length: int = 20, actor: str = "a") -> None:
    for number in numbers:
        for part in episode(actor, number, length):
            writer.write(part)


def kill_and_wait(service: ReplayService, index: int) -> None:
    """Kills a shard's process without any clean-up, and waits until Ray has started it again."""
    before = service.shard_stats()[index]["restarts"]
    os.kill(ray.get(service.shards[index].pid.remote()), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if service.shard_stats()[index]["restarts"] == before + 1:
                return
        except ReplayError:
            pass
    pytest.fail("the shard was not started again")


def test_what_actors_write_learners_read_from_any_process(make: Make) -> None:
    service = make()

    @ray.remote(num_cpus=0)
    def act(prefix: str, index: int) -> None:
        writer = ReplayService.connect(prefix).writer(f"actor-{index}", index)
        write(writer, *range(6), actor=f"actor-{index}")
        writer.close()

    ray.get([act.remote(service.prefix, index) for index in range(2)], timeout=60)
    reader = ReplayService.connect(service.prefix).reader()
    for _ in range(10):
        batch = reader.read()
        assert batch["observation"].shape == (6, 4, 4, 4, 3)
        assert batch["observation"].flags.owndata and batch["observation"].flags.writeable
        assert_windows_are_whole(batch)
    stats = service.stats()
    assert stats["agent_steps"] == stats["inserted_agent_steps"] == 2 * 6 * 20
    assert stats["sampled_agent_steps"] >= 10 * 6 * 4
    assert all(type(value) in (int, float) for value in stats.values())
    reader.close()


def test_a_writer_gives_every_shard_as_much_and_starts_at_the_one_numbered_like_the_actor(
    make: Make,
) -> None:
    service = make(shards=3, workload=Workload(batch_length=6, batch_size=3))
    writer = service.writer("a", actor_index=1)
    write(writer, 0)
    writer.flush()
    assert [shard["agent_steps"] for shard in service.shard_stats()] == [0, 20, 0]
    write(writer, 1, 2, 3, 4, 5)
    writer.flush()
    assert [shard["agent_steps"] for shard in service.shard_stats()] == [40, 40, 40]


def test_an_actor_that_starts_again_from_episode_0_is_not_taken_for_a_repeat(make: Make) -> None:
    service = make(shards=1)
    for _ in range(2):
        writer = service.writer("a")
        write(writer, 0)
        writer.close()
    assert service.stats()["inserted_agent_steps"] == 40


def test_a_batch_can_be_read_into_given_arrays(make: Make) -> None:
    service = make(shards=1)
    writer, reader = service.writer("a"), service.reader()
    write(writer, 0, 1)
    out = SCHEMA.empty(6, 4)
    assert reader.read(out) is out
    assert_windows_are_whole(out)
    reader.close()


def test_a_closed_writer_refuses_and_can_be_closed_twice(make: Make) -> None:
    service = make()
    writer = service.writer("a")
    write(writer, 0)
    writer.close()
    writer.close()
    for call in (lambda: write(writer, 1), writer.poll, writer.flush):
        with pytest.raises(ReplayError, match="The writer of a was closed: make another"):
            call()
    assert service.stats()["inserted_agent_steps"] == 20
    assert writer.stats()["chunks_in_flight"] == 0


@pytest.mark.parametrize("in_flight", [0, 2])
def test_a_closed_reader_refuses_and_can_be_closed_twice(make: Make, in_flight: int) -> None:
    service = make()
    writer, reader = service.writer("a"), service.reader(in_flight=in_flight)
    write(writer, 0, 1)
    _, drawn = reader.draw()
    reader.close()
    reader.close()
    calls = (
        reader.read,
        reader.ask,
        reader.receive,
        lambda: reader.update_priorities(drawn, np.ones(4)),
    )
    for call in calls:
        with pytest.raises(ReplayError, match="This reader was closed: make another"):
            call()


def test_a_bad_chunk_is_refused_at_the_writer(make: Make) -> None:
    service = make(shards=1)
    with pytest.raises(ChunkError, match="'is_first'"):
        service.writer("a").write(
            chunk("a", 0, 3, 4).__class__(chunk("a", 0, 0, 4).key, chunk("a", 0, 3, 4).steps)
        )


def test_a_shards_refusal_arrives_as_its_own_error_without_rays_traceback(make: Make) -> None:
    service = make()
    with pytest.raises(ReplayError) as wrong:
        service.limit(band_agent_steps=-1.0)
    assert type(wrong.value) is ReplayError
    assert str(wrong.value).startswith("replay.limiter_band_agent_steps must be a number of 0 or")
    assert "Traceback" not in str(wrong.value)
    with pytest.raises(ReplayError, match=r"samples_per_insert must be a positive .* got -1\.0"):
        service.limit(samples_per_insert=-1.0)
    with pytest.raises(ReplayError, match=r"\(401\) is above what replay holds \(400 "):
        service.limit(minimum_agent_steps=401)
    writer = service.writer("a")
    write(writer, 0)
    writer.write(chunk("a", 0, 20, 4))
    with pytest.raises(ChunkError) as late:
        writer.flush()
    assert type(late.value) is ChunkError and "ended before with step 19" in str(late.value)
    write(writer, 1)
    writer.close()
    assert service.stats()["inserted_agent_steps"] == 40


@pytest.mark.parametrize("name", ["batch_size", "batch_length", "chunk_length", "writers"])
def test_a_workload_that_cannot_be_is_refused_by_name(name: str) -> None:
    with pytest.raises(ReplayError, match=f"{name} of a workload must be 1 or more, got 0"):
        Workload(**{name: 0})
    with pytest.raises(ReplayError, match="samples_per_insert must be a positive number or None"):
        Workload(samples_per_insert=0.0)


def test_a_preload_that_does_not_fit_warns_of_what_had_to_leave(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    service = make(shards=1, capacity_agent_steps=64)
    writer = service.writer("a")
    with service.preload():
        write(writer, *range(2))
        writer.flush()
    assert not caplog.records
    with service.preload():
        write(writer, *range(2, 8))
        writer.flush()
    assert "100 agent steps left replay during the preload" in caplog.text
    assert "it holds 64. Raise replay.capacity_agent_steps" in caplog.text


@pytest.mark.parametrize("ended_by", ["load", "restart"])
def test_priorities_of_windows_from_an_earlier_life_are_passed_over(
    make: Make, tmp_path: Path, ended_by: str
) -> None:
    service = make(shards=1, sampler="prioritised")
    reader = service.reader(in_flight=0)
    service.save(tmp_path / "empty")
    writer, other = service.writer("a"), service.writer("b")
    write(writer, 0)
    _, drawn = reader.draw()
    if ended_by == "load":
        service.load(tmp_path / "empty")
    else:
        kill_and_wait(service, 0)
    write(other, 0)
    other.flush()
    reader.update_priorities(drawn, np.full(4, 1e9), wait=True)
    rewards = np.concatenate([reader.read()["reward"][0] for _ in range(8)])
    assert len(set(rewards.tolist()) - set(drawn.starts.tolist())) > 0
    reader.close()


def test_actors_wait_for_a_learner_that_is_behind_and_go_on_when_it_reads(make: Make) -> None:
    service = make(
        workload=Workload(2.0, batch_length=6, batch_size=4, chunk_length=8), timeout_s=1.0
    )
    writer = service.writer("a")
    with pytest.raises(ReplayTimeout, match="all replay shards hold new episodes back"):
        write(writer, *range(100))
    inserted = service.stats()["inserted_agent_steps"]
    reader = service.reader()
    for _ in range(4):  # enough to make room, too few to need what the writer has yet to send
        reader.read(timeout_s=20)
    writer.flush(timeout_s=20)
    stats = service.stats()
    assert stats["inserted_agent_steps"] > inserted
    assert stats["insert_waits"] >= 1 and stats["insert_wait_s"] > 0.5
    assert writer.stats()["write_wait_s"] > 0.5
    reader.close()


def test_a_learner_waits_for_actors_and_is_told_for_what(make: Make) -> None:
    service = make(
        workload=Workload(2.0, batch_length=6, batch_size=4, chunk_length=8), minimum_agent_steps=40
    )
    writer, reader = service.writer("a"), service.reader()
    with pytest.raises(
        ReplayTimeout, match=r"Shard 0 has received 0 of the 20 agent steps.*waits for writers"
    ):
        reader.read(timeout_s=0.5)
    write(writer, 0, 1, length=5)
    write(writer, 2, 3, length=15)
    writer.flush()
    assert_windows_are_whole(reader.read())
    with pytest.raises(
        ReplayTimeout, match="too far ahead of samples per insert: waits for writers"
    ):
        for _ in range(1000):
            reader.read(timeout_s=0.5)
    stats = service.stats()
    assert stats["sample_waits"] > 0 and stats["sample_wait_s"] > 0.3
    write(writer, *range(4, 8))
    writer.flush()
    assert_windows_are_whole(reader.read())
    reader.close()


def test_a_learner_is_told_when_no_episode_is_long_enough(make: Make) -> None:
    service = make(shards=1)
    writer, reader = service.writer("a"), service.reader(batch_length=21)
    write(writer, 0, 1)
    with pytest.raises(ReplayTimeout, match="no episode of 21 steps"):
        reader.read(timeout_s=0.5)
    reader.close()


@pytest.mark.parametrize("samples_per_insert", [1.0, 24.0])
def test_the_ratio_holds_whichever_side_is_faster(make: Make, samples_per_insert: float) -> None:
    load = Workload(samples_per_insert, batch_length=6, batch_size=4, writers=2, chunk_length=8)
    service = make(workload=load, minimum_agent_steps=60)

    @ray.remote(num_cpus=0)
    class Actor:
        def act(self, prefix: str, index: int) -> None:
            writer = ReplayService.connect(prefix).writer(f"a{index}", index)
            for number in range(100_000):
                write(writer, number, actor=f"a{index}")

    actors = [Actor.remote() for _ in range(2)]
    for index, actor in enumerate(actors):
        actor.act.remote(service.prefix, index)
    reader = service.reader()
    for _ in range(150):
        assert_windows_are_whole(reader.read())
    slack = load.band(service.settings) + samples_per_insert * 2 * 20
    for shard in service.shard_stats():
        assert -load.band(service.settings) <= shard["limiter_error_agent_steps"] <= slack
        assert shard["bytes_resident"] <= shard["bytes_capacity"]
    for actor in actors:
        ray.kill(actor)
    reader.close()


def test_a_killed_shard_goes_back_to_its_snapshot_and_both_sides_go_on(
    make: Make, tmp_path: Path
) -> None:
    service = make()
    writer, reader = service.writer("a"), service.reader()
    write(writer, *range(8))
    writer.flush()
    service.save(tmp_path / "replay")
    write(writer, *range(8, 12))
    writer.write(chunk("a", 12, 0, 8))  # an episode that is open when the shard dies
    writer.flush()
    reader.read()
    before = service.shard_stats()
    for index in range(2):
        kill_and_wait(service, index)
    after = service.shard_stats()
    for index in range(2):
        assert after[index]["restarts"] == 1
        assert after[index]["inserted_agent_steps"] == 80
        assert after[index]["lost_agent_steps"] == before[index]["inserted_agent_steps"] - 80
    writer.write(chunk("a", 12, 8, 8))
    write(writer, *range(13, 20))
    writer.flush()
    for _ in range(10):
        assert_windows_are_whole(reader.read())
    assert service.stats()["gaps"] == 1
    reader.close()


def test_a_killed_shard_without_a_snapshot_begins_empty_and_says_so(make: Make) -> None:
    service = make(
        workload=Workload(20.0, batch_length=6, batch_size=4, chunk_length=8), timeout_s=30.0
    )
    writer, reader = service.writer("a"), service.reader()
    write(writer, 0, 1)
    writer.flush()
    held = service.shard_stats()[0]["inserted_agent_steps"]
    kill_and_wait(service, 0)
    stats = service.shard_stats()[0]
    assert (stats["agent_steps"], stats["restarts"], stats["lost_agent_steps"]) == (0, 1, held)
    enough = threading.Event()

    def learn() -> int:
        batches = 0
        while not enough.is_set():
            try:
                assert_windows_are_whole(reader.read(timeout_s=1))
                batches += 1
            except ReplayTimeout:
                continue
        return batches

    with ThreadPoolExecutor(1) as pool:
        learned = pool.submit(learn)
        try:
            write(writer, *range(2, 40))
            writer.flush()
        finally:
            enough.set()
    assert learned.result() > 100
    reader.close()


def test_calls_on_their_way_to_a_shard_that_dies_arrive_exactly_once(make: Make) -> None:
    service = make(capacity_agent_steps=100_000)
    writer = service.writer("a")
    for number in range(40):
        write(writer, number)
        if number in (10, 25):
            os.kill(ray.get(service.shards[number % 2].pid.remote()), signal.SIGKILL)
    writer.flush()
    stats = service.stats()
    assert stats["restarts"] == 2
    # A chunk stored but not yet answered at the death counts as lost and arrives again.
    assert stats["inserted_agent_steps"] <= 40 * 20
    assert 0 <= stats["inserted_agent_steps"] + stats["lost_agent_steps"] - 40 * 20 <= 2 * 4 * 8


def test_a_stopped_service_is_told_to_both_sides(make: Make) -> None:
    service = make()
    writer, reader = service.writer("a"), service.reader()
    write(writer, 0, 1)
    reader.read()
    service.stop()
    with pytest.raises(ReplayError, match="is gone"):
        write(writer, *range(2, 20))
        writer.flush()
    with pytest.raises(ReplayError, match="is gone"):
        for _ in range(5):
            reader.read()
    with pytest.raises(ReplayError, match="gone"):
        service.stats()


def test_a_prefix_in_use_and_a_prefix_unknown_are_told_apart(make: Make) -> None:
    service = make(shards=1)
    with pytest.raises(ReplayError, match="is running already"):
        ReplayService.create(service.prefix, SCHEMA, service.settings, service.workload)
    assert service.stats()["restarts"] == 0
    with pytest.raises(ReplayError, match="No replay service named 'nobody'"):
        ReplayService.connect("nobody")


def test_an_object_store_too_small_is_told_before_anything_starts(cluster: None) -> None:
    with pytest.raises(ReplayError, match=r"object_store_memory.*replay\.requests_in_flight"):
        ReplayService.create(
            "big",
            step_schema((100, 100, 3), 6),
            ReplaySettings(),
            Workload(batch_size=128, writers=8),
        )
    with pytest.raises(ReplayError, match="No replay service"):
        ReplayService.connect("big")


def test_arrays_too_large_for_the_machine_are_told_before_anything_starts(cluster: None) -> None:
    settings = ReplaySettings(capacity_agent_steps=10**12)
    with pytest.raises(ReplayError, match=r"Lower replay\.capacity_agent_steps"):
        ReplayService.create("huge", SCHEMA, settings, Workload(batch_length=4, batch_size=4))


def test_shards_reserve_nothing_where_the_caller_has_reserved_their_cpus(cluster: None) -> None:
    (node,) = [node["NodeID"] for node in ray.nodes()]
    settings = ReplaySettings(
        shards=2, capacity_agent_steps=400, minimum_agent_steps=2, cpus_per_shard=99, timeout_s=30
    )
    load = Workload(batch_length=6, batch_size=4)
    service = ReplayService.create("placed", SCHEMA, settings, load, node_ids=[node, node])
    assert service.stats()["agent_steps"] == 0  # they run, though the cluster has no 99 CPUs
    service.stop()
    with pytest.raises(ReplayError, match="1 node_ids were given for 2 shards"):
        ReplayService.create("placed", SCHEMA, settings, load, node_ids=[node])


def test_the_package_imports_neither_torch_nor_ray() -> None:
    code = "import sys, replay; sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False
        ).returncode
        == 0
    )
    code = "import sys, replay.service; sys.exit(bool({'torch', 'ray.rllib'} & set(sys.modules)))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False
        ).returncode
        == 0
    )


def test_reading_does_not_pin_the_object_store(make: Make) -> None:
    service = make(shards=1)
    writer, reader = service.writer("a"), service.reader()
    write(writer, *range(8))
    kept = [reader.read() for _ in range(20)]
    assert all(isinstance(batch["observation"].base, type(None)) for batch in kept)
    assert np.shares_memory(kept[0]["observation"], kept[1]["observation"]) is False
    reader.close()
