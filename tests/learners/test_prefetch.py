"""Batches kept ready by a thread: order, bounds, deadlines and errors."""

from __future__ import annotations

import itertools
import threading

import pytest

from learners.prefetch import NoBatch, Prefetcher


def test_batches_come_in_the_order_in_which_they_were_made() -> None:
    numbers = itertools.count()
    prefetcher = Prefetcher(lambda _: next(numbers), depth=3)
    assert [prefetcher.get(5.0) for _ in range(20)] == list(range(20))
    prefetcher.close()


def test_no_more_than_depth_batches_are_held_ready() -> None:
    made: list[int] = []
    third = threading.Event()

    def make(_: float) -> int:
        made.append(len(made))
        if len(made) == 3:
            third.set()
        return made[-1]

    prefetcher = Prefetcher(make, depth=2)
    assert third.wait(5.0)  # two are ready, the third waits for its place
    assert prefetcher.ready == 2
    prefetcher.close()
    assert len(made) == 3


def test_a_missing_batch_is_an_error_that_says_why_and_the_call_can_be_repeated() -> None:
    there = threading.Event()
    asked_in_vain = threading.Event()

    def make(wait_s: float) -> str:
        if not there.wait(min(wait_s, 0.01)):
            asked_in_vain.set()
            raise TimeoutError("shard 0 is empty")
        return "batch"

    prefetcher = Prefetcher(make, depth=1)
    assert asked_in_vain.wait(5.0)
    with pytest.raises(NoBatch, match="shard 0 is empty"):
        prefetcher.get(0.05)
    there.set()
    assert prefetcher.get(5.0) == "batch"
    prefetcher.close()


def test_what_goes_wrong_in_the_thread_is_raised_after_the_batches_before_it() -> None:
    def make(_: float, numbers: itertools.count[int] = itertools.count()) -> int:  # noqa: B008
        number = next(numbers)
        if number == 2:
            raise ValueError("a shard is gone")
        return number

    prefetcher = Prefetcher(make, depth=4)
    assert [prefetcher.get(5.0), prefetcher.get(5.0)] == [0, 1]
    for _ in range(2):
        with pytest.raises(ValueError, match="a shard is gone"):
            prefetcher.get(5.0)
    prefetcher.close()


def test_a_closed_prefetcher_gives_nothing_and_may_be_closed_again() -> None:
    prefetcher = Prefetcher(lambda _: 1, depth=1)
    prefetcher.get(5.0)
    prefetcher.close()
    prefetcher.close()
    with pytest.raises(RuntimeError, match="closed"):
        prefetcher.get(0.3)


def test_close_says_so_when_the_source_does_not_return() -> None:
    release = threading.Event()
    prefetcher = Prefetcher(lambda _: release.wait(10.0), depth=1)
    with pytest.raises(TimeoutError, match="has not ended"):
        prefetcher.close(timeout_s=0.05)
    release.set()
    prefetcher.close()


def test_a_depth_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Prefetcher(lambda _: 1, depth=0)
