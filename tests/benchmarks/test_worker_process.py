from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest

from benchmarks.peers.worker_process import WorkerFailed, WorkerProcess


@pytest.fixture
def process() -> Iterator[WorkerProcess]:
    started = WorkerProcess(sys.executable, "tests.benchmarks.answering_process")
    yield started
    started.close()


def test_calls_are_answered_in_order_whatever_else_is_printed(process: WorkerProcess) -> None:
    process.ask("add", a=1, b=2)
    process.ask("add", a=3, b=4)
    assert [process.answer(30.0), process.answer(30.0)] == [3, 7]


def test_an_exception_is_told_and_the_process_goes_on(process: WorkerProcess) -> None:
    with pytest.raises(WorkerFailed, match="answering_process: fail: ValueError: no such table"):
        process.call("fail", words="no such table")
    assert process.call("add", a=1, b=1) == 2


def test_a_process_that_ended_says_so_with_what_it_printed(process: WorkerProcess) -> None:
    process.call("add", a=1, b=1)
    os.kill(process.process_id, 9)
    with pytest.raises(WorkerFailed, match=r"(?s)ended.*this goes to standard error"):
        process.call("add", a=1, b=1)


def test_an_answer_that_does_not_come_in_time_is_an_error(process: WorkerProcess) -> None:
    process.call("add", a=1, b=1)
    begin = time.monotonic()
    with pytest.raises(WorkerFailed, match=r"did not answer within 0.1 s"):
        process.call("sleep", 0.1, seconds=60.0)
    assert time.monotonic() - begin < 5.0
