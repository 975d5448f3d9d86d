"""Priorities on their way back to replay: in order, and only those that mean something."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from learners.priorities import PriorityReturn

Sent = list[tuple[str, list[float]]]


@pytest.fixture
def sent() -> Sent:
    return []


@pytest.fixture
def back(sent: Sent) -> PriorityReturn[str]:
    def send(origin: str, priorities: np.ndarray) -> None:
        assert priorities.dtype == np.float32
        sent.append((origin, priorities.tolist()))

    return PriorityReturn(send)


def test_on_a_cpu_priorities_are_sent_at_once(back: PriorityReturn[str], sent: Sent) -> None:
    back.add("first", torch.tensor([1.0, 2.0]))
    assert sent == [("first", [1.0, 2.0])]
    back.add("second", torch.tensor([3.0]))
    assert sent == [("first", [1.0, 2.0]), ("second", [3.0])]
    back.flush()
    assert len(sent) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_learner_that_has_diverged_leaves_priorities_alone_and_says_so_once(
    back: PriorityReturn[str], sent: Sent, caplog: pytest.LogCaptureFixture, bad: float
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            back.add("bad", torch.tensor([1.0, bad]))
    assert sent == []
    assert [record.message.count("diverged") for record in caplog.records] == [1]
    back.add("good", torch.tensor([1.0]))
    assert sent == [("good", [1.0])]


@pytest.mark.gpu
def test_on_a_gpu_priorities_are_sent_by_a_later_call_and_none_waits_for_the_device(
    back: PriorityReturn[str], sent: Sent
) -> None:
    torch.cuda._sleep(500_000_000)
    back.add("first", torch.tensor([1.0], device="cuda"))
    assert sent == []
    back.clear()
    for number in range(3):
        back.add(str(number), torch.full((2,), float(number), device="cuda"))
    back.flush()
    assert sent == [(str(number), [number, number]) for number in range(3)]
