"""The ways that steps take between processes: mapped memory and copies, one interface."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import ray

import replay.memory
from replay import ReplayError, ReplayTimeout, Workload
from replay.mixture import MixtureReader, Source
from replay.reader import ReplayReader
from replay.samplers import Window
from replay.service import ReplayService
from replay.workload import shares
from tests.replay.conftest import Make
from tests.replay.episodes import SCHEMA, assert_windows_are_whole, chunk, episode, write


def wait_for_answers(reader: ReplayReader) -> None:
    calls = [call for pending in reader._pending for call in pending.calls if call is not None]
    ready, _ = ray.wait(calls, num_returns=len(calls), timeout=30)
    assert len(ready) == len(calls)


@pytest.mark.parametrize("by_reference", [True, False])
@pytest.mark.parametrize("sampler", ["windows", "episodes", "prioritised", "recency"])
def test_batches_are_whole_on_either_way_and_with_every_sampler(
    make: Make, by_reference: bool, sampler: str
) -> None:
    service = make(shards=2, sampler=sampler)
    write(service.writer("a"), *range(6))
    reader = service.reader(by_reference=by_reference)
    for _ in range(5):
        batch, drawn = reader.draw()
        assert_windows_are_whole(batch)
        assert drawn.shards.tolist() == [0, 0, 1, 1]
        # An episode's segment has the step itself as reward, so the window's place is known.
        np.testing.assert_array_equal(batch["reward"][0], drawn.starts)
    assert reader.stats()["mapped_shards"] == (2 if by_reference else 0)
    reader.close()


def test_a_compressed_table_gives_copies_of_the_same_steps(make: Make) -> None:
    service = make(shards=2, compression="zstd", capacity_agent_steps=100)
    write(service.writer("a"), *range(6))
    reader = service.reader(in_flight=0)
    for _ in range(3):
        assert_windows_are_whole(reader.read())
    assert reader.stats()["mapped_shards"] == 0
    assert service.stats()["agent_steps"] <= 100
    reader.close()


def test_both_ways_give_equal_batches_for_equal_seeds(make: Make) -> None:
    batches = []
    for by_reference in (True, False):
        service = make(seed=3, shards=2)
        write(service.writer("a"), *range(6))
        reader = service.reader(by_reference=by_reference, in_flight=0)
        batches.append([reader.read() for _ in range(4)])
        reader.close()
    for mapped, copied in zip(*batches, strict=True):
        for name in mapped:
            np.testing.assert_array_equal(mapped[name], copied[name])


def test_windows_overwritten_before_they_were_copied_are_drawn_again(make: Make) -> None:
    service = make(shards=1, capacity_agent_steps=40)
    writer = service.writer("a")
    write(writer, 0, 1)
    reader = service.reader(in_flight=1)
    reader.ask()
    wait_for_answers(reader)
    write(writer, 2, 3)  # takes the place of both
    batch, drawn = reader.receive()
    assert_windows_are_whole(batch)
    assert set(batch["action"][0, :, 0]) <= {2.0, 3.0}
    np.testing.assert_array_equal(batch["reward"][0], drawn.starts)
    assert reader.stats()["redrawn_sequences"] == 4
    assert service.stats()["redrawn_sequences"] == 4
    assert service.stats()["sampled_agent_steps"] == 4 * 6  # counted once
    reader.close()


def test_a_reader_finds_the_memory_of_a_shard_that_was_started_again(make: Make) -> None:
    service = make(shards=1)
    writer, reader = service.writer("a"), service.reader(in_flight=0)
    write(writer, 0, 1)
    reader.read()
    (shard,) = service.shards
    ray.kill(shard, no_restart=False)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            write(writer, 2, 3)
            break
        except ReplayError:
            continue
    batch = reader.read(timeout_s=30)
    assert set(batch["action"][0, :, 0]) <= {2.0, 3.0}
    assert reader.stats()["mapped_shards"] == 1
    reader.close()


def test_a_writer_whose_memory_cannot_be_reached_sends_copies(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make(shards=2)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(replay.memory, "this_machine", lambda: "another machine")
        writer = service.writer("a")
    write(writer, *range(4))
    assert writer.stats()["shards_by_value"] == 2
    assert service.stats()["agent_steps"] == 80
    batch = service.reader(in_flight=0).read()
    assert_windows_are_whole(batch)


def test_the_callers_arrays_are_free_as_soon_as_a_chunk_was_written(make: Make) -> None:
    service = make(shards=1, workload=Workload(batch_length=6, batch_size=4, chunk_length=8))
    writer = service.writer("a", environments=8)
    for number in range(8):
        part = chunk("a", number, 0, 8, last=True)
        writer.write(part)
        for array in part.steps.values():
            array[...] = 0
    writer.flush()
    assert_windows_are_whole(service.reader(batch_size=32, in_flight=0).read())


def test_a_chunk_longer_than_expected_is_taken_all_the_same(make: Make) -> None:
    service = make(shards=1)
    writer = service.writer("a")
    writer.write(chunk("a", 0, 0, 50, last=True))  # the workload says 8
    writer.flush()
    assert service.stats()["agent_steps"] == 50
    assert_windows_are_whole(service.reader(in_flight=0).read())


def test_a_full_writer_gives_up_at_the_deadline_of_the_call_and_keeps_nothing(make: Make) -> None:
    service = make(workload=Workload(2.0, batch_length=6, batch_size=4, chunk_length=8))
    writer = service.writer("a")
    begin = time.monotonic()
    with pytest.raises(ReplayTimeout, match=r"a waited 0\.3 s to send a chunk"):
        for number in range(100):
            for part in episode("a", number, 8):
                writer.write(part, timeout_s=0.3)
    assert time.monotonic() - begin < 20
    in_flight = writer.stats()["chunks_in_flight"]
    with pytest.raises(ReplayTimeout):
        writer.write(chunk("a", 200, 0, 8), timeout_s=0.1)
    assert writer.stats()["chunks_in_flight"] == in_flight


def test_a_reader_that_asks_ahead_of_nothing_sees_what_was_inserted_until_it_read(
    make: Make,
) -> None:
    service = make(shards=1, capacity_agent_steps=20)
    writer, reader = service.writer("a"), service.reader(in_flight=0)
    for number in range(4):
        write(writer, number)
        assert set(reader.read()["action"][0, :, 0]) == {float(number)}
    assert service.stats()["sampled_agent_steps"] == 4 * 24


def test_a_batch_need_not_be_a_multiple_of_the_shards(make: Make) -> None:
    service = make(shards=3, workload=Workload(batch_length=6, batch_size=4, chunk_length=8))
    write(service.writer("a"), *range(6))
    reader = service.reader(in_flight=0)
    given = np.zeros(3, np.int64)
    for _ in range(6):
        batch, drawn = reader.draw()
        assert batch["reward"].shape == (6, 4)
        assert_windows_are_whole(batch)
        given += np.bincount(drawn.shards, minlength=3)
    assert given.tolist() == [8, 8, 8]
    small = service.reader(batch_size=2, in_flight=0)
    assert [set(small.draw()[1].shards) for _ in range(3)] == [{0, 1}, {1, 2}, {0, 2}]


def test_shards_take_turns_with_what_does_not_divide() -> None:
    for turn in range(10):
        assert sum(shares(32, 5, turn)) == 32
    assert np.sum([shares(32, 5, turn) for turn in range(5)], axis=0).tolist() == [32] * 5


def test_windows_begin_at_multiples_of_the_stride(make: Make) -> None:
    service = make(shards=1)
    write(service.writer("a"), *range(3))
    reader = service.reader(batch_size=64, stride=7, in_flight=0)
    batch, drawn = reader.draw()
    assert set(drawn.starts.tolist()) == {0, 7, 14}
    np.testing.assert_array_equal(batch["reward"][0], drawn.starts)


def test_a_learner_raises_and_lowers_how_often_a_window_comes(make: Make) -> None:
    service = make(shards=2, sampler="prioritised", priority_exponent=1.0)
    write(service.writer("a"), 0, 1)  # one episode on each shard, 15 windows each
    reader = service.reader(batch_size=256, in_flight=0)
    _, drawn = reader.draw()
    assert drawn.importance_weights is not None
    np.testing.assert_allclose(drawn.importance_weights, 1.0)  # all alike so far
    reader.update_priorities(drawn, np.where(drawn.starts == 3, 10.0, 0.0))
    _, drawn = reader.draw()
    assert set(drawn.starts.tolist()) == {3}
    assert set(drawn.shards.tolist()) == {0, 1}
    reader.close()


def test_importance_weights_make_up_for_priorities_over_all_shards(make: Make) -> None:
    service = make(shards=2, sampler="prioritised", priority_exponent=1.0, importance_exponent=1.0)
    writer = service.writer("a")
    write(writer, 0, length=20)
    write(writer, 1, length=10)  # 15 windows on one shard, 5 on the other
    reader = service.reader(batch_size=4000, in_flight=0)
    _, drawn = reader.draw()
    reader.update_priorities(drawn, 1.0 + drawn.starts)
    _, drawn = reader.draw()
    weights = drawn.importance_weights
    assert weights is not None
    # Weighted, every window counts alike, whatever its priority and its shard.
    mass = np.zeros((2, 15))
    np.add.at(mass, (drawn.shards, drawn.starts), weights)
    present = mass[mass > 0]
    assert len(present) == 20
    np.testing.assert_allclose(present / present.mean(), 1.0, atol=0.3)
    reader.close()


def test_demonstrations_and_on_policy_data_are_mixed_at_their_ratio(make: Make) -> None:
    demonstrations, on_policy = make(shards=1), make(shards=2)
    with demonstrations.preload():
        write(demonstrations.writer("demo"), *range(100, 105), actor="demo")
    write(on_policy.writer("a"), *range(5))
    reader = MixtureReader(
        {
            "demonstrations": Source(demonstrations.reader(), 0.3),
            "on_policy": Source(on_policy.reader(), 0.7),
        },
        batch_size=9,
    )
    counts = []
    for _ in range(10):
        batch, drawn = reader.draw()
        assert batch["reward"].shape == (6, 9)
        assert_windows_are_whole(batch)
        from_demonstrations = len(drawn["demonstrations"].starts)
        assert (batch["action"][0, :from_demonstrations, 0] >= 100).all()
        assert (batch["action"][0, from_demonstrations:, 0] < 100).all()
        counts.append(from_demonstrations)
    assert sum(counts) == 27 and set(counts) == {2, 3}
    reader.close()


def test_a_mixture_waits_for_the_table_that_has_nothing_and_names_it(make: Make) -> None:
    full, empty = make(shards=1), make(shards=1)
    write(full.writer("a"), *range(4))
    sources = {"full": Source(full.reader(), 0.5), "empty": Source(empty.reader(), 0.5)}
    reader = MixtureReader(sources, batch_size=4)
    with pytest.raises(ReplayTimeout, match=r"Of the table 'empty': .*waits for writers"):
        reader.read(timeout_s=0.5)
    write(empty.writer("b"), *range(50, 54), actor="b")
    batch = reader.read(timeout_s=30)
    assert_windows_are_whole(batch)
    assert (batch["action"][0, :, 0] >= 50).tolist() == [False, False, True, True]
    reader.close()


def test_tables_that_differ_cannot_be_mixed(make: Make) -> None:
    service = make(shards=1)
    with pytest.raises(ReplayError, match="'a' and 'b' cannot be mixed"):
        MixtureReader(
            {"a": Source(service.reader(), 1), "b": Source(service.reader(batch_length=3), 1)}, 4
        )
    with pytest.raises(ReplayError, match="at least one source"):
        MixtureReader({}, 4)
    with pytest.raises(ReplayError, match="weights of a mixture"):
        MixtureReader({"a": Source(service.reader(), -1.0)}, 4)


def test_an_unknown_sampler_is_refused_by_name(make: Make) -> None:
    service = make(shards=1)
    with pytest.raises(ReplayError, match="No sampler 'newest': use one of windows"):
        service.reader(sampler="newest")


def test_a_chunk_that_a_shard_refuses_leaves_the_writer_usable(make: Make) -> None:
    service = make(shards=1, capacity_agent_steps=40)
    writer = service.writer("a")
    with pytest.raises(ReplayError, match="A chunk of 50 agent steps does not fit"):
        writer.write(chunk("a", 0, 0, 50, last=True))
        writer.flush()
    assert writer.stats()["chunks_in_flight"] == 0
    write(writer, 1)
    assert service.stats()["agent_steps"] == 20


def test_windows_and_chunks_longer_than_a_shard_are_refused_at_the_start(make: Make) -> None:
    for longer in ({"batch_length": 32}, {"chunk_length": 32}):
        lengths = {"batch_length": 6, "chunk_length": 8} | longer
        with pytest.raises(ReplayError, match=r"A shard holds 20 agent steps.*capacity"):
            make(shards=1, capacity_agent_steps=20, workload=Workload(batch_size=4, **lengths))


def test_a_read_keeps_its_deadline_though_shards_hang(make: Make) -> None:
    service = make(shards=3, workload=Workload(batch_length=6, batch_size=6, chunk_length=8))
    reader = service.reader(in_flight=0)
    pids = [ray.get(shard.pid.remote()) for shard in service.shards]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(ReplayTimeout, match="Shard 2 does not answer"):
            reader.read(timeout_s=0.5)
        assert time.monotonic() - begin < 5
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_service_begins_empty_in_a_folder_that_another_has_left(
    make: Make, tmp_path: Path
) -> None:
    settings = make(shards=1).settings
    load = Workload(batch_length=6, batch_size=4, chunk_length=8)
    for life in range(2):
        service = ReplayService.create(
            f"left-{life}", SCHEMA, settings, load, recovery_path=tmp_path / "recovery"
        )
        assert service.stats()["restarts"] == service.stats()["agent_steps"] == 0
        write(service.writer("a"), 0)
        service.save(tmp_path / "snapshot")
        service.stop()


def test_detached_shards_outlive_who_made_them_and_end_when_nobody_calls(make: Make) -> None:
    @ray.remote(num_cpus=0)
    class Driver:
        def start(self) -> str:
            from replay import ReplaySettings

            settings = ReplaySettings(
                shards=1,
                capacity_agent_steps=400,
                minimum_agent_steps=2,
                cpus_per_shard=0.1,
                orphan_timeout_s=3.0,
            )
            load = Workload(batch_length=6, batch_size=4, chunk_length=8)
            self.service = ReplayService.create("orphans", SCHEMA, settings, load, detached=True)
            write(self.service.writer("a"), 0, 1)
            return "orphans"

    driver = Driver.remote()
    prefix = ray.get(driver.start.remote(), timeout=60)
    ray.kill(driver)
    service = ReplayService.connect(prefix)
    assert service.stats()["agent_steps"] == 40
    waiting = service.reader(batch_length=30, in_flight=0)
    begin = time.monotonic()
    with pytest.raises(ReplayTimeout):  # a call that lasts counts as a call all the while
        waiting.read(timeout_s=4.5)
    assert time.monotonic() - begin > 4
    waiting.close()
    assert_windows_are_whole(service.reader(in_flight=0).read())
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(3.5)  # nobody calls for longer than they wait
        try:
            ReplayService.connect(prefix, timeout_s=5)
        except (ReplayError, ray.exceptions.RayActorError):
            return
    pytest.fail("the shard did not end")


def test_a_window_is_a_length_and_a_stride() -> None:
    assert [Window(6, 7).count(steps) for steps in (5, 6, 12, 13, 20)] == [0, 1, 1, 2, 3]


def test_a_chunk_written_twice_in_one_breath_is_stored_once(make: Make) -> None:
    service = make(shards=1)
    writer = service.writer("a")
    for number in (0, 0, 1):
        writer.write(chunk("a", number, 0, 8, last=True))
    writer.flush(timeout_s=10)
    assert service.stats()["agent_steps"] == 16
    assert writer.stats()["chunks_in_flight"] == 0


def test_bad_priorities_and_empty_batches_are_refused_at_the_reader(make: Make) -> None:
    service = make(shards=1, sampler="prioritised")
    write(service.writer("a"), 0)
    reader = service.reader(in_flight=0)
    _, drawn = reader.draw()
    for bad in (np.full(4, np.nan), -np.ones(4), np.ones((4, 1)), np.ones(3)):
        with pytest.raises(ReplayError, match="riorit"):
            reader.update_priorities(drawn, bad)
    with pytest.raises(ReplayError, match="must be 1 or more, got 0,"):
        service.reader(batch_size=0)
