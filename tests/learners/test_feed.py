"""Batches in memory that is filled again: what they hold, for how long, and how much there is."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
import torch

from learners.feed import Arrays, BatchFeed
from learners.prefetch import NoBatch

CPU = torch.device("cpu")


def empty() -> Arrays:
    return {"observation": np.empty((4, 3, 5), np.uint8), "reward": np.empty((4, 3), np.float32)}


class Counting:
    """Fills batch n with n and says that it is from n."""

    def __init__(self) -> None:
        self.numbers = itertools.count()

    def __call__(self, arrays: Arrays, _: float) -> int:
        number = next(self.numbers)
        for array in arrays.values():
            array[...] = number
        return number


def wait_until_full(feed: BatchFeed[int], depth: int) -> None:
    deadline = time.monotonic() + 5.0
    while feed.ready < depth:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_batches_hold_what_was_read_and_come_in_order() -> None:
    feed = BatchFeed(Counting(), empty, CPU, depth=2)
    for number in range(30):
        batch, origin = feed.get(5.0)
        assert origin == number
        assert batch["observation"].dtype == torch.uint8
        assert all((value == number).all() for value in batch.values())
    feed.close()


def test_there_are_two_batches_more_than_are_held_ready() -> None:
    feed = BatchFeed(Counting(), empty, CPU, depth=3)
    places = {feed.get(5.0)[0]["observation"].data_ptr() for _ in range(40)}
    assert len(places) == 3 + 2
    feed.close()


def test_a_batch_in_use_stays_as_it_is_while_others_are_read() -> None:
    feed = BatchFeed(Counting(), empty, CPU, depth=2)
    for number in range(10):
        batch, _ = feed.get(5.0)
        wait_until_full(feed, 2)
        time.sleep(0.005)  # the thread has time to read one more
        assert all((value == number).all() for value in batch.values())
    feed.close()


def test_reads_that_time_out_are_repeated_and_cost_no_memory() -> None:
    counting, calls = Counting(), itertools.count()

    def read(arrays: Arrays, wait_s: float) -> int:
        if next(calls) % 4:
            arrays["reward"][...] = -1.0
            raise TimeoutError("shard 0 is empty")
        return counting(arrays, wait_s)

    feed = BatchFeed(read, empty, CPU, depth=1)
    for number in range(10):
        batch, origin = feed.get(5.0)
        assert origin == number and (batch["reward"] == number).all()
    feed.close()


def test_a_missing_batch_is_an_error_that_says_why_and_the_call_can_be_repeated() -> None:
    there = threading.Event()
    counting = Counting()

    def read(arrays: Arrays, wait_s: float) -> int:
        if not there.wait(min(wait_s, 0.01)):
            raise TimeoutError("shard 0 is empty")
        return counting(arrays, wait_s)

    feed = BatchFeed(read, empty, CPU, depth=1)
    for _ in range(4):  # more often than there are batches
        with pytest.raises(NoBatch, match="shard 0 is empty"):
            feed.get(0.05)
    there.set()
    assert [feed.get(5.0)[1] for _ in range(5)] == list(range(5))
    feed.close()


def test_what_goes_wrong_in_the_thread_is_raised_after_the_batches_before_it() -> None:
    counting = Counting()

    def read(arrays: Arrays, wait_s: float) -> int:
        number = counting(arrays, wait_s)
        if number == 2:
            raise ValueError("a shard is gone")
        return number

    feed = BatchFeed(read, empty, CPU, depth=3)
    assert [feed.get(5.0)[1], feed.get(5.0)[1]] == [0, 1]
    with pytest.raises(ValueError, match="a shard is gone"):
        feed.get(5.0)
    feed.close()


def test_a_closed_feed_gives_nothing() -> None:
    feed = BatchFeed(Counting(), empty, CPU, depth=1)
    feed.close()
    with pytest.raises(RuntimeError, match="closed"):
        feed.get(0.3)


@pytest.mark.parametrize("order", ["sequential", "fused"])
def test_updates_from_memory_that_is_filled_again_equal_those_from_new_memory(
    make_update, batch, order
):
    def fill(arrays: Arrays, seed: int) -> None:
        random = np.random.default_rng(seed)
        arrays["observation"][...] = random.integers(0, 256, arrays["observation"].shape)
        for name in ("action", "reward", "importance_weights"):
            arrays[name][...] = random.uniform(0, 1, arrays[name].shape)
        arrays["discount"][...] = random.integers(0, 2, arrays["discount"].shape)

    again = dict(batch, importance_weights=np.ones(3, np.float32))
    updates = make_update(update_order=order), make_update(update_order=order)
    kept: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for seed in range(3):
        new = {name: array.copy() for name, array in again.items()}
        fill(new, seed)
        kept[0].append(updates[0].step(new))
        fill(again, seed)
        kept[1].append(updates[1].step(again))
        fill(again, 1000)  # as the next read does
    assert updates[0].metrics() == updates[1].metrics()
    assert all(torch.equal(*pair) for pair in zip(*kept, strict=True))
    for name, value in updates[0].agent.state_dict().items():
        assert torch.equal(value, updates[1].agent.state_dict()[name]), name


@pytest.mark.gpu
def test_on_a_gpu_updates_read_the_batch_that_was_read_for_them() -> None:
    device = torch.device("cuda")

    def large() -> Arrays:
        return {"observation": np.empty((32, 32, 100, 100, 3), np.uint8)}

    feed = BatchFeed(Counting(), large, device, depth=2)
    sums = []
    for _ in range(40):
        batch, _ = feed.get(30.0)
        torch.cuda._sleep(10_000_000)  # the batch is read long after `get` has returned
        value = batch["observation"]
        sums.append((value.amin(), value.amax()))
    expected = list(range(40))
    assert [int(low) for low, _ in sums] == [int(high) for _, high in sums] == expected
    feed.close()
