"""A mirror behind a reader of a real replay service: seeds, overwriting, dead shards, copies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
import torch

import replay.memory
from learners.mirror import ReplayMirror
from replay import ReplayError, ReplaySettings, Workload
from replay.reader import Drawn, ReplayReader
from replay.service import ReplayService
from replay.writer import ReplayWriter
from tests.replay.episodes import SCHEMA, assert_windows_are_whole, episode

CPU = torch.device("cpu")
LENGTH, SEQUENCES = 6, 5  # an odd batch: two shards give parts of different sizes in turn

Make = Callable[..., ReplayService]


@pytest.fixture
def make(cluster: None, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes small services and stops them after the test."""
    made: list[ReplayService] = []

    def create(seed: int = 0, **settings: Any) -> ReplayService:
        small = {"shards": 2, "capacity_agent_steps": 160, "minimum_agent_steps": 2}
        chosen = ReplaySettings(**(small | {"timeout_s": 60.0, "cpus_per_shard": 0.1} | settings))
        load = Workload(batch_length=LENGTH, batch_size=SEQUENCES, chunk_length=8)
        name = f"{request.node.name}-{len(made)}"
        made.append(ReplayService.create(name, SCHEMA, chosen, load, seed=seed))
        return made[-1]

    yield create
    for service in made:
        service.stop()


class Mirrored:
    """A service's reader that draws into arrays through a mirror."""

    def __init__(self, service: ReplayService, in_flight: int = 0) -> None:
        self.mirror = ReplayMirror(
            SCHEMA, service.settings, CPU, batch_agent_steps=LENGTH * SEQUENCES
        )
        self.reader = service.reader(in_flight=in_flight)

    def draw(self, timeout_s: float | None = None) -> tuple[dict[str, np.ndarray], Drawn]:
        arrays = SCHEMA.empty(LENGTH, SEQUENCES)
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        drawn = self.reader.draw_to(self.mirror.into(batch), timeout_s)
        return arrays, drawn


def write(writer: ReplayWriter, *numbers: int) -> None:
    for number in numbers:
        for part in episode("a", number, 20):
            writer.write(part)
        writer.flush()  # episodes sent together may arrive in any order


def assert_right(batch: dict[str, np.ndarray], drawn: Drawn) -> None:
    assert_windows_are_whole(batch)
    # An episode's segment has the step itself as reward.
    np.testing.assert_array_equal(batch["reward"][0], drawn.starts)


@pytest.mark.parametrize("sampler", ["episodes", "prioritised"])
def test_for_equal_seeds_batches_are_equal_with_and_without_a_mirror(
    make: Make, sampler: str
) -> None:
    services = [make(seed=3, sampler=sampler, priority_exponent=1.0) for _ in range(2)]
    writers = [service.writer("a") for service in services]
    mirrored, reader = Mirrored(services[0]), services[1].reader(in_flight=0)
    for begin in (0, 6, 9, 15):  # 8 episodes fit
        for writer in writers:
            write(writer, *range(begin, begin + 6))
        for _ in range(4):
            batch, drawn = mirrored.draw()
            expected, expected_drawn = reader.draw()
            assert_right(batch, drawn)
            for name, array in expected.items():
                assert batch[name].tobytes() == array.tobytes(), name
            for value, other in zip(drawn, expected_drawn, strict=True):
                np.testing.assert_array_equal(value, other)
            if sampler == "prioritised":
                assert drawn.importance_weights is not None
                priorities = 1.0 + drawn.starts
                mirrored.reader.update_priorities(drawn, priorities, wait=True)
                reader.update_priorities(drawn, priorities, wait=True)
    assert mirrored.reader.stats()["mapped_shards"] == 2
    assert 0 < mirrored.mirror.uploaded_agent_steps < 16 * LENGTH * SEQUENCES


def test_windows_overwritten_before_they_were_copied_are_drawn_again(make: Make) -> None:
    service = make(shards=1, capacity_agent_steps=40)
    writer = service.writer("a")
    write(writer, 0, 1)
    mirrored = Mirrored(service, in_flight=1)
    mirrored.draw()
    calls = mirrored.reader._pending[0].calls
    ray.wait(calls, num_returns=len(calls), timeout=30)
    write(writer, 2, 3)  # takes the place of both
    batch, drawn = mirrored.draw()
    assert_right(batch, drawn)
    assert set(batch["action"][0, :, 0]) <= {2.0, 3.0}
    assert mirrored.reader.stats()["redrawn_sequences"] == SEQUENCES


def test_batches_stay_whole_while_a_writer_overwrites_all_the_while(make: Make) -> None:
    service = make(capacity_agent_steps=120)
    writer = service.writer("a")
    write(writer, *range(4))
    mirrored = Mirrored(service, in_flight=3)
    stop = threading.Event()

    def keep_writing() -> None:
        number = 4
        while not stop.is_set():
            write(writer, number % 250)
            number += 1

    thread = threading.Thread(target=keep_writing)
    thread.start()
    newest = 0.0
    try:
        begin = time.monotonic()
        while newest < 40 and time.monotonic() < begin + 60:
            batch, drawn = mirrored.draw()
            assert_right(batch, drawn)
            newest = max(newest, float(batch["action"].max()))
    finally:
        stop.set()
        thread.join()
    assert newest >= 40  # every slot was written several times over


def test_the_mirror_of_a_shard_that_was_killed_begins_anew(make: Make) -> None:
    service = make()
    writer, mirrored = service.writer("a"), Mirrored(service)
    write(writer, 0, 1, 2, 3)
    for _ in range(4):
        assert_right(*mirrored.draw())
    ray.kill(service.shards[0], no_restart=False)
    deadline = time.monotonic() + 60
    number, restarted = 4, False
    while not restarted and time.monotonic() < deadline:
        try:
            write(writer, number, number + 1)
            number += 2
            restarted = service.shard_stats()[0]["restarts"] == 1
        except ReplayError:
            continue
    assert restarted
    write(writer, 100, 101)
    for _ in range(6):
        batch, drawn = mirrored.draw(timeout_s=60)
        assert_windows_are_whole(batch)
        # An episode that was cut by the kill may begin in the middle.
        later = batch["action"][0, :, 0] >= 100
        np.testing.assert_array_equal(batch["reward"][0, later], drawn.starts[later])
        of_restarted = batch["action"][0, drawn.shards == 0, 0]
        assert (of_restarted >= 4).all()
    assert mirrored.reader.stats()["mapped_shards"] == 2


def test_shards_elsewhere_send_copies_and_a_warning_says_what_that_means(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = make()
    write(service.writer("a"), *range(4))
    mirrored = Mirrored(service)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(replay.memory, "this_machine", lambda: "another machine")
        for _ in range(3):
            assert_right(*mirrored.draw())
    assert mirrored.mirror.uploaded_agent_steps == 3 * LENGTH * SEQUENCES
    warned = [r.getMessage() for r in caplog.records if "mirror_replay" in r.getMessage()]
    assert len(warned) == 2
    assert all("uploaded with every batch" in text for text in warned)


def test_a_draw_that_timed_out_can_be_repeated(make: Make) -> None:
    service = make()
    mirrored = Mirrored(service)
    reader: ReplayReader = mirrored.reader
    for _ in range(2):
        with pytest.raises(TimeoutError, match="waits for writers"):
            mirrored.draw(timeout_s=0.3)
    write(service.writer("a"), *range(4))
    assert_right(*mirrored.draw())
    reader.close()
